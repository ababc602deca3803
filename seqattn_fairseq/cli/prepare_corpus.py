r"""Prepare your own parallel corpus, two text files of any languages, for training.

  seqattn prepare-corpus corpus.de corpus.en --source-lang de --target-lang en --to data/mine
  seqattn prepare-corpus corpus.de.gz corpus.en.gz --source-lang de --target-lang en \
      --to data/mine --bpe sentencepiece --vocab-size 8000 --test test.de test.en

Line n of both files is the same sentence; files are UTF-8, plain or gzipped. What is not given for
validation and test is drawn from the corpus. The result is DIR/data-bin, for seqattn train and
fairseq-train. Repeating the command does only what is missing; it can be interrupted at any time.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from seqattn_fairseq.cli.prepare import add_workers, prepare_and_show
from seqattn_fairseq.data.cleaning import CleanRule
from seqattn_fairseq.data.own_corpus import OwnCorpus
from seqattn_fairseq.data.sentencepieces import MODEL_TYPES, SentencePiece
from seqattn_fairseq.data.stages import SubwordNmt
from seqattn_fairseq.errors import SeqAttnError

_DEFAULTS: dict[str, dict[str, Any]] = {
    "subword_nmt": {"merges": 10_000, "tokenize": True},
    "sentencepiece": {"vocab_size": 8_000, "model_type": "unigram"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``seqattn prepare-corpus``."""
    parser.add_argument("source", type=Path, metavar="SRC_FILE", help="text of the source side")
    parser.add_argument("target", type=Path, metavar="TGT_FILE", help="text of the target side")
    parser.add_argument("--source-lang", required=True, metavar="xx", help="its language code")
    parser.add_argument("--target-lang", required=True, metavar="yy", help="its language code")
    parser.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="folder of the result"
    )
    _add_split_arguments(parser.add_argument_group("validation and test"))
    _add_text_arguments(parser.add_argument_group("text"))
    _add_cleaning_arguments(parser.add_argument_group("cleaning of the training set"))
    add_workers(parser)


def _add_split_arguments(group: argparse._ArgumentGroup) -> None:
    for split, action, also in (
        ("valid", "store", ""),
        ("test", "append", "; may be repeated: test, test1, ..."),
    ):
        group.add_argument(
            f"--{split}",
            nargs=2,
            type=Path,
            action=action,
            metavar=("SRC", "TGT"),
            help=f"files of the {split} set (default: drawn from the corpus){also}",
        )
    for split in ("valid", "test"):
        group.add_argument(
            f"--{split}-size",
            type=int,
            metavar="N",
            help="pairs to draw for it (default: a twentieth of the corpus, 2,000 at most)",
        )
    group.add_argument(
        "--seed", type=int, default=1, metavar="N", help="of the draw (default: %(default)s)"
    )


def _add_text_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--bpe",
        choices=list(_DEFAULTS),
        default="subword_nmt",
        help="subword_nmt cuts tokenised text, sentencepiece raw text (default: %(default)s)",
    )
    group.add_argument(
        "--merges", type=int, metavar="N", help="of subword_nmt, at most (default: 10000)"
    )
    group.add_argument(
        "--vocab-size", type=int, metavar="N", help="of sentencepiece, at most (default: 8000)"
    )
    group.add_argument(
        "--model-type", choices=MODEL_TYPES, help="of sentencepiece (default: unigram)"
    )
    group.add_argument(
        "--no-tokenize",
        dest="tokenize",
        action="store_false",
        default=None,
        help="for subword_nmt: the text is tokenised, or its words stand between blanks anyway",
    )
    group.add_argument("--lowercase", action="store_true", help="lower-case both sides")
    group.add_argument(
        "--normalize-punctuation",
        action="store_true",
        help="Moses' normalisation of quotes, dashes and blanks",
    )
    group.add_argument(
        "--separate-dictionaries",
        action="store_true",
        help="a dictionary for each language (default: a joined one)",
    )


def _add_cleaning_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--min-length", type=int, default=1, metavar="N", help="in pieces (default: %(default)s)"
    )
    group.add_argument(
        "--max-length", type=int, default=250, metavar="N", help="in pieces (default: %(default)s)"
    )
    group.add_argument(
        "--max-ratio",
        type=float,
        default=9.0,
        metavar="R",
        help="of the two lengths (default: %(default)s, that of Moses)",
    )


def run(args: argparse.Namespace) -> int:
    """Prepare the corpus and print where it is and how large."""
    recipe = _own_corpus(args).recipe()
    # Its files may lie anywhere; the recipe names their folders from the root on.
    return prepare_and_show(recipe, args.to, Path("/"), args.workers)


def _own_corpus(args: argparse.Namespace) -> OwnCorpus:
    _check(args)
    files = {"train": (args.source, args.target)}
    if args.valid:
        files["valid"] = tuple(args.valid)
    for number, pair in enumerate(args.test or ()):
        files[f"test{number or ''}"] = tuple(pair)
    return OwnCorpus(
        langs=(args.source_lang, args.target_lang),
        files=files,
        held_out={
            split: getattr(args, f"{split}_size")
            for split in ("valid", "test")
            if split not in files
        },
        seed=args.seed,
        **_text_options(args),
        rule=CleanRule(args.min_length, args.max_length, args.max_ratio, factored=True),
        joined=not args.separate_dictionaries,
    )


def _text_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the subword stage and the steps before it; options of the other kind are refused."""
    options = _DEFAULTS[args.bpe]
    for name in {name for defaults in _DEFAULTS.values() for name in defaults}:
        value = getattr(args, name)
        if value is not None and name not in options:
            shown = "no-tokenize" if name == "tokenize" else name.replace("_", "-")
            raise SeqAttnError(f"--{shown} has no meaning with --bpe {args.bpe}; leave it out")
    given = {name: getattr(args, name) for name in options if getattr(args, name) is not None}
    options = {**options, **given, "lowercase": args.lowercase}
    options["normalize_punctuation"] = args.normalize_punctuation
    steps = ("lowercase", "normalize_punctuation", "tokenize")
    subwords = (
        SubwordNmt(options["merges"])
        if "merges" in options
        else SentencePiece(options["vocab_size"], options["model_type"], args.seed)
    )
    return {"subwords": subwords, "text_steps": tuple(s for s in steps if options.get(s))}


def _check(args: argparse.Namespace) -> None:
    """Refuse values that make no sense, naming the option."""
    for option in ("source_lang", "target_lang"):
        code = getattr(args, option)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", code):
            name = option.replace("_", "-")
            raise SeqAttnError(f"--{name} {code!r}: give a language code, such as de or zh_CN")
    if args.source_lang == args.target_lang:
        raise SeqAttnError(
            f"--source-lang and --target-lang are both {args.source_lang}; files are told apart "
            "by them, so give two, such as en and en_simple"
        )
    least = {"merges": 1, "vocab_size": 1, "min_length": 1, "max_length": args.min_length}
    least |= {"max_ratio": 1, "valid_size": 1, "test_size": 0}
    for name, bound in least.items():
        value = getattr(args, name)
        if value is not None and value < bound:
            raise SeqAttnError(f"--{name.replace('_', '-')} {value}: must be {bound} or more")
    for split in ("valid", "test"):
        if getattr(args, split) and getattr(args, f"{split}_size") is not None:
            raise SeqAttnError(f"give either --{split} or --{split}-size, not both")
