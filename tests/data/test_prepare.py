"""The whole preparation on a small corpus: its result, its repetition, its repair."""

from __future__ import annotations

import gzip
import json
import shutil
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from seqattn_fairseq.data.description import (
    BpeDescription,
    CorpusDescription,
    Reference,
    load_corpus_description,
)
from seqattn_fairseq.data.files import sha256_of
from seqattn_fairseq.data.prepare import prepare
from seqattn_fairseq.data.recipe import CorpusRecipe
from seqattn_fairseq.data.recipes import RECIPES
from seqattn_fairseq.data.sources import Piece, Side
from seqattn_fairseq.errors import SeqAttnError
from tests.data.corpus import RECIPE, SIZES, tree, write_raw, write_text

SPLITS = list(RECIPE.sets)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_raw(tmp_path_factory.mktemp("raw files"))


@pytest.fixture(scope="module")
def prepared(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished preparation; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("prepared") / "with spaces, and commas"
    corpus = prepare(RECIPE, folder, raw, workers=2)
    assert corpus.steps == corpus.steps_done == 27
    return folder


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "copy"))


def done_again(folder: Path, raw: Path) -> int:
    return prepare(RECIPE, folder, raw, workers=1).steps_done


def test_text_files(prepared: Path) -> None:
    for split, count in zip(SPLITS, SIZES.values(), strict=True):
        for lang in ("en", "de"):
            tokens = (prepared / "tok" / f"{split}.{lang}").read_text("utf-8")
            pieces = (prepared / "bpe" / f"{split}.{lang}").read_text("utf-8")
            assert tokens.count("\n") == count
            assert pieces.replace("@@ ", "") == tokens
            assert "@@ " in pieces
            assert tokens == tokens.lower()
    assert len((prepared / "bpe.codes").read_text("utf-8").split("\n")) == 1 + 60 + 1


def test_data_bin_is_complete(prepared: Path) -> None:
    from fairseq.data import Dictionary, data_utils

    data_bin = prepared / "data-bin"
    dictionary = Dictionary.load(str(data_bin / "dict.de.txt"))
    assert (data_bin / "dict.en.txt").read_bytes() == (data_bin / "dict.de.txt").read_bytes()
    for split, count in zip(SPLITS, SIZES.values(), strict=True):
        lines = (prepared / "bpe" / f"{split}.de").read_text("utf-8").split("\n")
        dataset = data_utils.load_indexed_dataset(str(data_bin / f"{split}.en-de.de"), dictionary)
        assert len(dataset) == count
        assert [dictionary.string(dataset[n]) for n in range(count)] == lines[:-1]
    assert (data_bin / "bpe.codes").read_bytes() == (prepared / "bpe.codes").read_bytes()
    references = {
        split: Reference(f"reference.{split}.de", test_set)
        for split, test_set in RECIPE.references.items()
    }
    bpe = BpeDescription("subword_nmt", "bpe.codes")
    corpus = CorpusDescription("en", "de", bpe, "text_chain.json", references)
    assert load_corpus_description(data_bin) == corpus


def test_raw_references(prepared: Path, raw: Path) -> None:
    for split, stem in zip(SPLITS, SIZES, strict=True):
        reference = prepared / "data-bin" / f"reference.{split}.de"
        if split != "train":
            assert reference.read_bytes() == gzip.decompress((raw / f"{stem}.de.gz").read_bytes())


def test_other_dictionaries_lie_beside_the_usual_one(copy: Path, prepared: Path, raw: Path) -> None:
    corpus = prepare(RECIPE, copy, raw, workers=1, joined=False)
    assert corpus.steps_done == 1
    assert corpus.data_bin.name == "data-bin.separate"
    assert len(set(corpus.types.values())) == 2
    assert tree(prepared).items() <= tree(copy).items()
    assert prepare(RECIPE, copy, raw, workers=1, joined=True).steps_done == 0


def test_manifest(prepared: Path, raw: Path) -> None:
    manifest = json.loads((prepared / "manifest.json").read_text("utf-8"))
    assert manifest["corpus"] == "multi30k_en_de"
    assert {"python", "sacremoses", "subword-nmt"} <= set(manifest["tools"])
    assert manifest["text_chain"]["target"]["final_dot"] == "keep"
    stages = ["check", "tokenize", "learn BPE", "apply BPE", "binarize"]
    assert list(manifest["stages"]) == list(manifest["lines_per_second"]) == stages
    check = manifest["stages"]["check"]["train"]
    digests = {f"train.{lang}.gz": sha256_of(raw / f"train.{lang}.gz") for lang in RECIPE.langs}
    assert check["inputs"] == digests
    assert check["lines"] == 600
    outputs = manifest["stages"]["binarize"]["data-bin"]["outputs"]
    assert set(outputs) == {name for name in tree(prepared) if name.startswith("data-bin/")}
    train = (prepared / "tok" / "train.de").read_text("utf-8")
    assert manifest["stages"]["tokenize"]["train.de"]["tokens"] == len(train.split())


def test_repetition_does_nothing(copy: Path, raw: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in copy.rglob("*/*")}
    assert done_again(copy, raw) == 0
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*/*")} == times


@pytest.mark.parametrize(
    ("name", "steps"),
    [("tok/test1.de", 1), ("bpe.codes", 1), ("bpe/train.en", 1), ("data-bin/dict.en.txt", 1)],
)
@pytest.mark.parametrize("damage", ["deleted", "altered"])
def test_lost_file_is_restored(
    copy: Path, prepared: Path, raw: Path, name: str, steps: int, damage: str
) -> None:
    if damage == "deleted":
        (copy / name).unlink()
    else:
        (copy / name).write_text("altered\n")
    assert done_again(copy, raw) == steps
    assert tree(copy) == tree(prepared)


def test_changed_input_redoes_what_depends_on_it(copy: Path, tmp_path: Path, raw: Path) -> None:
    changed = Path(shutil.copytree(raw, tmp_path / "changed"))
    with gzip.open(changed / "test_2016_flickr.de.gz", "rt", encoding="utf-8") as stream:
        text = stream.read()
    write_text(changed / "test_2016_flickr.de.gz", "Etwas anderes.\n" + text.split("\n", 1)[1])
    # Check, tokenise, apply BPE and binarise; the codes come from other files.
    assert done_again(copy, changed) == 4
    assert (copy / "tok" / "test.de").read_text("utf-8").startswith("etwas anderes .\n")


def test_final_dot_rule_can_be_changed(copy: Path, tmp_path: Path, raw: Path) -> None:
    changed = Path(shutil.copytree(raw, tmp_path / "changed"))
    write_text(changed / "test_2017_mscoco.de.gz", "Hunde usw.\n" * 13)
    test_set = copy / "tok" / "test2.de"
    prepare(RECIPE, copy, changed, workers=1)
    assert test_set.read_text("utf-8") == "hunde usw.\n" * 13
    prepare(RECIPE, copy, changed, workers=1, final_dot="split")
    assert test_set.read_text("utf-8") == "hunde usw .\n" * 13


def test_final_dot_rule_of_tokenised_files_cannot(raw: Path, tmp_path: Path) -> None:
    tokens = replace(RECIPE, pretokenized=True)
    with pytest.raises(SeqAttnError, match=r"--final-dot: the files of .* are tokenised already"):
        prepare(tokens, tmp_path / "new", raw, workers=1, final_dot="keep")
    assert not (tmp_path / "new").exists()


def test_one_worker_gives_the_same_files(prepared: Path, raw: Path, tmp_path: Path) -> None:
    prepare(RECIPE, tmp_path / "alone", raw, workers=1)
    assert tree(tmp_path / "alone") == tree(prepared)


@pytest.mark.parametrize("layout", ["", "data/task1/raw"])
def test_plain_files_and_the_layout_of_the_public_repository(
    prepared: Path, tmp_path: Path, layout: str
) -> None:
    write_raw(tmp_path / "from" / layout, packed=False)
    prepare(RECIPE, tmp_path / "to", tmp_path / "from", workers=1)
    assert tree(tmp_path / "to") == tree(prepared)


def served_at(url: str, raw: Path) -> CorpusRecipe:
    """Return the recipe with the small corpus' files at another address."""

    def moved(piece: Piece) -> Piece:
        downloads = {lang: side.download for lang, side in piece.sides.items()}
        return Piece(
            {
                lang: Side(replace(old, urls=(url + old.name,), sha256=sha256_of(raw / old.name)))
                for lang, old in downloads.items()
            }
        )

    return replace(
        RECIPE, sets={split: tuple(map(moved, pieces)) for split, pieces in RECIPE.sets.items()}
    )


def test_fetched_files(
    prepared: Path, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = partial(QuietHandler, directory=str(raw))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        recipe = served_at(f"http://127.0.0.1:{server.server_address[1]}/", raw)
        prepare(recipe, tmp_path / "to", None, workers=1)
        server.shutdown()
        thread.join()
    assert tree(tmp_path / "to") == tree(prepared)
    # The server is gone, and not needed.
    assert prepare(recipe, tmp_path / "to", None, workers=1).steps_done == 0


@pytest.mark.slow
def test_published_form_of_multi30k(shared: Path, tmp_path: Path) -> None:
    """The real corpus: codes and dictionary of the published models, sizes of the papers."""
    raw, trained = shared / "data" / "multi30k", shared / "baselines"
    corpus = prepare(RECIPES["multi30k_en_de"], tmp_path / "de", raw, workers=2)
    model = trained / "multi30k_en_de_transformer_tiny"
    assert (corpus.data_bin / "bpe.codes").read_bytes() == (model / "bpe.codes").read_bytes()
    assert (corpus.data_bin / "dict.de.txt").read_bytes() == (model / "dict.txt").read_bytes()
    assert corpus.types == {"en": 9_712, "de": 9_712}
    french = prepare(RECIPES["multi30k_en_fr"], tmp_path / "fr", raw, workers=2)
    assert french.types["fr"] == 9_544
