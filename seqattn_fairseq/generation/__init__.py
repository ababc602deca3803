"""Beam search: fairseq's, hypothesis by hypothesis, at the speed of the machine."""
