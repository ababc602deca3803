"""List variants, sizes and the architecture names they make."""

from __future__ import annotations

import argparse

from seqattn_fairseq.transformer.config import SIZES
from seqattn_fairseq.transformer.registry import VARIANTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--archs", action="store_true", help="print the architecture names only")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    archs = [f"seqattn_{name}_{size}" for name in VARIANTS for size in SIZES]
    if args.archs:
        print("\n".join(archs))
        return 0
    width = max(map(len, VARIANTS))
    for name, variant in VARIANTS.items():
        print(f"{name:<{width}}  {variant.summary}")
    print(f"\nsizes: {', '.join(SIZES)}")
    print("architectures: seqattn_<variant> and seqattn_<variant>_<size>")
    print("Hydra: variant=<variant> size=<size>")
    return 0
