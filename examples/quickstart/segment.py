"""Subwords for the quickstart: one sentencepiece model for both languages.

``segment.py TEXT PIECES`` learns the model on TEXT/train.{de,en} and writes all splits in pieces.
``segment.py --describe DATA_BIN MODEL`` puts the model beside the dictionaries, so that ``seqattn``
commands can read raw sentences.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import sentencepiece

from seqattn_fairseq.data.description import BpeDescription, CorpusDescription

VOCABULARY = 2000
LANGUAGES = ("de", "en")


def learn(text: Path, model: Path) -> sentencepiece.SentencePieceProcessor:
    """Learn joint byte-pair pieces on the training text and return the segmenter."""
    sentencepiece.SentencePieceTrainer.train(
        input=[str(text / f"train.{language}") for language in LANGUAGES],
        model_prefix=str(model),
        model_type="bpe",
        vocab_size=VOCABULARY,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=1,
    )
    return sentencepiece.SentencePieceProcessor(model_file=f"{model}.model")


def segment(text: Path, pieces: Path) -> None:
    """Write every file of ``text`` in pieces to ``pieces``, with ``sentencepiece.model``."""
    pieces.mkdir(parents=True, exist_ok=True)
    model = learn(text, pieces / "sentencepiece")
    for split in ("train", "valid", "test"):
        for language in LANGUAGES:
            name = f"{split}.{language}"
            lines = (text / name).read_text(encoding="utf-8").split("\n")[:-1]
            segmented = (" ".join(line) for line in model.encode(lines, out_type=str))
            (pieces / name).write_text("\n".join(segmented) + "\n", encoding="utf-8")


def describe(data_bin: Path, model: Path) -> None:
    """Copy the model into ``data_bin`` and write ``corpus.json``, which names it."""
    shutil.copyfile(model, data_bin / model.name)
    bpe = BpeDescription("sentencepiece", model.name)
    CorpusDescription(*LANGUAGES, bpe=bpe).save(data_bin)


def main() -> None:
    """Run one of the two jobs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--describe", action="store_true")
    parser.add_argument("folder", type=Path, help="TEXT, or DATA_BIN")
    parser.add_argument("other", type=Path, help="PIECES, or MODEL")
    args = parser.parse_args()
    (describe if args.describe else segment)(args.folder, args.other)


if __name__ == "__main__":
    main()
