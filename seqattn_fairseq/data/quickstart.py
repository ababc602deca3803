"""The embedded quickstart corpus: splits of the project's own grammar, written as plain text."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from seqattn_fairseq.data.files import write_atomically
from seqattn_fairseq.data.grammar import sentence_pairs

SEED = 1
SIZES = {"train": 20_000, "valid": 500, "test": 500}
LANGUAGES = ("de", "en")


def write_corpus(folder: Path, seed: int = SEED) -> dict[str, int]:
    """Write ``{train,valid,test}.{de,en}`` to ``folder`` and return the pairs per split.

    All pairs differ in their German sentence, so no test sentence is in train. The bytes depend
    on ``seed`` alone. Each file appears complete or not at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pairs = sentence_pairs(seed)
    for split, size in SIZES.items():
        sides = zip(*islice(pairs, size), strict=True)
        for language, lines in zip(LANGUAGES, sides, strict=True):
            with write_atomically(folder / f"{split}.{language}") as stream:
                stream.writelines(f"{line}\n" for line in lines)
    return dict(SIZES)
