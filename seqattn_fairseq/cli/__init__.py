"""The ``seqattn`` command: thin, one file per command."""
