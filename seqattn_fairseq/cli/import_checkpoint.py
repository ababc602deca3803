"""Turn a checkpoint of an official code into one of this project.

  seqattn import-checkpoint checkpoint_best.pt ours.pt
  seqattn import-checkpoint weights.pt ours.pt --set encoder_attention_heads=4 ...

IN is a fairseq checkpoint of any age, a bare state dict (.pt), or a golden file of a whole model
(.npz). The code that wrote it is recognised by the names, shapes and arguments in it. Before OUT
gets its name it is read back, and must compute what the converted model computes (seqattn parity
is what holds conversions to the official codes); fairseq-generate, seqattn export and fairseq-train
--finetune-from-model read it, with the dictionaries of the original.
"""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from pathlib import Path
from typing import Any

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.parity.imported import Imported, import_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("input", type=Path, metavar="IN", help="file of the official code")
    parser.add_argument("output", type=Path, metavar="OUT", help="checkpoint to write")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="given",
        metavar="NAME=VALUE",
        help="an official argument that the file does not tell (repeatable)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite OUT")


def _given(texts: list[str]) -> dict[str, Any]:
    """Return the arguments of ``--set``; values are Python's, or else text."""
    given = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise SeqAttnError(f"--set {text}: needs NAME=VALUE")
        try:
            given[name.lstrip("-").replace("-", "_")] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            words = {"true": True, "false": False, "none": None}
            given[name.lstrip("-").replace("-", "_")] = words.get(value.lower(), value)
    return given


def _check_output(source: Path, output: Path, force: bool) -> None:
    if output.resolve() == source.resolve():
        raise SeqAttnError(f"{output}: is the input; choose another OUT")
    if output.is_dir():
        raise SeqAttnError(f"{output}: is a folder; name a file in it")
    if output.exists() and not force:
        raise SeqAttnError(f"{output}: exists; --force overwrites it")


def _report(imported: Imported) -> str:
    conversion = imported.conversion
    options = [f"{name}={value}" for name, value in sorted(conversion.options.items())]
    lines = [
        f"written by: {imported.origin.name}",
        f"variant: {conversion.variant}",
        f"options: {' '.join(options)}",
    ]
    dropped = defaultdict(list)
    for name, why in conversion.dropped.items():
        dropped[why].append(name)
    lines += [f"dropped, {why}: {', '.join(names)}" for why, names in dropped.items()]
    if imported.symbols:
        lines.append(f"dictionary: {imported.symbols}")
    lines.append(f"parameters: {imported.parameters:,}")
    return "\n".join(lines)


def run(args: argparse.Namespace) -> int:
    """Convert, write, compare, and say what was done."""
    _check_output(args.input, args.output, args.force)
    try:
        imported = import_file(args.input, args.output, _given(args.given))
    except OSError as error:
        raise SeqAttnError(f"{args.output}: cannot be written: {error.strerror}") from error
    print(_report(imported))
    print(f"{args.output}: written; read back, its logits differ by {imported.difference:.1g}")
    return 0
