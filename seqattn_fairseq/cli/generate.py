"""Translate test sets of a data-bin, in corpus order.

  seqattn generate RUN                           as the run's configuration says
  seqattn generate RUN --subset test test1       these sets
  seqattn generate RUN --beam 4 --length-penalty 0.6 --average last --checkpoints 5
  seqattn generate CHECKPOINT --data DATA_BIN --output FOLDER

writes RUN/evaluation/SUBSET (or FOLDER/SUBSET): hyp.txt (plain text), hyp.tok.txt (tokens),
ref.txt, ref.tok.txt, translations.jsonl and generation.json. As many lines come out as the set
has. What was translated before from the same checkpoint and data with the same options is not
translated again. RUN stands for the average that its configuration asks for, else for its best
checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.generate import BPE_KINDS
from seqattn_fairseq.evaluation.pipeline import (
    FOLDER,
    Candidate,
    Means,
    averaged,
    translate_subset,
)
from seqattn_fairseq.evaluation.settings import AVERAGES, EvaluationSettings, load_settings
from seqattn_fairseq.evaluation.translation import Search


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``seqattn generate``."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or a checkpoint")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help=f"default: {FOLDER}/ beside the checkpoint"
    )
    add_decoding_arguments(parser)


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of averaging and search that ``seqattn evaluate`` has, too."""
    add = parser.add_argument
    add("--data", type=Path, metavar="DATA_BIN", help="default: the one trained on")
    add("--subset", nargs="+", metavar="NAME", help="test sets (default: those of the recipe)")
    add("--average", nargs="+", choices=AVERAGES, help="which checkpoints are averaged")
    add("--checkpoints", type=int, metavar="N", help="how many are averaged")
    add("--beam", type=int, metavar="N", help="beam size")
    add("--length-penalty", type=float, nargs="+", metavar="X", help="fairseq's --lenpen")
    search = Search()
    add("--max-len-a", type=float, default=search.max_len_a, metavar="A", help=argparse.SUPPRESS)
    add(
        "--max-len-b",
        type=int,
        default=search.max_len_b,
        metavar="B",
        help="a translation has at most A * (source tokens) + B tokens (--max-len-a A, 0)",
    )
    add(
        "--max-tokens",
        type=int,
        default=search.max_tokens,
        metavar="N",
        help="source tokens of a batch",
    )
    add("--remove-bpe", choices=BPE_KINDS, help="subwords to undo, if the data-bin does not tell")
    add("--processes", type=int, default=1, metavar="N", help="share the work; one GPU for each")
    add("--fp16", action="store_true", help="half precision")
    add("--cpu", action="store_true", help="stay off the GPU")


def decoding_settings(args: argparse.Namespace) -> EvaluationSettings:
    """Return the settings of the run, with what the command line says instead.

    Raises:
        SeqAttnError: no such run, a malformed configuration, or a wrong value.
    """
    if not args.run.exists():
        raise SeqAttnError(f"{args.run}: no such run folder or checkpoint")
    return load_settings(run_folder(args.run)).overridden(
        average=args.average,
        checkpoints=args.checkpoints,
        beam=args.beam,
        length_penalty=args.length_penalty,
        subsets=args.subset,
    )


def run_folder(run: Path) -> Path:
    """Return the run's folder that a path (it or a checkpoint in it) stands for."""
    return run.parent if run.is_file() else run


def decoding_means(args: argparse.Namespace) -> Means:
    """Return data and search options of the command line.

    Raises:
        SeqAttnError: a number is too small.
    """
    if args.processes < 1:
        raise SeqAttnError(f"--processes {args.processes}: must be at least 1")
    search = Search(
        max_len_a=args.max_len_a,
        max_len_b=args.max_len_b,
        max_tokens=args.max_tokens,
        fp16=args.fp16,
    )
    return Means(args.data, search, args.remove_bpe, args.processes, args.cpu)


def _only(settings: EvaluationSettings, name: str) -> str | float:
    """Return the one value of a setting that may have several."""
    values: tuple[str | float, ...] = getattr(settings, name)
    if len(values) > 1:
        raise SeqAttnError(
            f"--{name.replace('_', '-')}: the recipe leaves a choice of "
            f"{', '.join(map(str, values))}; give one, or let seqattn evaluate choose on the "
            "validation set"
        )
    return values[0]


def run(args: argparse.Namespace) -> int:
    """Translate every set and say where it is."""
    settings, means = decoding_settings(args), decoding_means(args)
    penalty = float(_only(settings, "length_penalty"))
    checkpoint = args.run
    average = "none"
    if not checkpoint.is_file():
        average = str(_only(settings, "average"))
        checkpoint = averaged(args.run, average, settings.checkpoints)
    for subset in settings.subsets:
        folder = (args.output or run_folder(args.run) / FOLDER) / subset
        candidate = Candidate(average, penalty)
        fresh = translate_subset(checkpoint, candidate, subset, folder, settings, means)
        print(f"{folder}: {'translated' if fresh else 'done before'} with {checkpoint.name}")
    return 0
