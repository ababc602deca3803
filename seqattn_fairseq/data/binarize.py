"""``fairseq-preprocess`` on segmented text, completed with what raw text in and out needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fairseq.data import Dictionary, indexed_dataset

from seqattn_fairseq.data.checks import TextCount
from seqattn_fairseq.data.files import partial_path
from seqattn_fairseq.data.workers import start_worker

PREPROCESS_LOG = "preprocess.log"


@dataclass(frozen=True)
class Dictionaries:
    """What ``fairseq-preprocess`` makes of the words.

    Attributes:
        joined: one dictionary for both languages.
        words: greatest number of types, fairseq's specials included; None: no limit.
    """

    joined: bool
    words: int | None = None

    def arguments(self) -> list[str]:
        """Return the options of ``fairseq-preprocess``."""
        arguments = ["--joined-dictionary"] if self.joined else []
        if self.words:
            arguments += ["--nwordssrc", str(self.words), "--nwordstgt", str(self.words)]
        return arguments


def binarize(
    data_bin: Path,
    texts: str,
    splits: Sequence[str],
    langs: tuple[str, str],
    dictionaries: Dictionaries,
    workers: int,
) -> Path:
    """Binarise ``<split>.<lang>`` in the folder ``texts`` beside ``data_bin``; a partial folder.

    ``splits`` are "train", "valid" and the test sets, which become test, test1, test2 ... in
    their order. Returns the partial folder, to be completed and renamed by :func:`install`.
    fairseq's log, which holds times and therefore never repeats, goes beside ``data_bin``.
    """
    folder, partial = data_bin.parent, partial_path(data_bin)
    tests = ",".join(f"{texts}/{split}" for split in splits if split.startswith("test"))
    arguments = [
        *("--source-lang", langs[0], "--target-lang", langs[1], *dictionaries.arguments()),
        *("--trainpref", f"{texts}/train", "--validpref", f"{texts}/valid"),
        *(("--testpref", tests) if tests else ()),
        *("--destdir", partial.name, "--workers", str(workers)),
    ]
    # A process of its own: fairseq-preprocess changes the logging of its process, and names
    # with commas in them (it separates test sets by commas) are avoided by working in folder.
    with ProcessPoolExecutor(1, initializer=start_worker) as executor:
        executor.submit(_preprocess, folder, arguments).result()
    os.replace(partial / PREPROCESS_LOG, folder / PREPROCESS_LOG)
    return partial


def _preprocess(folder: Path, arguments: list[str]) -> None:
    os.chdir(folder)
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
    from fairseq import options
    from fairseq_cli import preprocess

    preprocess.main(options.get_preprocessing_parser().parse_args(arguments))


def install(partial: Path, data_bin: Path) -> None:
    """Name a completed partial folder ``data_bin``."""
    if data_bin.exists():
        shutil.rmtree(data_bin)
    os.replace(partial, data_bin)


def dictionary_types(data_bin: Path, lang: str) -> int:
    """Return the number of types of a dictionary as fairseq counts them, specials included."""
    return len(Dictionary.load(str(data_bin / f"dict.{lang}.txt")))


def binary_size(data_bin: Path, langs: tuple[str, str], pair: tuple[str, str]) -> TextCount:
    """Return lines and tokens (without end-of-sentence) of a binarised (split, language)."""
    split, lang = pair
    prefix = str(data_bin / f"{split}.{'-'.join(langs)}.{lang}")
    dataset = indexed_dataset.make_dataset(prefix, "mmap")
    return TextCount(len(dataset), int(dataset.sizes.sum()) - len(dataset))
