"""Every public corpus from archives in miniature: each route keeps its rules."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from fairseq.data import Dictionary, data_utils

from seqattn_fairseq.cli.main import main
from seqattn_fairseq.data.recipes import RECIPES
from tests.data import miniature

Texts = Callable[[str, str], list[tuple[str, ...]]]  # folder, split -> pairs of lines


@dataclass(frozen=True)
class Route:
    """What is known of a preparation without looking at how it is done.

    ``cleaned``: folders before and after, tokens, ratio, splits; ``held_out``: folder before, every
    n-th; ``sizes``: pairs of the splits that nothing is taken from.
    """

    corpus: str
    final: str
    sizes: dict[str, int]
    joined: bool
    cleaned: tuple[str, str, int, int, float, tuple[str, ...]] | None = None
    held_out: tuple[str, int] | None = None
    archives: str = "iwslt14 iwslt15 wmt14 wmt16_google multi30k"

    @property
    def langs(self) -> list[str]:
        return self.corpus.split("_")[1:3]


def fairseq_wmt(corpus: str, every: int, tests: int) -> Route:
    cleaned = ("bpe", "clean", 1, 250, 1.5, ("train", "valid"))
    return Route(corpus, "clean", {"test": tests}, False, cleaned, ("tok", every))


def mega(corpus: str) -> Route:
    cleaned = ("bpe", "clean", 3, 150, 1.5, ("train",))
    return Route(corpus, "clean", {"valid": 18, "test": 21}, True, cleaned)


def iwslt14(corpus: str) -> Route:
    cleaned = ("tok", "clean", 1, 175, 1.5, ("train",))
    return Route(corpus, "bpe", {"test": 40}, False, cleaned, ("lower", 23))


def ready(corpus: str) -> Route:
    return Route(corpus, "bpe", {"train": 250, "valid": 18, "test": 21}, True)


def rebuilt(corpus: str) -> Route:
    cleaned = ("tok", "clean", 1, 80, 9.0, ("train",))
    return Route(corpus, "bpe", {"valid": 18, "test": 21}, True, cleaned, archives="wmt14")


def multi30k(corpus: str) -> Route:
    sizes = {"train": 200, "valid": 15, "test": 17, "test1": 13, "test2": 11}
    return Route(corpus, "bpe", sizes, True)


ROUTES = [
    iwslt14("iwslt14_de_en"),
    Route("iwslt15_en_vi", "bpe", {"train": 200, "valid": 15, "test": 12}, False),
    fairseq_wmt("wmt14_en_de", 100, 21),
    fairseq_wmt("wmt14_en_fr", 1333, 16),
    mega("wmt16_en_de_mega"),
    ready("wmt16_en_de_bpe32k"),
    rebuilt("wmt16_en_de_bpe32k"),
    multi30k("multi30k_en_de"),
]
# The same text or the same route once more.
TWINS = [
    iwslt14("iwslt14_en_de"),
    fairseq_wmt("wmt17_en_de", 100, 21),
    mega("wmt16_de_en_mega"),
    ready("wmt16_de_en_bpe32k"),
    rebuilt("wmt16_de_en_bpe32k"),
    multi30k("multi30k_en_fr"),
]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature.write_archives(tmp_path_factory.mktemp("Archive für alle"))


def test_every_corpus_is_tested() -> None:
    assert {route.corpus for route in ROUTES + TWINS} == set(RECIPES)


def source_of(route: Route, archives: Path, folder: Path) -> Path:
    """The archives of the route alone, so that no other one can be what is used."""
    for name in route.archives.split():
        shutil.copytree(archives / name, folder / "Quellen 1" / name)
    return folder / "Quellen 1"


@pytest.mark.parametrize(
    "route",
    [*ROUTES, *(pytest.param(twin, marks=pytest.mark.slow) for twin in TWINS)],
    ids=lambda route: f"{route.corpus}-{route.archives.split()[-1]}",
)
def test_corpus(
    route: Route, archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mit Blank & Öl, 中" / route.corpus
    source = source_of(route, archives, tmp_path)
    command = ["prepare", route.corpus, "--from", str(source), "--to", str(folder), "--workers"]
    assert main([*command, "1"]) == 0
    shown = capsys.readouterr().out

    def texts(place: str, split: str) -> list[tuple[str, ...]]:
        sides = [(folder / place / f"{split}.{lang}").read_bytes() for lang in route.langs]
        return list(zip(*(side.decode().split("\n")[:-1] for side in sides), strict=True))

    splits = ["train", "valid", *(split for split in route.sizes if split.startswith("test"))]
    for split in splits:
        pairs = texts(route.final, split)
        assert len(pairs) == route.sizes.get(split, len(pairs)) > 0
        assert re.search(rf"^{split} +{len(pairs):,} ", shown, re.M)
        assert_binarised(folder / "data-bin", split, route.langs, pairs)
    assert_cleaned(route, texts)
    assert_held_out(route, texts)
    assert_dictionaries(route, folder / "data-bin")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert main([*command, "2"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    manifest, lock = folder / "manifest.json", folder / ".lock"
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert {path for path in after if before.get(path) != after[path]} <= {manifest, lock}
    assert all(json.loads(manifest.read_text("utf-8"))["lines_per_second"].values())


def assert_binarised(
    data_bin: Path, split: str, langs: list[str], pairs: list[tuple[str, ...]]
) -> None:
    """The data-bin holds the same words, save those that its dictionary has no room for."""
    for side, lang in enumerate(langs):
        dictionary = Dictionary.load(str(data_bin / f"dict.{lang}.txt"))
        path = data_bin / f"{split}.{'-'.join(langs)}.{lang}"
        dataset = data_utils.load_indexed_dataset(str(path), dictionary)
        for number, pair in enumerate(pairs):
            words = [word if word in dictionary else "<unk>" for word in pair[side].split()]
            assert dictionary.string(dataset[number]).split() == words
            assert split != "train" or "<unk>" not in words
        assert len(dataset) == len(pairs)


def assert_cleaned(route: Route, texts: Texts) -> None:
    if route.cleaned is None:
        return
    before, after, low, high, ratio, splits = route.cleaned
    for split in ("train", "valid", "test"):
        try:
            pairs = texts(before, split)
        except FileNotFoundError:
            assert route.held_out and split == "valid", "made by a later stage"
            continue
        if split not in splits:
            assert texts(after, split) == pairs
            continue
        kept = [tuple(" ".join(line.replace("|", "").split()) for line in pair) for pair in pairs]
        lengths = [[len(line.split()) for line in pair] for pair in kept]
        good = [low <= min(n) and max(n) <= min(high, ratio * min(n)) for n in lengths]
        assert texts(after, split) == [pair for pair, ok in zip(kept, good, strict=True) if ok]
        assert split != "train" or not all(good)
    words = {word for pair in texts(after, "train") for line in pair for word in line.split()}
    assert miniature.LONG not in words


def assert_held_out(route: Route, texts: Texts) -> None:
    if route.held_out:
        before, every = route.held_out
        pairs = texts(before, "train")
        assert texts("split", "valid") == pairs[every - 1 :: every]
        del pairs[every - 1 :: every]
        assert texts("split", "train") == pairs


def assert_dictionaries(route: Route, data_bin: Path) -> None:
    first, second = ((data_bin / f"dict.{lang}.txt").read_bytes() for lang in route.langs)
    assert (first == second) == route.joined


def test_raw_references(archives: Path, tmp_path: Path) -> None:
    source, folder = str(archives), tmp_path / "to"
    assert main(["prepare", "wmt14_en_de", "--from", source, "--to", str(folder)]) == 0
    corpus = json.loads((folder / "data-bin" / "corpus.json").read_text("utf-8"))
    assert corpus["references"]["test"]["sacrebleu"] == "wmt14/full"
    reference = folder / "data-bin" / corpus["references"]["test"]["file"]
    german = [pair[0] for pair in miniature.german(20, 60)]
    assert reference.read_text("utf-8").split("\n")[:20] == german
