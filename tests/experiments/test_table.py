"""The tables of experiments in the documents are what the recipes and the results say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.experiments.table import (
    RESULTS,
    read_row,
    readme_table,
    recipes_page,
    with_table,
    write_tables,
)
from seqattn_fairseq.launch.composition import CONFIGS, experiments
from tests.house import tree

REMEDY = "run seqattn configs configs --documents ."


def test_recipes_page_is_up_to_date() -> None:
    written = (tree.ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert written == recipes_page(CONFIGS, tree.ROOT / RESULTS), REMEDY
    assert all(f"| `{name}` |" in written for name in experiments())


def test_readme_is_up_to_date() -> None:
    written = (tree.ROOT / "README.md").read_text(encoding="utf-8")
    assert with_table(written, readme_table(CONFIGS)) == written, REMEDY
    assert re.search(r"^\| `dynamicconv` \|.* 35\.2 \|", written, re.M)


def test_scores_of_results_appear_with_what_was_altered(tmp_path: Path) -> None:
    line = {
        "experiment": "multi30k_en_de/softmax",
        "overrides": ["experiment=multi30k_en_de/softmax", "seed=2"],
        "subsets": {"test": {"headline": {"score": 12.345}}},
    }
    results = tmp_path / "results.jsonl"
    results.write_text(json.dumps(line) + "\n")
    page = recipes_page(CONFIGS, results)
    assert re.search(
        r"^\| `multi30k_en_de/softmax` .*\| 12.35 \(test\) with `seed=2` \|$", page, re.M
    )
    assert page.count("not run here") == len(experiments()) - 1


def test_a_readme_without_the_marks_stays(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# mine\n")
    with pytest.raises(SeqAttnError, match="no place for the table"):
        write_tables(CONFIGS, tmp_path)
    assert (tmp_path / "README.md").read_text() == "# mine\n"


def test_an_experiment_that_says_too_little(tmp_path: Path) -> None:
    path = tmp_path / "experiment" / "iwslt14_en_de" / "broken.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("defaults: [override /variant: mega]\n")
    with pytest.raises(SeqAttnError, match=r"broken.yaml: an experiment names its variant"):
        read_row(tmp_path, "iwslt14_en_de/broken")
