"""Composing recipes outside of ``fairseq-hydra-train``."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

from seqattn_fairseq.cli.main import main
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
        ("preset=mega_tyni", "unknown preset 'mega_tyni' .did you mean mega_tiny"),
        ("nonsense=1", "nonsense"),
        ("model.dropoutt=1", "dropoutt"),
        ("model.dropout=much", "dropout"),
        ("optimization.max_update=many", "=many: Value 'many' of type 'str' could not be"),
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluation.bleu=foo"], "bleu is 'foo'"),
        (["evaluation.checkpoints=30"], "raise checkpoint.keep_last_epochs"),
        (
            ["evaluation.average=best", "checkpoint.keep_best_checkpoints=2"],
            "than the 2 that the training keeps; raise checkpoint.keep_best_checkpoints",
        ),
    ],
)
def test_what_could_not_be_evaluated_is_not_trained(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_dir = f"checkpoint.save_dir='{tmp_path / 'run'}'"
    assert main(["train", "multi30k_en_de", save_dir, *words]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
