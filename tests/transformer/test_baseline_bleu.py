"""The trained baseline through fairseq-generate: every sentence, and the published scores."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from seqattn_fairseq.data.prepare import prepare
from seqattn_fairseq.data.recipes import RECIPES
from seqattn_fairseq.transformer.registry import make_config
from tests.support import toy_corpus
from tests.support.baseline import save_checkpoints, trained_weights

# test set -> sentences, BLEU as the baseline's README gives it
EXPECTED = {"test": (1000, 40.82), "test1": (1000, 33.44), "test2": (461, 28.67)}
NAME = "multi30k_en_de_transformer_tiny"


@pytest.fixture(scope="module")
def data_bin(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("multi30k")
    return prepare(RECIPES["multi30k_en_de"], folder, shared / "data/multi30k", 2).data_bin


def generate(data_bin: Path, checkpoint: Path, subset: str) -> toy_corpus.Result:
    result = toy_corpus.run(
        "generate", str(data_bin), "--user-dir", toy_corpus.USER_DIR, "--path", str(checkpoint),
        "--gen-subset", subset, "--beam", "5", "--remove-bpe", "--batch-size", "128", "--cpu",
        "-s", "en", "-t", "de", "--num-workers", "0",
    )  # fmt: skip
    assert result.status == 0, result.stderr
    return result


@pytest.mark.slow
@pytest.mark.xdist_group("baseline")
@pytest.mark.parametrize("subset", EXPECTED)
def test_bleu_and_hypotheses(shared: Path, data_bin: Path, tmp_path: Path, subset: str) -> None:
    weights = trained_weights(shared / "baselines" / NAME)
    save_checkpoints(tmp_path, weights, make_config("softmax", "tiny", share_all_embeddings=True))
    results = [generate(data_bin, tmp_path / f"{name}.pt", subset) for name in ("ours", "stock")]
    sentences, bleu = EXPECTED[subset]
    assert len(results[0].lines("H")) == sentences
    assert results[0].lines("H") == results[1].lines("H")
    (printed,) = re.findall(r"BLEU4 = ([\d.]+)", results[0].stdout)
    assert float(printed) == pytest.approx(bleu, abs=0.02)
