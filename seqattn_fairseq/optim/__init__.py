"""Optimisers that fairseq lacks; importing one registers it under its name."""
