"""What a checkpoint tells about its training: data, seed and the options that make its model."""

from __future__ import annotations

import warnings
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from fairseq import utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import DictConfig, OmegaConf

from seqattn_fairseq.checkpoint_files import read_checkpoint
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.checkpoints import architecture

# what makes two trainings the same but for the seed; where and how fast they ran does not
_SECTIONS = ("task", "model", "criterion", "optimizer", "lr_scheduler", "optimization")
_ELSEWHERE = {"data", "update_freq", "tensorboard_logdir", "seed"}


@dataclass(frozen=True)
class TrainingRecord:
    """The training behind a checkpoint.

    Attributes:
        data: data-bin, as it was given to the training.
        seed: seed of the training.
        updates: number of updates.
        options: flat name (``section.option``) -> value, of all that should agree between seeds.
    """

    data: str
    seed: int | None
    updates: int | None
    options: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "options": dict(self.options)}


def read_training(checkpoint: Path) -> TrainingRecord:
    """Read a checkpoint's record of its training.

    Raises:
        SeqAttnError: the file is missing, damaged or no checkpoint.
    """
    state = read_checkpoint(checkpoint)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # fairseq speaks to Hydra's old interface
        cfg = state.get("cfg") or convert_namespace_to_omegaconf(state["args"])
    sections = {name: _plain(cfg.get(name)) for name in (*_SECTIONS, "common")}
    sections["model"] = _plain(architecture(state))
    history = state.get("optimizer_history") or [{}]
    options = {
        f"{section}.{key}": value
        for section in _SECTIONS
        for key, value in sections[section].items()
        if key not in _ELSEWHERE
    }
    paths = utils.split_paths(sections["task"].get("data") or "")
    return TrainingRecord(
        data=paths[0] if paths else "",
        seed=sections["common"].get("seed"),
        updates=history[-1].get("num_updates"),
        options=options,
    )


def data_bin_of(training: TrainingRecord, checkpoint: Path) -> Path:
    """Return the data-bin that a checkpoint was trained on; an exported one lies in it.

    Raises:
        SeqAttnError: the checkpoint names none.
    """
    if not training.data:
        raise SeqAttnError(f"{checkpoint}: names no data; give the data-bin with --data")
    return checkpoint.parent if training.data == "." else Path(training.data)


def _plain(section: Any) -> dict[str, Any]:
    """Return a section of any of fairseq's kinds as values that JSON can hold."""
    if isinstance(section, DictConfig):
        section = OmegaConf.to_container(section, resolve=True)
    elif isinstance(section, Namespace):
        section = vars(section)
    return {str(key): _value(value) for key, value in dict(section or {}).items()}


def _value(value: Any) -> Any:
    if isinstance(value, Enum):
        return _value(value.value)
    if isinstance(value, (list, tuple)):
        return [_value(one) for one in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
