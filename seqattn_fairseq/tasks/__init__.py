"""fairseq tasks: ``seqattn_translation``."""
