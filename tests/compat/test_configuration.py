"""Names and options in Hydra configurations and in old checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.models import ARCH_MODEL_NAME_REGISTRY

import seqattn_fairseq  # noqa: F401 registers models and task
from seqattn_fairseq.errors import SeqAttnError
from tests.support import toy_corpus

pytestmark = pytest.mark.xdist_group("commands")

CONFIG = """\
# @package _global_
common: {{user_dir: "{user_dir}", cpu: true, log_format: simple}}
task: {{_name: seqattn_translation, data: "{data}"}}
model:
  _name: {model}
  encoder_layers: 1
  decoder_layers: 1
  encoder_embed_dim: 16
  decoder_embed_dim: 16
  {extra}
criterion: {{_name: cross_entropy}}
lr_scheduler: {{_name: fixed, lr: [0.001]}}
optimizer: {{_name: adam, lr: [0.001]}}
dataset: {{max_tokens: 200, num_workers: 0}}
optimization: {{max_update: 1, lr: [0.001]}}
checkpoint: {{save_dir: "{save_dir}"}}
hydra: {{job: {{chdir: false}}, run: {{dir: "{save_dir}"}}}}
"""


def hydra_train(tmp_path: Path, model: str, extra: str = "") -> toy_corpus.Result:
    text = CONFIG.format(
        user_dir=toy_corpus.USER_DIR, data=toy_corpus.corpus()[1], save_dir=tmp_path / "run",
        model=model, extra=extra,
    )  # fmt: skip
    (tmp_path / "toy.yaml").write_text(text)
    return toy_corpus.run("hydra_train", "--config-dir", str(tmp_path), "--config-name", "toy")


def test_hydra_trains(tmp_path: Path) -> None:
    result = hydra_train(tmp_path, "seqattn_rela_g")
    assert result.status == 0, result.stderr
    assert (tmp_path / "run" / "checkpoint_last.pt").exists()


@pytest.mark.parametrize(
    ("model", "extra", "message"),
    [
        (
            "seqattn_rela_g_iwslt_de_en",
            "",
            "model._name: 'seqattn_rela_g_iwslt_de_en' is an architecture of the fairseq-train "
            "command line; write model._name: seqattn_rela_g and choose its size with "
            "size=iwslt_de_en",
        ),
        ("seqattn_relag", "", "model 'seqattn_relag' is not registered (did you mean "),
        ("seqattn_softmax", "encoder_layer: 2", "has no option 'encoder_layer' (did you mean "),
    ],
)
def test_wrong_names_are_refused_in_one_line(
    tmp_path: Path, model: str, extra: str, message: str
) -> None:
    result = hydra_train(tmp_path, model, extra)
    assert result.status == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("fairseq-hydra-train: error: ")
    assert message in last
    assert "Traceback" not in result.stderr


def test_old_checkpoints_get_the_defaults_of_new_options(tmp_path: Path) -> None:
    """A checkpoint named by an architecture, from before an option existed, loads."""
    name = "seqattn_softmax_tiny"
    assert ARCH_MODEL_NAME_REGISTRY[name] == "seqattn_softmax"
    run = toy_corpus.trained(name)
    state = torch.load(run.checkpoint, weights_only=True)
    assert state["cfg"]["model"]["_name"] == name
    del state["cfg"]["model"]["layernorm_embedding"]
    state["cfg"]["model"]["of_the_past"] = 1
    torch.save(state, tmp_path / "old.pt")
    models, cfg, _ = checkpoint_utils.load_model_ensemble_and_task(
        [str(tmp_path / "old.pt")], arg_overrides={"data": str(run.data_bin)}
    )
    assert "layernorm_embedding" not in cfg.model
    before = state["model"]["decoder.embed_tokens.weight"]
    assert torch.equal(models[0].state_dict()["decoder.embed_tokens.weight"], before)


def test_a_checkpoint_of_an_unknown_model_is_explained(tmp_path: Path) -> None:
    run = toy_corpus.trained()
    state = torch.load(run.checkpoint, weights_only=True)
    state["cfg"]["model"]["_name"] = "somebody_elses_model"
    torch.save(state, tmp_path / "foreign.pt")
    with pytest.raises(SeqAttnError, match="'somebody_elses_model' is not registered.*user-dir"):
        checkpoint_utils.load_model_ensemble_and_task(
            [str(tmp_path / "foreign.pt")], arg_overrides={"data": str(run.data_bin)}
        )
