"""Where the files of a corpus are looked for, and what is said when they are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqattn_fairseq.data.recipes import RECIPES
from seqattn_fairseq.errors import SeqAttnError

LANGS = ("de", "en", "fr", "vi")


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


WMT16 = ("training-parallel-commoncrawl.tgz", "training-parallel-nc-v11.tgz", "dev.tgz")


@pytest.mark.parametrize("top", ["", "wmt14/"])
@pytest.mark.parametrize("europarl", ["europarl/de-en.tgz", "europarl/v7/de-en.tgz"])
def test_two_archives_of_one_name(tmp_path: Path, top: str, europarl: str) -> None:
    touch(tmp_path, *(top + name for name in WMT16), top + europarl, "iwslt14/de-en.tgz")
    found = RECIPES["wmt16_en_de_mega"].locate(tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in found.values()} == {
        *(top + name for name in WMT16),
        top + europarl,
    }
    (path,) = RECIPES["iwslt14_en_de"].locate(tmp_path).values()
    assert path == tmp_path / "iwslt14" / "de-en.tgz"


def test_all_missing_files_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "wmt14/training-parallel-commoncrawl.tgz", "wmt14/test-full.tgz")
    with pytest.raises(SeqAttnError) as caught:
        RECIPES["wmt14_en_fr"].locate(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"--from {tmp_path}: found no training-parallel-europarl-v7.tgz in ")
    assert "(and not training-parallel-un.tgz, training-parallel-nc-v9.tgz, " in message
    assert "training-giga-fren.tar either)" in message
    assert "commoncrawl" not in message


def test_ready_archive_is_preferred_where_it_lies(tmp_path: Path) -> None:
    ready = RECIPES["wmt16_de_en_bpe32k"].ready
    assert ready is not None
    assert (ready.source_lang, ready.target_lang) == ("de", "en")
    assert not ready.is_at_hand(tmp_path)
    assert ready.is_at_hand(touch(tmp_path, "wmt16_google/wmt16_en_de.tar.gz"))


def test_layouts_of_the_public_repositories(shared: Path) -> None:
    fixtures = shared / "fixtures"
    for recipe in RECIPES.values():
        recipe.locate(fixtures)
    for corpus in ("wmt14_en_de", "wmt14_en_fr", "wmt16_en_de_mega"):
        RECIPES[corpus].locate(fixtures / "wmt14")


def test_recipes_are_complete() -> None:
    assert len(RECIPES) == 12
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert set(recipe.langs) < set(LANGS)
        assert recipe.terms
        assert next(iter(recipe.sets)) == "train" and "test" in recipe.sets
        assert all(url.startswith("https://") for d in recipe.downloads for url in d.urls)
        assert all(download.urls for download in recipe.downloads)
        for pieces in recipe.sets.values():
            assert all(set(piece.sides) == set(recipe.langs) for piece in pieces)
