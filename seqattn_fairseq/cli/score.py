"""BLEU of the output of fairseq-generate, in the flavours that papers print.

  seqattn score gen.log                                tokenised BLEU, H lines against T lines
  seqattn score gen.log --compound-split               the same, and with hyphens split (WMT En-De)
  seqattn score gen.log --ref test.de --detokenize de  and sacreBLEU against the raw reference
  seqattn score gen.log --detokenize de                and sacreBLEU with detokenised T lines

Sentences are taken by their ids, whatever the order of the lines; a missing one is an error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from seqattn_fairseq.data.files import read_lines, write_atomically
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation import bleu, generate_log
from seqattn_fairseq.evaluation.generate_log import GenerateLog

# those of sacreBLEU that need no further package
TOKENIZERS = ("13a", "intl", "zh", "char", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``seqattn score``."""
    parser.add_argument("log", type=Path, metavar="LOG", help="what fairseq-generate printed")
    parser.add_argument("--ref", type=Path, metavar="FILE", help="raw reference, for sacreBLEU")
    parser.add_argument(
        "--detokenize",
        metavar="LANG",
        help="detokenise the H lines by Moses' rules of this language (default: use the D lines)",
    )
    parser.add_argument(
        "--compound-split", action="store_true", help="also print BLEU with hyphens split"
    )
    parser.add_argument(
        "--tokenize",
        default="13a",
        choices=TOKENIZERS,
        help="sacreBLEU's tokeniser (default: 13a)",
    )
    parser.add_argument("--lowercase", action="store_true", help="ignore case")
    parser.add_argument(
        "--write-hyp", type=Path, metavar="FILE", help="write the hypotheses in corpus order"
    )
    parser.add_argument(
        "--show", type=int, default=0, metavar="N", help="also print N of the translations"
    )


def _write(path: Path, lines: list[str]) -> None:
    try:
        with write_atomically(path) as stream:
            stream.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        raise SeqAttnError(f"{path}: cannot be written: {error.strerror}") from error


def _tokenized(log: GenerateLog, args: argparse.Namespace) -> dict[str, bleu.Score]:
    if not log.targets:
        return {}
    names = {"tokenised BLEU": False}
    if args.compound_split:
        names["compound-split BLEU"] = True
    return {
        name: bleu.tokenized_bleu(log.hypotheses, log.targets, split, args.lowercase)
        for name, split in names.items()
    }


def _reference(path: Path, count: int, log: Path) -> list[str]:
    reference = list(read_lines(path))
    if len(reference) != count:
        raise SeqAttnError(
            f"{path} has {len(reference)} lines, but {log} {count} sentences; "
            "give the raw reference of this test set"
        )
    return reference


def _detokenized(
    log: GenerateLog, text: list[str], args: argparse.Namespace
) -> dict[str, bleu.Score]:
    """Return sacreBLEU against the raw reference, or against our own when there is none."""
    options = (args.tokenize, args.lowercase)
    if args.ref:
        reference = _reference(args.ref, len(text), args.log)
        return {"sacreBLEU": bleu.corpus_bleu(text, reference, *options)}
    if args.detokenize:
        reference = bleu.detokenize(log.targets, args.detokenize)
        return {"sacreBLEU (own ref)": bleu.corpus_bleu(text, reference, *options)}
    return {}


def _show(log: GenerateLog, text: list[str], count: int) -> None:
    """Print ``count`` sentences, evenly spread over the test set."""
    step = max(1, len(text) // max(1, count))
    for ident in range(0, len(text), step)[:count]:
        lines = {"source": log.sources, "reference": log.targets, "output": text}
        for name, side in lines.items():
            if side:
                print(f"{name:<10} {side[ident]}")
        print()


def run(args: argparse.Namespace) -> int:
    """Print one line per flavour: score, precisions, lengths and signature."""
    log = generate_log.parse(read_lines(args.log), str(args.log))
    if not log.targets and not args.ref:
        raise SeqAttnError(f"{args.log}: no T lines; give the reference with --ref FILE")
    text = log.detokenized
    if args.detokenize:
        text = bleu.detokenize(log.hypotheses, args.detokenize)
    scores = _tokenized(log, args) | _detokenized(log, text, args)
    if args.write_hyp:
        _write(args.write_hyp, text)
    _show(log, text, args.show)
    for name, score in scores.items():
        print(f"{name:<20} {score}")
    return 0
