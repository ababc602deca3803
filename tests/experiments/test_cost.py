"""The cost of a training, told before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from seqattn_fairseq.experiments.cost import cost, precision, probe
from seqattn_fairseq.experiments.plan import Experiment, load_experiment, plan
from seqattn_fairseq.launch import devices
from tests.support import toy_corpus

TINY_MODEL = (
    "model.encoder_layers=1 model.decoder_layers=1 model.encoder_embed_dim=16 "
    "model.decoder_embed_dim=16 model.encoder_ffn_embed_dim=16 model.decoder_ffn_embed_dim=16 "
    "model.encoder_attention_heads=2 model.decoder_attention_heads=2"
).split()


def write_dictionaries(folder: Path, types: int, *langs: str) -> Path:
    """Write dictionaries that fairseq counts as ``types`` types."""
    text = "".join(f"w{number} 1\n" for number in range(types - 4))
    for lang in langs:
        (folder / f"dict.{lang}.txt").write_text(text)
    return folder


def toy_experiment(*words: str) -> Experiment:
    data_bin = toy_corpus.corpus()[1]
    return load_experiment(
        [
            "multi30k_en_de", f"task.data='{data_bin}'", "task.source_lang=src",
            "task.target_lang=tgt", *TINY_MODEL, *words,
        ]
    )  # fmt: skip


def test_the_published_numbers_of_a_paper(tmp_path: Path) -> None:
    data = write_dictionaries(tmp_path, 32_768, "en", "de")
    words = ["experiment=wmt14_en_de/dynamicconv", f"task.data='{data}'"]
    found = cost(load_experiment(words))
    assert found.tokens_per_update == 458_752
    assert found.updates == 30_000
    assert round(found.parameters / 1e6, 2) == 213.24
    assert not found.assumed


def test_unprepared_data_is_assumed() -> None:
    experiment = load_experiment(["experiment=iwslt14_de_en/dynamicconv", "task.data=no/data-bin"])
    found = cost(experiment)
    assert found.assumed
    assert found.tokens_per_epoch is None
    assert experiment.corpus is None
    assert [step.name for step in plan(experiment, None)] == ["train", "evaluate"]


def test_epochs_set_the_updates_where_the_data_is_there() -> None:
    words = ["batch.tokens=400", "optimization.max_epoch=3"]
    found = cost(toy_experiment(*words, "optimization.max_update=0"))
    assert found.tokens_per_epoch is not None
    assert found.tokens_per_epoch > 400
    assert found.updates == 3 * -(-found.tokens_per_epoch // 400)


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["checkpoint.keep_last_epochs=10"], 12),
        (["checkpoint.no_epoch_checkpoints=true"], 2),
        (["checkpoint.no_epoch_checkpoints=true", "checkpoint.no_last_checkpoints=true"], 1),
        (["checkpoint.keep_last_epochs=2", "checkpoint.keep_best_checkpoints=3"], 7),
        (
            [
                "checkpoint.keep_last_epochs=2",
                "checkpoint.save_interval_updates=5",
                "checkpoint.keep_interval_updates=4",
            ],
            8,
        ),
    ],
)
def test_checkpoints_that_stay(words: list[str], count: int) -> None:
    assert cost(toy_experiment(*words)).checkpoints == count


def test_the_size_of_a_checkpoint_is_that_of_a_real_one() -> None:
    path = toy_corpus.trained().checkpoint
    state = torch.load(path, weights_only=True)
    cfg = OmegaConf.create(state["cfg"])
    experiment = toy_experiment("model.max_source_positions=30", "model.share_all_embeddings=false")
    found = cost(experiment)
    tensors = list(state["model"].values()) + [
        value
        for entry in state["last_optimizer_state"]["state"].values()
        for value in entry.values()
        if torch.is_tensor(value) and value.dim() > 0
    ]
    stored = sum(t.numel() * t.element_size() for t in tensors)
    assert cfg.optimizer._name == experiment.cfg.optimizer._name
    assert found.checkpoint_bytes == pytest.approx(stored, rel=0.02)


@pytest.mark.parametrize("variant", ["softmax", "mega"])
def test_the_probe_measures(variant: str) -> None:
    torch.manual_seed(1)
    found = probe(toy_experiment(f"variant={variant}"), seconds=3.0)
    assert found.tokens_per_second > 0
    assert found.batches >= 2


def test_a_slow_model_is_probed_once() -> None:
    assert probe(toy_experiment(), seconds=0.0).batches == 1


@pytest.mark.parametrize(
    ("words", "device", "expected"),
    [
        ([], "cuda", torch.bfloat16),  # as `seqattn train` chooses on these GPUs
        ([], "cpu", torch.float32),
        (["common.fp16=true"], "cuda", torch.float16),
        (["common.bf16=false"], "cuda", torch.float32),
    ],
)
def test_the_probe_has_the_precision_of_the_training(
    monkeypatch: pytest.MonkeyPatch, words: list[str], device: str, expected: torch.dtype
) -> None:
    monkeypatch.setattr(devices, "precision_words", lambda processes: ["common.bf16=true"])
    assert precision(toy_experiment(*words), torch.device(device)) == expected


def test_a_joined_dictionary_is_asked_for() -> None:
    experiment = load_experiment(["experiment=wmt14_en_fr/dynamicconv"])
    assert experiment.corpus == "wmt14_en_fr"
    prepare = plan(experiment, None)[0].command
    assert ("--joined-dictionary" in prepare) == (experiment.data_bin.name == "data-bin.joined")
    assert experiment.data_bin.name == "data-bin.joined"


@pytest.mark.parametrize(
    ("experiment", "penalties"),
    [("multi30k_en_de/softmax", (1.0,)), ("wmt14_en_de/luna", (0.6, 1.0))],
)
def test_the_papers_decoding_is_handed_to_the_evaluation(
    experiment: str, penalties: tuple[float, ...]
) -> None:
    loaded = load_experiment([f"experiment={experiment}"])
    assert loaded.settings.length_penalty == penalties
    words = " ".join(plan(loaded, None)[-1].command)
    assert f"--length-penalty {' '.join(map(str, penalties))} " in words
