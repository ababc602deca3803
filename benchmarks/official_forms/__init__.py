"""The official algorithms in plain torch: what ours is timed against.

Written from the papers and from descriptions of the official codes, in their layouts (time first),
with the tensors that they materialise. The tests hold them against tensors that the official codes
produced and against our reference forms.
"""
