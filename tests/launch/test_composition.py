"""Composing recipes outside of ``fairseq-hydra-train``."""

from __future__ import annotations

import pytest
from hydra.core.hydra_config import HydraConfig

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.launch.composition import compose, split_words


def test_composes_what_fairseq_trains_with() -> None:
    cfg = compose("multi30k_en_de", ["variant=mega", "seed=3"])
    assert cfg.model._name == "seqattn_mega"
    assert cfg.model.encoder_z_dim > 0  # the variant's own defaults are filled in
    assert cfg.common.seed == 3
    assert cfg.checkpoint.save_dir.endswith("seed3")
    assert "hydra" not in cfg
    assert not HydraConfig.initialized()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("variant=megaa", "variant/megaa"),
        ("nonsense=1", "nonsense"),
        ("model.dropoutt=1", "dropoutt"),
        ("model.dropout=much", "dropout"),
        ("model.dropout=${nowhere}", "nowhere"),
        ("=", "="),
    ],
)
def test_a_wrong_override_is_one_line(override: str, message: str) -> None:
    with pytest.raises(SeqAttnError, match=message) as caught:
        compose("multi30k_en_de", [override])
    assert "\n" not in str(caught.value)


def test_the_dataset_is_found_among_the_words() -> None:
    assert split_words(["multi30k_en_fr", "a=b"]) == ("multi30k_en_fr", ["a=b"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a=b"], "which dataset"),
        (["multi30k_en_fr", "multi30k_en_de"], "several datasets"),
        (["multi30k"], "did you mean multi30k_en_"),
        (["experiment=multi30k_en_de/nothing"], "unknown experiment"),
    ],
)
def test_a_wrong_dataset_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(SeqAttnError, match=message):
        split_words(words)
