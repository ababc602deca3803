"""What is written down of a finished experiment: a line of results and a model card."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch

from seqattn_fairseq.checkpoint_files import read_checkpoint
from seqattn_fairseq.data.files import sha256_of, write_atomically
from seqattn_fairseq.data.workspace import tool_versions
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.pipeline import evaluate
from seqattn_fairseq.experiments.cards import model_card
from seqattn_fairseq.experiments.cost import tokens_per_update
from seqattn_fairseq.experiments.plan import Experiment
from seqattn_fairseq.planning.machine import device_name

MODEL_CARD = "model_card.md"

_TOOLS = (
    "seqattn_fairseq",
    "fairseq-fixed",
    "fairseq",
    "torch",
    "sacrebleu",
    "subword-nmt",
    "sacremoses",
)


def record(experiment: Experiment, results: Path) -> str:
    """Write the result of a scored run to its model card and, once, to ``results``.

    Returns what to print: the headline and where it stands.

    Raises:
        SeqAttnError: the run is not trained, or ``results`` is no file of results.
    """
    result = describe(experiment)
    card = experiment.run / MODEL_CARD
    with write_atomically(card) as stream:
        stream.write(model_card(result))
    where = "already there" if not _append(results, result) else "added"
    return f"{result['headline']}\n{results}: line {where}; {card}"


def describe(experiment: Experiment) -> dict[str, Any]:
    """Return everything that decides or describes the scores of a run, in JSON form.

    Raises:
        SeqAttnError: the run is not trained.
    """
    report = evaluate(experiment.run, experiment.settings)
    state = read_checkpoint(experiment.run / "checkpoint_last.pt")
    cfg, history = experiment.cfg, state["optimizer_history"][-1]
    return {
        "experiment": experiment.name,
        "overrides": list(experiment.overrides),
        "variant": experiment.variant,
        "seed": int(cfg.common.seed),
        **report.to_dict(),
        "headline": report.headline(),
        "training": {
            "updates": history["num_updates"],
            "epochs": _epochs_begun(state["extra_state"]["train_iterator"]),
            "tokens_per_update": tokens_per_update(cfg),
            "seconds": round(state["extra_state"].get("previous_training_time", 0.0)),
            "parameters": _parameters(state["model"]),
        },
        "data": _data(experiment.data_bin),
        "machine": _machine(),
        "versions": tool_versions(_TOOLS),
    }


def _epochs_begun(iterator: dict[str, Any]) -> int:
    return int(iterator["epoch"]) - int(iterator["iterations_in_epoch"] == 0)


def _parameters(model: dict[str, torch.Tensor]) -> int:
    """Return the number of trained values, tied tensors once."""
    tensors = {tensor.data_ptr(): tensor.numel() for tensor in model.values()}
    return sum(tensors.values())


def _data(data_bin: Path) -> dict[str, str]:
    files = sorted(data_bin.glob("dict.*.txt"))
    return {"folder": str(data_bin), **{file.name: sha256_of(file) for file in files}}


def _machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {device_name(torch.device('cuda'))}"
    return f"{platform.machine()} {device_name(torch.device('cpu'))}"


def _append(path: Path, result: dict[str, Any]) -> bool:
    """Add a result, unless the last one of the same run has the same scores."""
    lines = read_results(path)
    same = [line for line in lines if _identity(line) == _identity(result)]
    if same:
        return False
    with write_atomically(path) as stream:
        for line in [*lines, result]:
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
    return True


def _identity(result: dict[str, Any]) -> tuple[Any, ...]:
    keys = ("experiment", "overrides", "subsets", "training")
    return tuple(json.dumps(result.get(key), sort_keys=True) for key in keys)


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of results; of one that is not there, none.

    Raises:
        SeqAttnError: a line is damaged; the message names it.
    """
    if not path.exists():
        return []
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], start=1):
        try:
            line = json.loads(text)
            lines.append({**line})
        except (ValueError, TypeError):
            raise SeqAttnError(
                f"{path}:{number}: not a line of results; name another file with --results"
            ) from None
    return lines
