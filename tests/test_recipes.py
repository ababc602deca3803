"""The Hydra recipes run: one model, a sweep, and what the two must not share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seqattn_fairseq.evaluation.checkpoints import load_checkpoint
from tests.support import toy_corpus

pytestmark = pytest.mark.xdist_group("commands")


def hydra_train(
    root: Path, folder: Path, *overrides: str, recipe: str = "multi30k_en_de", updates: int = 3
) -> toy_corpus.Result:
    data_bin = toy_corpus.corpus()[1]
    sizes = {"embed_dim": 16, "ffn_embed_dim": 16, "layers": 1, "attention_heads": 2}
    small = [f"model.{side}_{k}={v}" for side in ("encoder", "decoder") for k, v in sizes.items()]
    return toy_corpus.run(
        "hydra_train", "--config-dir", str(root / "configs"), "--config-name", recipe,
        *overrides, f"common.user_dir='{toy_corpus.USER_DIR}'", f"task.data='{data_bin}'",
        "task.source_lang=src", "task.target_lang=tgt", f"optimization.max_update={updates}",
        "dataset.num_workers=0", "common.cpu=true", *small, folder=folder,
    )  # fmt: skip


def test_a_sweep_gives_every_run_its_own_folder(root: Path, tmp_path: Path) -> None:
    result = hydra_train(root, tmp_path, "-m", "variant=softmax,rela_g", "seed=1,2")
    assert result.status == 0, result.stderr
    runs = tmp_path / "runs" / "multi30k_en_de"
    found = {str(p.parent.relative_to(runs)) for p in runs.rglob("checkpoint_last.pt")}
    assert found == {f"{v}_tiny/seed{s}" for v in ("softmax", "rela_g") for s in (1, 2)}
    states = {name: load_checkpoint(runs / name / "checkpoint_last.pt") for name in found}
    for name, state in states.items():
        variant, seed = name.split("_tiny/seed")
        assert state["cfg"]["model"]["_name"] == f"seqattn_{variant}"
        assert state["cfg"]["common"]["seed"] == int(seed)
        # fairseq keeps best loss and patience on functions: no run may see another's
        assert state["optimizer_history"][-1]["num_updates"] == 3
        assert state["extra_state"]["best"] == state["extra_state"]["val_loss"]
        assert (runs / name / "checkpoint_best.pt").exists()
    first, second = (states[f"rela_g_tiny/seed{s}"]["model"] for s in (1, 2))
    assert not torch.equal(
        first["encoder.layers.0.fc1.weight"], second["encoder.layers.0.fc1.weight"]
    )


def test_a_sweep_over_experiments_gives_every_run_its_own_folder(
    root: Path, tmp_path: Path
) -> None:
    names = ("softmax_wu2019", "lightconv")
    experiments = ",".join(f"wmt14_en_fr/{name}" for name in names)
    result = hydra_train(
        root, tmp_path, "-m", f"experiment={experiments}", "seed=1,2", recipe="wmt14_en_fr"
    )
    assert result.status == 0, result.stderr
    runs = tmp_path / "runs" / "wmt14_en_fr"
    wanted = {f"{name}/seed{seed}" for name in names for seed in (1, 2)}
    assert {str(p.parent.relative_to(runs)) for p in runs.rglob("checkpoint_last.pt")} == wanted
    assert all((runs / name / "hydra/.hydra/config.yaml").is_file() for name in wanted)


@pytest.mark.parametrize("name", ["luna", "mega", "dynamicconv"])
def test_recipes_with_schedules_of_ours_train(root: Path, tmp_path: Path, name: str) -> None:
    """Apollo with clipped tensors and milestones; linear decay; a cosine that ends."""
    chosen = f"experiment=wmt14_en_de/{name}"
    result = hydra_train(root, tmp_path, chosen, recipe="wmt14_en_de", updates=2)
    assert result.status == 0, result.stderr
    state = load_checkpoint(tmp_path / f"runs/wmt14_en_de/{name}/seed1/checkpoint_last.pt")
    rate = state["last_optimizer_state"]["param_groups"][0]["lr"]
    cfg = state["cfg"]
    start, warmup = (cfg["lr_scheduler"][key] for key in ("warmup_init_lr", "warmup_updates"))
    assert rate == pytest.approx(start + 2 * (cfg["optimization"]["lr"][0] - start) / warmup)


def test_the_batch_of_the_recipe_is_kept_and_said(root: Path, tmp_path: Path) -> None:
    result = hydra_train(root, tmp_path, "experiment=multi30k_en_de/rela_g")
    assert result.status == 0, result.stderr
    line = "8,192 tokens an update = 1 CPU process x 4,096 x update_freq 2"
    assert (result.stdout + result.stderr).count(line) == 1
    folder = tmp_path / "runs/multi30k_en_de/rela_g/seed1"
    cfg = load_checkpoint(folder / "checkpoint_last.pt")["cfg"]
    assert cfg["batch"] == {"tokens": 8192, "max_tokens": 4096}
    assert (cfg["dataset"]["max_tokens"], cfg["optimization"]["update_freq"]) == (4096, [2])
    assert cfg["evaluation"]["paper"] == {"score": None, "source": "ours", "ours": True}
    # the same run where devices hold less
    smaller = ("experiment=multi30k_en_de/rela_g", "dataset.max_tokens=3000")
    again = hydra_train(root, tmp_path, *smaller, updates=4)
    assert again.status == 0, again.stderr
    assert "8,192 tokens an update = 1 CPU process x 2,730 x update_freq 3 = 8,190" in again.stdout
    state = load_checkpoint(folder / "checkpoint_last.pt")
    assert state["optimizer_history"][-1]["num_updates"] == 4
    refused = hydra_train(root, tmp_path, "optimization.update_freq=[2]")
    assert refused.status == 1
    assert (
        "contradict each other; with batch.tokens=null the former holds"
        in (refused.stderr.strip().splitlines()[-1])
    )


def test_a_sweep_that_would_share_a_folder_stops(root: Path, tmp_path: Path) -> None:
    result = hydra_train(root, tmp_path, "-m", "model.dropout=0.1,0.3")
    assert result.status == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "holds a run with model.dropout=0.1, not 0.3; give this one a folder" in last
    result = hydra_train(root, tmp_path, "-m", "dataset.max_tokens=400,200", "seed=3")
    assert "holds a run with batch.max_tokens=400, not 200" in result.stderr
    result = hydra_train(root, tmp_path, "batch.tokens=4096", "seed=3")
    assert "holds a run with batch.tokens=8192, not 4096" in result.stderr
    by_hand = ("batch.tokens=null", "seed=4")
    result = hydra_train(root, tmp_path, "-m", "optimization.update_freq=[2],[3]", *by_hand)
    assert "holds a run with optimization.update_freq=[2], not [3]" in result.stderr
    result = hydra_train(root, tmp_path, "dataset.max_tokens=100", "seed=3")
    assert result.status == 0, result.stderr
    own = "checkpoint.save_dir=runs/dropout${model.dropout}"
    result = hydra_train(root, tmp_path, "-m", "model.dropout=0.1,0.3", own)
    assert result.status == 0, result.stderr
    for rate in (0.1, 0.3):
        state = load_checkpoint(tmp_path / f"runs/dropout{rate}/checkpoint_last.pt")
        assert state["cfg"]["model"]["dropout"] == rate


def test_hydra_and_command_line_train_the_same_weights(root: Path, tmp_path: Path) -> None:
    assert hydra_train(root, tmp_path, "variant=rela_g").status == 0
    result = toy_corpus.run(
        "train", str(toy_corpus.corpus()[1]), "--user-dir", toy_corpus.USER_DIR,
        "--task", "seqattn_translation", "-s", "src", "-t", "tgt", "--arch", "seqattn_rela_g_tiny",
        *toy_corpus.TINY, "--share-all-embeddings", "--dropout", "0.3", "--cpu",
        "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1",
        "--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--lr", "0.005",
        "--lr-scheduler", "inverse_sqrt", "--warmup-updates", "2000",
        "--warmup-init-lr", "1e-07", "--max-tokens", "4096", "--update-freq", "2",
        "--max-update", "3", "--update-epoch-batch-itr", "True", "--num-workers", "0",
        "--save-dir", str(tmp_path / "by command"),
    )  # fmt: skip
    assert result.status == 0, result.stderr
    folders = tmp_path / "runs/multi30k_en_de/rela_g_tiny/seed1", tmp_path / "by command"
    by_hydra, by_command = (load_checkpoint(f / "checkpoint_last.pt")["model"] for f in folders)
    assert by_hydra.keys() == by_command.keys()
    assert all(torch.equal(by_hydra[name], by_command[name]) for name in by_hydra)


def test_an_unknown_variant_is_refused_with_the_known_ones(root: Path, tmp_path: Path) -> None:
    result = hydra_train(root, tmp_path, "variant=relag")
    assert result.status == 1
    assert "Could not find 'variant/relag'" in result.stderr
    assert "rela_g" in result.stderr
