"""What a model attends to, how it aligns words, and what its translations are like.

  seqattn analyse RUN                                  attention, maps and texts of the test set
  seqattn analyse RUN --gold GOLD --gold-format talp   and alignment error rates
  seqattn analyse RUN --concatenate 1,2,4,8            and quality and speed on longer inputs
  seqattn analyse RUN1 RUN2 RUN3                       each, and how far their outputs agree
  seqattn analyse CHECKPOINT --data DATA_BIN           a checkpoint by itself
  seqattn analyse --links LINKS --gold GOLD --gold-format talp     score a file of alignments

writes RUN/analysis/SUBSET (or CHECKPOINT.analysis/SUBSET): attention.json, maps.jsonl.gz,
alignment.json, text.json and generalisation.json, and prints tables of them. What is there, made
from the same model and data, is not made again. The model reads the references; it is the one
that the run's translations were made with, else its best or last. docs/analysis.md has the
definitions.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from seqattn_fairseq.analysis import maps
from seqattn_fairseq.analysis.agreement import agreement
from seqattn_fairseq.analysis.alignment import analyse_alignment, score_files
from seqattn_fairseq.analysis.attention import analyse_attention
from seqattn_fairseq.analysis.generalisation import (
    GeneralisationOptions,
    analyse_generalisation,
    check_counts,
)
from seqattn_fairseq.analysis.gold import Gold
from seqattn_fairseq.analysis.subject import Subject, find_subject
from seqattn_fairseq.analysis.tables import (
    agreement_lines,
    alignment_lines,
    attention_lines,
    error_rate_line,
    length_lines,
    text_lines,
)
from seqattn_fairseq.analysis.texts import analyse_texts
from seqattn_fairseq.data.alignments import ALIGNMENT_FORMATS
from seqattn_fairseq.errors import SeqAttnError, nearest
from seqattn_fairseq.evaluation.pipeline import named_system

PARTS = ("attention", "maps", "alignment", "texts", "lengths")


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        message = f"'{text}' is no list of numbers like 1,2,4"
        raise argparse.ArgumentTypeError(message) from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``seqattn analyse``."""
    add = parser.add_argument
    add("runs", nargs="*", type=Path, metavar="RUN", help="folders of runs, or checkpoints")
    add("--subset", default="test", metavar="NAME", help="test set (default: test)")
    add("--only", metavar="PART,...", help=f"some of {', '.join(PARTS)}")
    add("--checkpoint", type=Path, metavar="FILE", help="the model of the (one) run")
    add("--data", type=Path, metavar="DATA_BIN", help="default: the one trained on")
    add("--gold", type=Path, metavar="FILE", help="gold alignment of the test set's words")
    add("--gold-format", choices=ALIGNMENT_FORMATS, help="its format")
    add(
        "--gold-text",
        type=Path,
        nargs=2,
        metavar=("SOURCE", "TARGET"),
        help="its words, a sentence a line, if it is not of the test set",
    )
    add("--gold-reversed", action="store_true", help="it names the target's word first")
    add("--links", type=Path, metavar="FILE", help="score these links (i-j from 0), no run")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--sentences", type=_numbers, metavar="N,...", help="sentences to keep maps of, from 0"
    )
    chosen.add_argument(
        "--maps", type=int, default=maps.DEFAULT, metavar="N", help="or how many (default: 20)"
    )
    add(
        "--concatenate",
        type=_numbers,
        metavar="K,...",
        help="translate inputs of K consecutive sentences",
    )
    add("--first", type=int, metavar="N", help="of the set's first N sentences alone")
    add("--max-tokens", type=int, default=4096, metavar="N", help="tokens of a batch")
    add("--cpu", action="store_true", help="stay off the GPU")


# ---- what is asked for -------------------------------------------------------------------------


def _parts(args: argparse.Namespace) -> list[str]:
    """Return the parts to do, in order.

    Raises:
        SeqAttnError: an unknown one, or one that lacks the option it needs.
    """
    needs = {"alignment": ("gold", "FILE"), "lengths": ("concatenate", "1,2,4,8")}
    given = [part for part in needs if getattr(args, needs[part][0])]
    if args.concatenate:
        check_counts(args.concatenate)
        GeneralisationOptions(sentences=args.first)  # refuses a wrong number before any work
    elif args.first is not None:
        raise SeqAttnError("--first needs --concatenate 1,2,4,8")
    if args.only is None:
        return [part for part in PARTS if part not in needs or part in given]
    named = args.only.split(",")
    for part in named:
        if part not in PARTS:
            raise SeqAttnError(
                f"--only {part}: no such part{nearest(part, PARTS)}; there are {', '.join(PARTS)}"
            )
        if part in needs and part not in given:
            option, value = needs[part]
            raise SeqAttnError(f"--only {part} needs --{option} {value}")
    for part in given:
        if part not in named:
            raise SeqAttnError(f"--{needs[part][0]} is for {part}, which --only leaves out")
    return [part for part in PARTS if part in named]


def _gold(args: argparse.Namespace) -> Gold | None:
    if args.gold is None:
        for name in ("gold_format", "gold_text", "gold_reversed", "links"):
            if getattr(args, name):
                raise SeqAttnError(f"--{name.replace('_', '-')} needs --gold FILE")
        return None
    if args.gold_format is None:
        raise SeqAttnError(f"--gold {args.gold}: give --gold-format {'|'.join(ALIGNMENT_FORMATS)}")
    text = tuple(args.gold_text) if args.gold_text else None
    return Gold(args.gold, args.gold_format, args.gold_reversed, text)


def _check_files(gold: Gold) -> None:
    for path in (gold.path, *(gold.text or ())):
        if not path.is_file():
            raise SeqAttnError(f"{path}: no such file; --gold and --gold-text name files")


def _check_runs(args: argparse.Namespace) -> None:
    if not args.runs:
        raise SeqAttnError("nothing to analyse: give a run, or --links FILE --gold FILE")
    if args.checkpoint and len(args.runs) > 1:
        raise SeqAttnError("--checkpoint is for one run; name checkpoints instead of runs")
    if args.checkpoint and args.runs[0].is_file():
        raise SeqAttnError(f"{args.runs[0]}: a checkpoint already; leave --checkpoint out")


# ---- doing it ----------------------------------------------------------------------------------


def _attention(subject: Subject, args: argparse.Namespace) -> list[str]:
    result = analyse_attention(subject).result
    left_out = f", {result['left_out']:,} too long" if result["left_out"] else ""
    title = f"attention of {result['variant']}, {result['sentences']:,} sentences{left_out}:"
    return [title, *attention_lines(result)]


def _maps(subject: Subject, args: argparse.Namespace) -> list[str]:
    result = maps.analyse_maps(subject, args.sentences, args.maps).result
    numbers = ", ".join(map(str, result["ids"]))
    lines = [f"maps of cross-attention, each {result['target']} as target: sentences {numbers}"]
    if differing := result["differing"]:
        some = ", ".join(map(str, differing))
        lines.append(f"translated otherwise than in the evaluation: sentences {some}")
    return lines


def _alignment(subject: Subject, args: argparse.Namespace) -> list[str]:
    gold = _gold(args)
    assert gold is not None
    result = analyse_alignment(subject, gold).result
    title = f"alignment with {result['gold']}, {result['sentences']:,} sentences:"
    return [title, *alignment_lines(result)]


def _texts(run: Path, args: argparse.Namespace) -> list[str]:
    try:
        return text_lines(analyse_texts(run, args.subset))
    except SeqAttnError as error:
        if args.only:
            raise
        return [f"texts left out: {error}"]


def _lengths(subject: Subject, args: argparse.Namespace) -> list[str]:
    result = analyse_generalisation(
        subject.run,
        subject.subset,
        subject.checkpoint,
        subject.data_bin,
        args.concatenate,
        GeneralisationOptions(cpu=args.cpu, sentences=args.first),
    )
    return ["inputs of consecutive sentences:", *length_lines(result)]


def _agreement(args: argparse.Namespace) -> list[str]:
    try:
        systems = [named_system(run, args.subset) for run in args.runs]
        return ["agreement of outputs:", *agreement_lines(agreement(systems).to_dict())]
    except SeqAttnError as error:
        if args.only:
            raise
        return [f"agreement left out: {error}"]


_OF_A_MODEL = {
    "attention": _attention,
    "maps": _maps,
    "alignment": _alignment,
    "lengths": _lengths,
}


def _analyse(run: Path, parts: Sequence[str], args: argparse.Namespace) -> None:
    """Do the parts for one run; what each found is printed when it is done."""
    print(f"{run}, {args.subset}")
    subject = None
    if any(part in _OF_A_MODEL for part in parts):
        subject = find_subject(
            run, args.subset, args.checkpoint, args.data, args.max_tokens, args.cpu
        )
        print(f"{subject.checkpoint.name}, results in {subject.folder}")
    for part in parts:
        if part in _OF_A_MODEL and subject:
            lines = _OF_A_MODEL[part](subject, args)
        else:
            lines = _texts(run, args)
        print("\n".join(lines) + "\n", flush=True)


def run(args: argparse.Namespace) -> int:
    """Analyse every run, then compare them; or score a file of links."""
    gold = _gold(args)
    if args.links:
        if args.runs or gold is None or gold.text:
            raise SeqAttnError("--links: needs --gold FILE and --gold-format, no runs and no text")
        print(error_rate_line(asdict(score_files(args.links, gold))))
        return 0
    _check_runs(args)
    parts = _parts(args)
    if args.sentences and "maps" not in parts:
        raise SeqAttnError("--sentences is for maps, which --only leaves out")
    if gold:
        _check_files(gold)
    maps.check_count(args.maps if args.sentences is None else len(args.sentences))
    for one in args.runs:
        _analyse(one, parts, args)
    if len(args.runs) > 1 and "texts" in parts:
        print("\n".join(_agreement(args)))
    return 0
