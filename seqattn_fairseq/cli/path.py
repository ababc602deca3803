"""Print the absolute path of the plugin: fairseq-train --user-dir "$(seqattn path)" ..."""

from __future__ import annotations

import argparse
import os

import seqattn_fairseq


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take no options: there is one plugin, the one that runs."""


def run(args: argparse.Namespace) -> int:
    """Print the package's folder.

    It is spelled as Python imported it: fairseq refuses a ``--user-dir`` that is the same folder
    under another name when the package is already loaded.
    """
    print(os.path.abspath(seqattn_fairseq.__path__[0]))
    return 0
