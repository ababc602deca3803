"""Train a recipe on all GPUs of this node, or on several nodes; repeat the command to resume.

  seqattn train multi30k_en_de variant=mega seed=2
  seqattn train experiment=wmt14_en_de/dynamicconv dataset.max_tokens=8000
  seqattn train DATASET --nnodes 2 --node-rank 0 --rendezvous HOST:29500    (on each node)

Recipes are those of configs/; KEY=VALUE overrides are Hydra's. SIGTERM and SIGUSR1 stop the
training after its update with a checkpoint and exit status 75: the same command goes on there.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from omegaconf import DictConfig

import seqattn_fairseq
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.settings import EvaluationSettings
from seqattn_fairseq.launch import agent, devices, nodes, worker
from seqattn_fairseq.launch.composition import CONFIGS, compose, split_words
from seqattn_fairseq.launch.environment import given, quoted
from seqattn_fairseq.launch.lock import alone
from seqattn_fairseq.launch.progress import finished
from seqattn_fairseq.launch.stopping import RESUME_ME

_KEEPING = {
    "last": "keep_last_epochs",
    "best": "keep_best_checkpoints",
    "last_updates": "keep_interval_updates",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``seqattn train``."""
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="DATASET, experiment=DATASET/NAME, KEY=VALUE"
    )
    parser.add_argument(
        "--nproc",
        default="auto",
        metavar="N",
        help="processes on this node (default: one for each GPU, one in all without)",
    )
    parser.add_argument("--nnodes", type=int, default=1, metavar="N", help="number of nodes")
    parser.add_argument(
        "--node-rank", type=int, default=0, metavar="R", help="number of this node, from 0"
    )
    parser.add_argument(
        "--rendezvous", metavar="HOST:PORT", help="where node 0 listens (default: a free port)"
    )
    parser.add_argument(
        "--config-dir", type=Path, default=CONFIGS, metavar="DIR", help="another folder of recipes"
    )
    # options may stand between the words
    parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]


def run(args: argparse.Namespace) -> int:
    """Compose the recipe, start its ranks and wait for them."""
    dataset, overrides = split_words(args.words, args.config_dir)
    if "launcher" in given(overrides):
        raise SeqAttnError(
            "launcher= is for sweeps: fairseq-hydra-train --config-dir configs --config-name "
            f"{dataset} -m launcher=... (docs/multi_gpu.md)"
        )
    here = nodes.parse(args.nnodes, args.node_rank, args.rendezvous)
    words = [*_plugin(overrides), *overrides]
    cfg = compose(dataset, words, args.config_dir)
    cpu = devices.on_cpu(overrides, cfg.common.cpu)
    processes = devices.processes(args.nproc, cpu)
    folder = Path(cfg.checkpoint.save_dir)
    if reason := finished(cfg):
        print(f"{folder} is finished ({reason}): nothing to do")
        return 0
    _check_evaluation(cfg)
    if cpu and cfg.common.fp16:
        raise SeqAttnError("common.fp16=true needs a GPU; leave it out, or take common.bf16=true")
    choose = not cpu and not devices.chooses_precision(cfg.common, overrides)
    words += devices.cpu_words(overrides) if cpu else []
    _announce(cfg, here, processes, cpu)
    command = worker.arguments(dataset, str(args.config_dir.resolve()), words, choose)
    rank = ["-u", "-m", worker.__name__, *command]
    with alone(folder) if here.rank == 0 else nullcontext():
        status = agent.launch(here, processes, rank, folder / "logs")
    if status == RESUME_ME:
        print(f"{folder}: stopped as asked; the same command goes on where it was", file=sys.stderr)
    return status


def _check_evaluation(cfg: DictConfig) -> None:
    """Refuse before the training what could not be evaluated after it.

    Raises:
        SeqAttnError: the section ``evaluation`` is malformed, or averages more than is kept.
    """
    settings = EvaluationSettings.from_dict(cfg.get("evaluation") or {})
    options = cfg.checkpoint
    kept = {average: options[name] for average, name in _KEEPING.items()}
    for average in settings.average:
        if 0 <= kept.get(average, -1) < settings.checkpoints:
            raise SeqAttnError(
                f"evaluation.checkpoints={settings.checkpoints} with evaluation.average={average} "
                f"needs more checkpoints than the {kept[average]} that the training keeps; raise "
                f"checkpoint.{_KEEPING[average]}"
            )


def _plugin(overrides: list[str]) -> list[str]:
    """Return where the plugin is, unless the user says it: recipes look in the current folder."""
    if "common.user_dir" in given(overrides):
        return []
    return [f"common.user_dir={quoted(os.path.abspath(seqattn_fairseq.__path__[0]))}"]


def _announce(cfg: DictConfig, here: nodes.Nodes, processes: int, cpu: bool) -> None:
    device = "CPU, gloo" if cpu else "GPU, nccl"
    print(
        f"{cfg.checkpoint.save_dir}: node {here.rank} of {here.count} starts {processes} "
        f"process{'es' if processes > 1 else ''} ({device})",
        flush=True,
    )
