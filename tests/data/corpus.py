"""A small parallel corpus of our own, laid out as the raw files of Multi30k."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

from seqattn_fairseq.data.recipes import RECIPES

# The small corpus has enough words for these merges, and they are learnt quickly.
RECIPE = RECIPES["multi30k_en_de"].with_merges(60)

SIZES = {
    "train": 600,
    "val": 20,
    "test_2016_flickr": 30,
    "test_2017_flickr": 25,
    "test_2017_mscoco": 13,
}

_PAIRS = [
    ("the", "das", "le"),
    ("Small", "Kleine", "Petit"),
    ("house", "Haus", "maison"),
    ("dog", "Hund", "chien"),
    ("runs", "rennt", "court"),
    ("behind", "hinter", "derri\u00e8re"),
    ("two", "zwei", "deux"),
    ("green", "gr\u00fcne", "verte"),
    ("tree's", "B\u00e4ume", "l'arbre"),
    ("quickly", "schnell", "vite"),
    ("U.S.A.", "usw.", "etc."),
    ('"hello"', "\u201ehallo\u201c", "\u00ab\u00a0salut\u00a0\u00bb"),
    ("R&D", "F&E", "R&D"),
]
_ENDINGS = [".", "!", "", " ...", '."', "  "]


def sentences(count: int, seed: int) -> list[tuple[str, ...]]:
    """Return ``count`` sentences, each in English, German and French."""
    draw = random.Random(seed)
    drawn = []
    for number in range(count):
        words = [draw.choice(_PAIRS) for _ in range(draw.randint(2, 9))]
        ending = draw.choice(_ENDINGS)
        drawn.append(
            tuple(" ".join(side) + f" {number}" + ending for side in zip(*words, strict=True))
        )
    return drawn


def write_raw(folder: Path, langs: str = "en de", packed: bool = True) -> Path:
    """Write the raw files of all splits to ``folder`` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (stem, count) in enumerate(SIZES.items()):
        drawn = sentences(count, seed)
        for lang in langs.split():
            text = "".join(line["en de fr".split().index(lang)] + "\n" for line in drawn)
            write_text(folder / (f"{stem}.{lang}.gz" if packed else f"{stem}.{lang}"), text)
    return folder


def write_text(path: Path, text: str | bytes) -> None:
    """Write UTF-8 text, gzipped (without the time, so that the bytes repeat) for ``.gz``."""
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def tree(folder: Path) -> dict[str, bytes]:
    """Return the files that a preparation promises to repeat, with their bytes."""
    others = {".lock", "manifest.json", "preprocess.log", "raw"}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and others.isdisjoint(path.relative_to(folder).parts)
    }
