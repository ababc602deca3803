"""Entry point of ``seqattn``: finds the command, runs it, turns user errors into one line."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from seqattn_fairseq.errors import SeqAttnError, nearest

# command -> one line of help; the module of the same name in this package brings
# ``add_arguments(parser)`` and ``run(args) -> int``.
COMMANDS = {
    "attention": "draw the cross-attention of one sentence",
    "average": "average the weights of several checkpoints",
    "configs": "write the Hydra groups size/ and variant/ from the presets table",
    "corpus": "write the embedded German-English corpus of the quickstart",
    "doctor": "print versions and every active workaround with its reason",
    "export": "write a run as a folder that from_pretrained() and the hub read",
    "list": "list variants, architectures and presets",
    "path": "print the absolute --user-dir of this plugin",
    "prepare": "fetch, clean, tokenise, segment and binarise a corpus",
    "score": "BLEU of fairseq-generate output, with signature",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="seqattn", description=__doc__)
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = f"Attention variants for fairseq.\n\ncommands:\n{listing}"
    parser.add_argument("command", metavar="COMMAND", help="one of the above; COMMAND -h explains")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _run(command: str, arguments: Sequence[str]) -> int:
    if command not in COMMANDS:
        raise SeqAttnError(
            f"unknown command '{command}'{nearest(command, COMMANDS)}; seqattn -h lists them"
        )
    module = importlib.import_module(f"seqattn_fairseq.cli.{command}")
    parser = argparse.ArgumentParser(
        prog=f"seqattn {command}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return int(module.run(parser.parse_args(arguments)) or 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status (1 for a reported user error)."""
    args = _parser().parse_args(argv)
    try:
        return _run(args.command, args.arguments)
    except SeqAttnError as error:
        print(f"seqattn {args.command}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"seqattn {args.command}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
