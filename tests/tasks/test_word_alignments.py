"""Links between words reach the batches as links between pieces, however batches are made."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fairseq.data import Dictionary, LanguagePairDataset, ListDataset

from seqattn_fairseq.data.alignments import Link, load_alignments
from seqattn_fairseq.data.description import BpeDescription, CorpusDescription
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.tasks.shape_buckets import ShapeBuckets
from seqattn_fairseq.tasks.translation import SeqAttnTranslationConfig, SeqAttnTranslationTask
from seqattn_fairseq.tasks.word_alignments import PieceAlignments
from tests.support import toy_corpus
from tests.support.alignments import word_numbers, write_pharaoh
from tests.support.folders import lasting_folder

PIECES = "un@@ a@@ b@@ c d e".split()
PARTS = {"train": 30, "train1": 20, "valid": 4}


@dataclass(frozen=True)
class Pair:
    """Pieces of both sides, and links between their words."""

    source: list[str]
    target: list[str]
    links: list[Link]

    @property
    def piece_links(self) -> set[Link]:
        """The links between pieces, by comparing all of them."""
        source, target = (word_numbers(side, "subword_nmt") for side in (self.source, self.target))
        return {
            (i, j)
            for i, word in enumerate(source)
            for j, other in enumerate(target)
            if (word, other) in self.links
        }


def _side(dice: random.Random, words: int) -> list[str]:
    """Return the pieces of so many words, of up to three pieces each."""
    begins, ends = PIECES[:3], PIECES[3:]
    pieces = []
    for _ in range(words):
        pieces += [*dice.choices(begins, k=dice.randint(0, 2)), dice.choice(ends)]
    return pieces


def random_pair(dice: random.Random) -> Pair:
    sizes = dice.randint(1, 6), dice.randint(1, 6)
    every = [(i, j) for i in range(sizes[0]) for j in range(sizes[1])]
    return Pair(
        _side(dice, sizes[0]), _side(dice, sizes[1]), dice.sample(every, min(4, len(every)))
    )


@functools.cache
def corpus() -> tuple[Path, dict[str, list[Pair]]]:
    """Return a data folder and its pairs."""
    folder, dice = lasting_folder("word alignments "), random.Random(1)
    parts = {name: [random_pair(dice) for _ in range(count)] for name, count in PARTS.items()}
    dictionary = folder / "dict.txt"
    dictionary.write_text("".join(f"{piece} 9\n" for piece in PIECES))
    for name, pairs in parts.items():
        for side, suffix in (("source", "src"), ("target", "tgt")):
            lines = (" ".join(getattr(pair, side)) for pair in pairs)
            (folder / f"{name}.{suffix}").write_text("".join(f"{line}\n" for line in lines))
        links = (" ".join(f"{i}-{j}" for i, j in sorted(pair.piece_links)) for pair in pairs)
        (folder / f"{name}.align").write_text("".join(f"{line}\n" for line in links))
    files = [f"{folder}/{name}" for name in PARTS]
    result = toy_corpus.run(
        "preprocess", "-s", "src", "-t", "tgt", "--user-dir", toy_corpus.USER_DIR,
        "--trainpref", files[0], "--validpref", files[2], "--destdir", str(folder / "bin"),
        "--srcdict", str(dictionary), "--joined-dictionary", "--align-suffix", "align",
    )  # fmt: skip
    assert result.status == 0, result.stderr
    second = toy_corpus.run(
        "preprocess", "-s", "src", "-t", "tgt", "--user-dir", toy_corpus.USER_DIR,
        "--trainpref", files[1], "--destdir", str(folder / "second"),
        "--srcdict", str(dictionary), "--joined-dictionary",
    )  # fmt: skip
    assert second.status == 0, second.stderr
    for path in (folder / "second").glob("train.*"):
        name = path.name.replace("train.", "train1.", 1)
        (folder / "bin" / name).write_bytes(path.read_bytes())
    return folder, parts


@pytest.fixture
def links_file(tmp_path: Path) -> Path:
    """The links of both parts of the training pairs."""
    parts = corpus()[1]
    write_pharaoh(tmp_path / "links", (pair.links for pair in parts["train"] + parts["train1"]))
    return tmp_path / "links"


def loaded(split: str = "train", epoch: int = 1, combine: bool = True, **options: Any) -> Any:
    """Return a dataset of our task."""
    cfg = SeqAttnTranslationConfig(
        source_lang="src", target_lang="tgt", train_subset="train", dataset_impl="mmap",
        required_seq_len_multiple=1, upsample_primary=1, word_alignments_subwords="subword_nmt",
    )  # fmt: skip
    for name, value in {"data": str(corpus()[0] / "bin"), **options}.items():
        setattr(cfg, name, value)
    task = SeqAttnTranslationTask.setup_task(cfg)
    task.load_dataset(split, epoch=epoch, combine=combine)
    return task.datasets[split]


def batch_links(dataset: Any, shape_buckets: int = 0) -> Iterator[tuple[int, set[Link]]]:
    """Yield every index with its links between pieces, read off padded batches."""
    pad, eos = dataset.src_dict.pad(), dataset.src_dict.eos()
    if shape_buckets:
        dataset = ShapeBuckets(dataset, shape_buckets)
    order = dataset.ordered_indices()
    for indices in dataset.batch_by_size(order, max_tokens=90):
        sample = dataset.collater([dataset[int(i)] for i in indices])
        source, target = sample["net_input"]["src_tokens"], sample["target"]
        links: list[set[Link]] = [set() for _ in target]
        for column, place in sample["alignments"].tolist():
            row, position = divmod(place, target.size(1))
            assert source[row, column] not in (pad, eos) and target[row, position] not in (pad, eos)
            first = [int(x[row].ne(pad).nonzero()[0]) for x in (source, target)]
            links[row].add((column - first[0], position - first[1]))
        yield from zip(sample["id"].tolist(), links, strict=True)


def assert_links(
    dataset: Any, pairs: list[Pair], source_pieces: int = 99, shape_buckets: int = 0
) -> None:
    found = dict(batch_links(dataset, shape_buckets))
    assert sorted(found) == list(range(len(pairs)))
    for index, pair in enumerate(pairs):
        assert found[index] == {link for link in pair.piece_links if link[0] < source_pieces}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"left_pad_source": False},
        {"left_pad_source": False, "left_pad_target": True},
        {"required_seq_len_multiple": 8},
        {"num_batch_buckets": 3},
        {"num_batch_buckets": 3, "left_pad_source": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape_buckets", [0, 3])
def test_batches_hold_the_links_of_their_pairs(
    links_file: Path, options: dict[str, Any], shape_buckets: int
) -> None:
    parts = corpus()[1]
    dataset = loaded(word_alignments=str(links_file), **options)
    assert_links(dataset, parts["train"] + parts["train1"], shape_buckets=shape_buckets)


def test_pairs_that_are_repeated_share_their_line(links_file: Path) -> None:
    parts = corpus()[1]
    dataset = loaded(word_alignments=str(links_file), upsample_primary=3)
    assert_links(dataset, parts["train"] * 3 + parts["train1"])


def test_what_is_cut_off_a_source_is_not_linked(links_file: Path) -> None:
    parts = corpus()[1]
    pairs = parts["train"] + parts["train1"]
    assert max(len(pair.source) for pair in pairs) > 8
    options: dict[str, Any] = {"truncate_source": True, "max_source_positions": 5}
    assert_links(loaded(word_alignments=str(links_file), **options), pairs, source_pieces=4)


def test_every_data_folder_has_a_file(tmp_path: Path) -> None:
    folder, parts = corpus()
    files = []
    for name in ("train", "train1"):
        write_pharaoh(tmp_path / name, (pair.links for pair in parts[name]))
        files.append(str(tmp_path / name))
    options: dict[str, Any] = {"data": f"{folder}/bin:{folder}/second"}
    options["word_alignments"] = ":".join(files)
    for epoch, name in ((1, "train"), (2, "train1"), (3, "train")):
        assert_links(loaded(epoch=epoch, combine=False, **options), parts[name])
    options["word_alignments"] = files[0]
    with pytest.raises(SeqAttnError, match=r"names 1 files .*there are 2 data folders"):
        loaded(**options)


def test_other_splits_have_no_alignments(links_file: Path) -> None:
    assert loaded("valid", word_alignments=str(links_file)).align_dataset is None


def test_piece_alignments_of_fairseq_keep_working(links_file: Path) -> None:
    parts = corpus()[1]
    assert_links(loaded(load_alignments=True, combine=False), parts["train"])
    with pytest.raises(SeqAttnError, match="pass one of them"):
        loaded(load_alignments=True, word_alignments=str(links_file))


def test_the_corpus_description_tells_the_subwords(links_file: Path, tmp_path: Path) -> None:
    folder, parts = corpus()
    options: dict[str, Any] = {"word_alignments_subwords": None, "word_alignments": str(links_file)}
    with pytest.raises(SeqAttnError, match=r"no corpus.json .*--word-alignments-subwords, one of"):
        loaded(**options)
    described = tmp_path / "described"
    described.mkdir()
    for path in (folder / "bin").iterdir():
        (described / path.name).write_bytes(path.read_bytes())
    (described / "codes").touch()
    CorpusDescription("src", "tgt", BpeDescription("subword_nmt", "codes")).save(described)
    dataset = loaded(data=str(described), **options)
    assert_links(dataset, parts["train"] + parts["train1"])
    CorpusDescription("src", "tgt").save(described)  # then every piece is a word
    whole = dict(batch_links(loaded(data=str(described), **options)))
    assert whole[0] == set(parts["train"][0].links)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], r"links: 49 lines, but there are 50 sentence pairs"),
        (lambda lines: [*lines, ""], r"links: 51 lines, but there are 50 sentence pairs"),
        (
            lambda lines: [*lines[:9], "9-0", *lines[10:]],
            r"links:10: a link to source word 9 \(from 0\), but pair 10 has [1-6] source words",
        ),
        (
            lambda lines: [*lines[:40], "0-0 0-7", *lines[41:]],
            r"links:41: a link to target word 7 \(from 0\), but pair 41 has [1-6] target words",
        ),
    ],
)
def test_files_of_another_text_are_refused(links_file: Path, change: Any, message: str) -> None:
    lines = change(links_file.read_text().splitlines())
    links_file.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(SeqAttnError, match=message):
        loaded(word_alignments=str(links_file))


def pair_dataset(sources: list[str], targets: list[str]) -> LanguagePairDataset:
    """Return a dataset of sentences in pieces, of which some are unknown."""
    dictionary = Dictionary()
    for piece in PIECES:
        dictionary.add_symbol(piece)
    sides = [
        [dictionary.encode_line(line, add_if_not_exist=False).long() for line in lines]
        for lines in (sources, targets)
    ]
    sizes = [[len(tokens) for tokens in side] for side in sides]
    return LanguagePairDataset(
        ListDataset(sides[0]), sizes[0], dictionary, ListDataset(sides[1]), sizes[1], dictionary
    )


def test_behind_an_unknown_piece_no_word_is_known(tmp_path: Path) -> None:
    """Whether its word goes on behind it is not known: links count before it alone."""
    pairs = pair_dataset(["a@@ c ?? d e", "c d"], ["d e", "c ?? d"])
    write_pharaoh(tmp_path / "links", [[(0, 0), (1, 1), (2, 0), (3, 1)], [(0, 0), (1, 1)]])
    links = load_alignments(tmp_path / "links", "pharaoh")
    pieces = PieceAlignments(links, pairs, "subword_nmt")
    assert [pieces[i].tolist() for i in (0, 1)] == [[[0, 0], [1, 0]], [[0, 0]]]
    by_word = PieceAlignments(links, pairs, "none")  # here every piece is a word
    assert by_word[0].tolist() == [[0, 0], [1, 1], [2, 0], [3, 1]]


def test_there_cannot_be_more_words_than_pieces(tmp_path: Path) -> None:
    pairs = pair_dataset(["a@@ c ?? d e"], ["d"])
    write_pharaoh(tmp_path / "links", [[(4, 0)]])
    with pytest.raises(SeqAttnError, match=r"links:1: a link to source word 4 .* has 4 source"):
        PieceAlignments(load_alignments(tmp_path / "links", "pharaoh"), pairs, "subword_nmt")
