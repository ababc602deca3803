"""A recipe of seconds, and its ranks as processes: with torchrun's agent or without."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from seqattn_fairseq.launch import devices, nodes, worker
from tests.support import toy_corpus
from tests.support.interruption import training_state

RECIPE = """
defaults:
  - _self_
  - size: tiny
  - launcher: null

hydra:
  job: {chdir: false}
  run: {dir: "${checkpoint.save_dir}/hydra"}
  sweep: {dir: runs/sweep, subdir: "${hydra.job.num}"}
"""

# Sizes are a group: what follows fairseq's own defaults in the list wins over them.
SIZE = f"""
# @package _global_
common: {{user_dir: '{toy_corpus.USER_DIR}', cpu: true, log_format: simple, log_interval: 1}}
task: {{_name: seqattn_translation, data: '', source_lang: src, target_lang: tgt}}
model:
  _name: seqattn_softmax
  dropout: 0.0
  encoder_embed_dim: 16
  encoder_ffn_embed_dim: 16
  encoder_layers: 1
  encoder_attention_heads: 2
  decoder_embed_dim: 16
  decoder_ffn_embed_dim: 16
  decoder_layers: 1
  decoder_attention_heads: 2
criterion: {{_name: label_smoothed_cross_entropy, label_smoothing: 0.1}}
optimizer: {{_name: adam}}
lr_scheduler: {{_name: inverse_sqrt, warmup_updates: 4}}
optimization: {{lr: [0.005], max_epoch: 2, update_freq: [1]}}
dataset:
  max_tokens: 200
  num_workers: 0
  update_epoch_batch_itr: true
distributed_training: {{heartbeat_timeout: 600}}
"""


def recipes(folder: Path) -> Path:
    """Write a folder of recipes that holds one, ``toy``; return it."""
    (folder / "size").mkdir(parents=True)
    (folder / "toy.yaml").write_text(RECIPE)
    data = SIZE.replace("data: ''", f"data: '{toy_corpus.corpus()[1]}'")
    (folder / "size" / "tiny.yaml").write_text(data)
    return folder


def save_dir(folder: Path) -> str:
    """Return the override that puts a run into ``folder``."""
    return f"checkpoint.save_dir='{folder}'"


class Command:
    """``seqattn train toy ...`` as a real process; its outputs go to files of ``folder``."""

    def __init__(self, folder: Path, *words: str, **environ: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.files = [folder / "command.out", folder / "command.err"]
        out, err = (path.open("wb") for path in self.files)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "seqattn_fairseq.cli.main", "train", *words],
            stdout=out, stderr=err, cwd=folder, env={**os.environ, **environ},
        )  # fmt: skip

    @property
    def out(self) -> str:
        return self.files[0].read_text(errors="replace")

    @property
    def err(self) -> str:
        return self.files[1].read_text(errors="replace")

    def wait_for(self, words: str, seconds: float = 150) -> None:
        """Wait until the command has printed ``words``."""
        end = time.monotonic() + seconds
        while words not in self.out:
            assert self.process.poll() is None, self.err
            assert time.monotonic() < end, self.out[-2000:]
            time.sleep(0.05)

    def wait(self, seconds: float = 150) -> int:
        """Wait for the end; return the exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()  # its ranks notice
            raise


def environ(rank: int, world_size: int, port: int, local: bool = True) -> dict[str, str]:
    """Return torchrun's variables; without ``local``, every rank is alone on its node."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank if local else 0),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size if local else 1),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _rank_main(
    variables: Mapping[str, str], arguments: Sequence[str], output: Path, folder: Path, program: Any
) -> None:
    os.environ.update(variables)
    nothing = output.with_suffix(".in")
    nothing.touch()
    toy_corpus._redirect(output, nothing)
    os.chdir(folder)
    try:
        program(arguments)
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


def run_programs(
    program: Any, arguments: Sequence[Sequence[str]], scratch: Path
) -> list[toy_corpus.Result]:
    """Run a program once for each list of arguments, as ranks that torchrun started.

    They are forked from a process that has imported fairseq; their outputs go to ``scratch``.
    """
    port = nodes.here().port
    started: list[tuple[ForkServerProcess, Path]] = []
    for rank, own in enumerate(arguments):
        output = scratch / f"rank{rank}.log"
        variables = environ(rank, len(arguments), port)
        process = toy_corpus._context.Process(
            target=_rank_main, args=(variables, own, output, scratch, program)
        )
        process.start()
        started.append((process, output))
    return [toy_corpus.finish(*pair) for pair in started]


def run_ranks(
    count: int,
    run: Path,
    recipe_dir: Path,
    *words: str,
    program: Any = worker.main,
    own_words: Sequence[Sequence[str]] = ((), ()),
) -> list[toy_corpus.Result]:
    """Train ``toy`` in folder ``run`` with ranks that write into a folder beside it."""
    scratch = run.with_name(f"{run.name} scratch")
    scratch.mkdir(exist_ok=True)
    common = [save_dir(run), *devices.cpu_words([]), *words]
    arguments = [
        worker.arguments("toy", str(recipe_dir), [*common, *own_words[rank]], choose=False)
        for rank in range(count)
    ]
    return run_programs(program, arguments, scratch)


def train(
    count: int, run: Path, recipe_dir: Path, *words: str, program: Any = worker.main
) -> list[toy_corpus.Result]:
    """Train as :func:`run_ranks` does; all ranks must end well."""
    results = run_ranks(count, run, recipe_dir, *words, program=program)
    assert [result.status for result in results] == [0] * count, results
    return results


def state(run: Path) -> dict[str, Any]:
    """Return what a run's last checkpoint has learnt, and where it stands."""
    return training_state(run / "checkpoint_last.pt")
