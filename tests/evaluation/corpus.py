"""A tiny German corpus with subwords, capitals and hyphens, a model of it, and runs to score."""

from __future__ import annotations

import atexit
import functools
import random
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from seqattn_fairseq.data.description import BpeDescription, CorpusDescription, Reference
from seqattn_fairseq.data.text_chain import TextChain, TextChains
from tests.support import toy_corpus
from tests.support.folders import lasting_folder

UNITS = ["Das", "Haus", "ist", "sch@@ ön", "Groß@@ stadt", "eine", "U-@@ Bahn", "&quot;", "alt"]
DECODING = ["--max-len-b", "12", "--beam", "2", "--cpu"]
SEARCH = {"max_len_b": 12}
COUNTS = {"test": 13, "test1": 1, "test2": 5, "test3": 8, "test4": 461}


def sentences(count: int, seed: int) -> list[str]:
    """Return segmented sentences of two to six words that end in a full stop."""
    generator = random.Random(seed)
    return [
        " ".join([*generator.choices(UNITS, k=generator.randint(2, 6)), "."]) for _ in range(count)
    ]


def plain(line: str) -> str:
    """Return a segmented sentence as its author would have written it."""
    return chain().decode(line.replace("@@ ", ""))


def chain(lowercase: bool = False) -> TextChain:
    """Return the text chain of either side."""
    return TextChain("de", lowercase=lowercase, tokenize=True)


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@functools.cache
def data_bin() -> Path:
    """Return a data-bin with train, valid and the test sets of COUNTS, without a description.

    The target is the source, so that a model learns it within seconds.
    """
    folder = lasting_folder("ein Korpus ")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for seed, (split, count) in enumerate({"train": 300, "valid": 21, **COUNTS}.items()):
        for side in ("src", "tgt"):
            _write(folder / f"{split}.{side}", sentences(count, seed))
    pieces = [*dict.fromkeys(piece for unit in UNITS for piece in unit.split()), "."]
    _write(folder / "dict.txt", [f"{piece} {99 - i}" for i, piece in enumerate(pieces)])
    tests = ",".join(str(folder / split) for split in COUNTS)
    result = toy_corpus.run(
        "preprocess", "-s", "src", "-t", "tgt", f"--trainpref={folder / 'train'}",
        f"--validpref={folder / 'valid'}", f"--testpref={tests}", "--destdir",
        str(folder / "bin"), "--srcdict", str(folder / "dict.txt"), "--joined-dictionary",
        "--user-dir", toy_corpus.USER_DIR,
    )  # fmt: skip
    assert result.status == 0, result.stderr
    return folder / "bin"


@functools.cache
def trained() -> Path:
    """Return a run that translates fairly, with its last three epochs."""
    run = data_bin().parent / "run"
    result = toy_corpus.train(
        data_bin(), run, "--max-epoch", "24", "--keep-last-epochs", "3", "--lr", "0.02",
        "--share-all-embeddings", "--dropout", "0", "--decoder-layers", "2",
        "--source-lang", "src", "--target-lang", "tgt", arch="seqattn_softmax",
    )  # fmt: skip
    assert result.status == 0, result.stderr
    return run


def described(
    folder: Path, references: Mapping[str, Reference] | None = None, lowercase: bool = False
) -> Path:
    """Return a copy of the data-bin that tells of its text; ``references`` are in ``folder``."""
    copy = folder / "data bin"
    shutil.copytree(data_bin(), copy)
    chains = TextChains(chain(lowercase), chain(lowercase))
    chains.save(copy / "text_chain.json")
    (copy / "bpe.codes").write_text("#version: 0.2\ns ch\n", encoding="utf-8")
    bpe = BpeDescription("subword_nmt", "bpe.codes")
    for reference in (references or {}).values():
        if reference.file:
            shutil.copy(folder / reference.file, copy)
    CorpusDescription("src", "tgt", bpe, "text_chain.json", references or {}).save(copy)
    return copy


def run_copy(folder: Path, name: str = "a run", evaluation: str = "") -> Path:
    """Return a copy of the run; ``evaluation`` is that section of its Hydra configuration."""
    copy = folder / name
    shutil.copytree(trained(), copy)
    if evaluation:
        config = copy / "hydra" / ".hydra" / "config.yaml"
        config.parent.mkdir(parents=True)
        config.write_text(f"evaluation: {evaluation}\nseed: 1\n", encoding="utf-8")
    return copy


def change(checkpoint: Path, section: str, option: str, value: object, noise: float = 0.0) -> None:
    """Change an option that a checkpoint was trained with, and its weights a little."""
    state = torch.load(checkpoint, weights_only=True)
    state["cfg"][section][option] = value
    for tensor in state["model"].values():
        if tensor.is_floating_point():
            tensor.add_(torch.randn_like(tensor), alpha=noise)
    torch.save(state, checkpoint)
