"""Write the embedded German-English corpus of the quickstart, made from a grammar of our own.

The same bytes come out on every machine: train, valid and test as plain text, one sentence a line.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from seqattn_fairseq.data.quickstart import LANGUAGES, write_corpus
from seqattn_fairseq.errors import SeqAttnError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``seqattn corpus``."""
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to write to")


def run(args: argparse.Namespace) -> int:
    """Write the six files and say how many pairs each split has."""
    try:
        sizes = write_corpus(args.to)
    except OSError as error:
        raise SeqAttnError(f"{args.to}: cannot write the corpus: {error.strerror}") from error
    listing = ", ".join(f"{split} {count:,}" for split, count in sizes.items())
    print(f"{args.to}: {'-'.join(LANGUAGES)} pairs: {listing}")
    return 0
