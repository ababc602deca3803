"""Entry point of ``seqattn``: finds the command, runs it, turns user errors into one line."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from seqattn_fairseq.errors import SeqAttnError, nearest
from seqattn_fairseq.launch.quietness import warnings_alone

# command -> one line of help; the module of the same name (_ for -) in this package brings
# ``add_arguments(parser)`` and ``run(args) -> int``.
COMMANDS = {
    "analyse": "attention statistics, alignment errors, texts and lengths of runs",
    "attention": "draw the cross-attention of one sentence",
    "average": "average the weights of several checkpoints",
    "compare": "paired significance tests between systems",
    "configs": "write the Hydra groups size/, variant/ and preset/ from the tables",
    "corpus": "write the embedded German-English corpus of the quickstart",
    "doctor": "print versions and every active workaround with its reason",
    "evaluate": "average, choose on the validation set, translate and score a run",
    "export": "write a run as a folder that from_pretrained() and the hub read",
    "generate": "translate test sets, in corpus order",
    "import-checkpoint": "turn a checkpoint of an official code into one of this project",
    "list": "list variants, architectures and presets",
    "parity": "compare this project with tensors that the official codes produced",
    "path": "print the absolute --user-dir of this plugin",
    "plan": "memory, speed and the largest batch of a training, before it runs",
    "prepare": "fetch, clean, tokenise, segment and binarise a corpus",
    "prepare-corpus": "the same for two text files of your own",
    "report": "write one HTML page that compares runs",
    "reproduce": "prepare, train, evaluate and record an experiment",
    "score": "BLEU in the flavours of papers, chrF, TER, COMET; mean over seeds",
    "train": "train a recipe on all GPUs of this node, or on several nodes",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="seqattn", description=__doc__)
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = f"Attention variants for fairseq.\n\ncommands:\n{listing}"
    parser.add_argument(
        "command", metavar="COMMAND", nargs="?", help="one of the above; COMMAND -h explains"
    )
    parser.add_argument("--version", action="version", version=version("seqattn_fairseq"))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _run(command: str, arguments: Sequence[str]) -> int:
    if command not in COMMANDS:
        raise SeqAttnError(
            f"unknown command '{command}'{nearest(command, COMMANDS)}; seqattn -h lists them"
        )
    module = importlib.import_module(f"seqattn_fairseq.cli.{command.replace('-', '_')}")
    parser = argparse.ArgumentParser(
        prog=f"seqattn {command}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return int(module.run(parser.parse_args(arguments)) or 0)


def _reported(args: argparse.Namespace) -> int:
    """Run the command; print a user's mistake, a file error or an interruption as one line."""
    try:
        with warnings_alone():
            return _run(args.command, args.arguments)
    except BrokenPipeError:
        raise
    except (SeqAttnError, OSError) as error:
        print(f"seqattn {args.command}: error: {_message(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"seqattn {args.command}: interrupted", file=sys.stderr)
        return 130


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _main(argv: Sequence[str] | None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if not args.command:
        parser.print_help(sys.stderr)
        return 2
    return _reported(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status.

    1 stands for a reported error, 2 for a wrong command line, 130 for an interruption, and 141
    for a reader of the output that has gone (``seqattn list | head -1``), as in the shell.
    """
    try:
        try:
            return _main(argv)
        finally:
            sys.stdout.flush()
    except OSError as error:
        # Python writes what is left at its end, too, and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 141
        print(f"seqattn: error: standard output: {error.strerror}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
