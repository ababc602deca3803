"""``fairseq-preprocess`` on segmented text, completed with what raw text in and out needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from fairseq.data import Dictionary

from seqattn_fairseq.data.description import CorpusDescription
from seqattn_fairseq.data.files import partial_path
from seqattn_fairseq.data.text_chain import TextChains
from seqattn_fairseq.data.workers import start_worker

PREPROCESS_LOG = "preprocess.log"


def binarize(
    folder: Path, texts: str, splits: Sequence[str], langs: tuple[str, str], workers: int
) -> Path:
    """Binarise ``folder/texts/<split>.<lang>`` with a joined dictionary into a partial folder.

    ``splits`` are "train", "valid" and the test sets, which become test, test1, test2 ... in
    their order. Returns the partial folder, to be completed and renamed by :func:`install`.
    fairseq's log, which holds times and therefore never repeats, goes to ``folder``.
    """
    partial = partial_path(folder / "data-bin")
    tests = ",".join(f"{texts}/{split}" for split in splits if split.startswith("test"))
    arguments = [
        *("--source-lang", langs[0], "--target-lang", langs[1], "--joined-dictionary"),
        *("--trainpref", f"{texts}/train", "--validpref", f"{texts}/valid", "--testpref", tests),
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


def install(
    partial: Path, data_bin: Path, codes: Path, chains: TextChains, corpus: CorpusDescription
) -> None:
    """Add BPE codes, text chains and description to ``partial`` and name it ``data_bin``."""
    if corpus.bpe:
        shutil.copyfile(codes, partial / corpus.bpe.file)
    if corpus.text_chain:
        chains.save(partial / corpus.text_chain)
    corpus.save(partial)
    if data_bin.exists():
        shutil.rmtree(data_bin)
    os.replace(partial, data_bin)


def dictionary_types(data_bin: Path, lang: str) -> int:
    """Return the number of types of a dictionary as fairseq counts them, specials included."""
    return len(Dictionary.load(str(data_bin / f"dict.{lang}.txt")))
