"""A preparation that is killed with SIGKILL goes on where it was and ends with the same files."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from seqattn_fairseq.data.prepare import prepare
from seqattn_fairseq.data.recipe import CorpusRecipe
from seqattn_fairseq.data.recipes import RECIPES
from tests.data import miniature
from tests.data.corpus import RECIPE, tree, write_raw

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked copies of itself")

FORK = multiprocessing.get_context("fork") if hasattr(os, "fork") else multiprocessing


# One corpus of plain files, one of archives that goes through nearly every kind of stage.
CORPORA = [RECIPE, RECIPES["wmt14_en_de"].with_merges(60)]

Corpus = tuple[CorpusRecipe, Path]


@pytest.fixture(scope="module", params=CORPORA, ids=lambda recipe: recipe.name)
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A recipe and the folder of its public files."""
    folder = tmp_path_factory.mktemp("raw")
    if request.param is RECIPE:
        write_raw(folder)
    else:
        miniature.write_wmt14(folder)
    return request.param, folder


@pytest.fixture(scope="module")
def straight(
    corpus: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], float]:
    """Files and seconds of a preparation that nobody interrupts."""
    recipe, raw = corpus
    folder = tmp_path_factory.mktemp("straight")
    start = time.perf_counter()
    prepare(recipe, folder, raw, workers=2)
    return tree(folder), time.perf_counter() - start


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob("*.partial"))


def prepare_until_replace(corpus: Corpus, folder: Path, number: int) -> None:
    """Prepare, but die by SIGKILL instead of giving the ``number``-th file its name."""
    replace_file, count = os.replace, 0

    def replace(source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        replace_file(source, target)

    os.replace = replace  # type: ignore[assignment]
    recipe, raw = corpus
    prepare(recipe, folder, raw, workers=1)


def test_killed_at_every_commit(
    straight: tuple[dict[str, bytes], float], corpus: Corpus, tmp_path: Path
) -> None:
    kills = 0
    while True:
        # A step gives one name to its result and one to its record, the last step eleven in all:
        # these numbers hit either, and let every step come to its end once.
        number = 4 + kills % 9
        child = FORK.Process(target=prepare_until_replace, args=(corpus, tmp_path, number))
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        assert leftovers(tmp_path)
        kills += 1
        assert kills < 100, "no progress between two kills"
    assert kills > 10
    assert tree(tmp_path) == straight[0]
    assert not leftovers(tmp_path)


def test_killed_at_random_moments(
    straight: tuple[dict[str, bytes], float], corpus: Corpus, tmp_path: Path
) -> None:
    files, seconds = straight
    recipe, raw = corpus
    draw = random.Random(1)
    kills = 0
    for _ in range(6):
        child = FORK.Process(target=prepare, args=(recipe, tmp_path, raw, 2))
        child.start()
        child.join(draw.uniform(0, 0.6 * seconds))
        if child.exitcode is None:
            child.kill()
            kills += 1
        child.join()
    assert kills > 0
    prepare(recipe, tmp_path, raw, workers=2)
    assert tree(tmp_path) == files
    assert prepare(recipe, tmp_path, raw, workers=2).steps_done == 0
    assert not leftovers(tmp_path)
