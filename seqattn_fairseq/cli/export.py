"""Write a run as a folder that translates raw text.

The folder holds model.pt (weights and configuration, no optimiser state), the dictionaries, and
the subword model and text chain of the corpus, so that

    SeqAttnModel.from_pretrained(FOLDER).translate("a raw sentence")

gives what the command line gives. It also serves as the data folder of fairseq-interactive; the
README file in it has the whole command.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from seqattn_fairseq.hub import HUB_NAMES, TextFiles, export_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "run", type=Path, help="checkpoint, or folder with checkpoint_best.pt or checkpoint_last.pt"
    )
    parser.add_argument("folder", type=Path, help="folder to write, new or empty")
    parser.add_argument("--data", type=Path, help="data-bin (default: the one trained on)")
    parser.add_argument(
        "--bpe", choices=sorted(HUB_NAMES), help="subword kind, if the data-bin does not tell"
    )
    parser.add_argument("--bpe-file", type=Path, help="its codes or model")
    parser.add_argument(
        "--text-chain", type=Path, help="text chain (JSON), if the data-bin does not tell"
    )


def run(args: argparse.Namespace) -> int:
    """Write the folder and say how to use it."""
    text = TextFiles(args.bpe, args.bpe_file, args.text_chain)
    command = export_run(args.run, args.folder, args.data, text)
    print(f"{args.folder}: {', '.join(sorted(path.name for path in args.folder.iterdir()))}")
    print(f"in that folder: {command}")
    return 0
