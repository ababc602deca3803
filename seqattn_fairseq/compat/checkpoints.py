"""Checkpoints: copied atomically, refused in one clear line, replaced by the newest good one."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager
from fairseq.trainer import Trainer

from seqattn_fairseq.checkpoint_files import DamagedCheckpointError, explained, verify_contents
from seqattn_fairseq.compat.workaround import Workaround, always, source_contains
from seqattn_fairseq.errors import SeqAttnError

logger = logging.getLogger(__name__)

# The task whose training is being resumed: Trainer does not hand a checkpoint's task state over.
_resuming: ContextVar[Any] = ContextVar("seqattn_resuming", default=None)

# Where --patience stands, in a checkpoint's extra state
_PATIENCE_KEY = "seqattn_patience"


# ---- atomic copy -------------------------------------------------------------------------------


def _copy_atomically() -> None:
    original = PathManager.copy

    @wraps(original)
    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> Any:
        if PathManager.path_requires_pathmanager(dst_path):
            return original(src_path, dst_path, overwrite)
        partial = f"{dst_path}.tmp"
        shutil.copyfile(src_path, partial)
        os.replace(partial, dst_path)
        return dst_path

    PathManager.copy = staticmethod(copy)


# ---- one line for what cannot be loaded --------------------------------------------------------


def _misfit(path: str, error: BaseException | None, remedy: str) -> SeqAttnError:
    """Say in one line which parameter of ``path`` does not fit the model."""
    details = [line.strip() for line in str(error or "").splitlines()]
    sizes = [line for line in details if line.startswith("size mismatch")]
    detail = (sizes or details[1:] or ["no details"])[0].rstrip(".")
    return SeqAttnError(f"{path}: its parameters do not fit this model ({detail[:200]}); {remedy}")


def _verify_dictionaries(state: dict[str, Any]) -> None:
    task = _resuming.get()
    if task is not None:
        from seqattn_fairseq.tasks.dictionaries import verify_task_state

        verify_task_state(task, state.get("task_state") or {})


def _test_before_upgrading() -> None:
    """Let fairseq's upgrade of old checkpoints see checkpoints only."""
    upgrade = checkpoint_utils._upgrade_state_dict

    @wraps(upgrade)
    def _upgrade_state_dict(state: Any) -> Any:
        verify_contents(state)
        return upgrade(state)

    checkpoint_utils._upgrade_state_dict = _upgrade_state_dict


def _explain_unreadable_files() -> None:
    _test_before_upgrading()
    load_file = checkpoint_utils.load_checkpoint_to_cpu
    load_models = checkpoint_utils.load_model_ensemble_and_task

    @wraps(load_file)
    def load_checkpoint_to_cpu(path: str, *args: Any, **kwargs: Any) -> Any:
        with explained(path):
            state = load_file(path, *args, **kwargs)
        _verify_dictionaries(state)
        return state

    @wraps(load_models)
    def load_model_ensemble_and_task(filenames: list[str], *args: Any, **kwargs: Any) -> Any:
        try:
            return load_models(filenames, *args, **kwargs)
        except OSError as error:
            if "Model file not found" in str(error):
                raise SeqAttnError(f"{error}; --path takes checkpoint files") from None
            raise
        except RuntimeError as error:
            if "Error(s) in loading state_dict" in str(error):
                names = os.pathsep.join(map(str, filenames))
                remedy = "use the dictionaries that it was trained with, or another checkpoint"
                raise _misfit(names, error, remedy) from error
            raise

    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu
    checkpoint_utils.load_model_ensemble_and_task = load_model_ensemble_and_task


# ---- resuming ----------------------------------------------------------------------------------


def _updates(path: Path) -> int | None:
    """Return the number of updates of a checkpoint that can be resumed from, else ``None``."""
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        resumable = state["last_optimizer_state"] is not None and state["extra_state"]
        return int(state["optimizer_history"][-1]["num_updates"]) if resumable else None
    except Exception:  # whatever is wrong with it, it is no candidate
        return None


def _substitutes(last: Path) -> Iterator[Path]:
    """Yield the run's other checkpoints that look whole, the most trained first.

    Only fairseq's own names count: averaged or exported models may lie in the same folder.
    """
    suffix = re.escape(last.stem.removeprefix("checkpoint_last"))
    name = re.compile(rf"checkpoint(\d+|_\d+_\d+|_best|\.best_\w+_[\d.]+?){suffix}\.pt")
    others = [path for path in last.parent.iterdir() if name.fullmatch(path.name)]
    updates = {path: _updates(path) for path in sorted(others)}
    good = [path for path in updates if updates[path] is not None]
    yield from sorted(good, key=lambda path: updates[path] or 0, reverse=True)


def _load_or_substitute(load: Any, trainer: Trainer, filename: str, args: Any, kwargs: Any) -> Any:
    """Load ``filename``; if it is damaged and the run's own last one, the newest good other."""
    try:
        return load(trainer, filename, *args, **kwargs)
    except DamagedCheckpointError as error:
        restore = trainer.cfg.checkpoint.restore_file
        last = Path(filename)
        if restore != "checkpoint_last.pt" or not last.name.startswith("checkpoint_last"):
            raise
        damage = error
    for path in _substitutes(last):
        try:
            state = load(trainer, str(path), *args, **kwargs)
        except DamagedCheckpointError as error:
            logger.warning(str(error))
            continue
        logger.warning(f"{damage}: RESUMED FROM {path} instead, the newest good one")
        return state
    raise SeqAttnError(f"{damage}; {last.parent} has no other good one: empty it to start afresh")


def _resume_from_newest_good() -> None:
    original = Trainer.load_checkpoint

    @wraps(original)
    def load_checkpoint(self: Trainer, filename: str, *args: Any, **kwargs: Any) -> Any:
        token = _resuming.set(self.task)
        try:
            return _load_or_substitute(original, self, filename, args, kwargs)
        except SeqAttnError:
            raise
        except AssertionError as error:
            if "please reset the optimizer" in str(error):
                raise SeqAttnError(f"{filename}: {error}") from error
            raise
        except Exception as error:
            if str(error).startswith("Cannot load model parameters"):
                remedy = (
                    "use the architecture, sizes and dictionaries that it was trained with, or "
                    "another --save-dir"
                )
                raise _misfit(filename, error.__context__, remedy) from error
            raise
        finally:
            _resuming.reset(token)

    Trainer.load_checkpoint = load_checkpoint


# ---- several trainings in one process ----------------------------------------------------------


def _patience() -> dict[str, Any]:
    """Return the attributes that fairseq-train keeps on its early-stopping function."""
    for name in ("fairseq_cli.train", "__main__"):
        stop = getattr(sys.modules.get(name), "should_stop_early", None)
        if stop is not None:
            attributes: dict[str, Any] = vars(stop)
            return attributes
    return {}


def _save_patience() -> None:
    original = Trainer.save_checkpoint

    @wraps(original)
    def save_checkpoint(self: Trainer, filename: str, extra_state: dict[str, Any]) -> Any:
        return original(self, filename, {**extra_state, _PATIENCE_KEY: dict(_patience())})

    Trainer.save_checkpoint = save_checkpoint


def _end_if_finished(cfg: Any, trainer: Trainer) -> None:
    """Let a training that has reached its end do nothing when its command is repeated."""
    optimization = trainer.cfg.optimization
    impatient = 0 < cfg.patience <= _patience().get("num_runs", 0)
    if impatient or 0 < optimization.max_update <= trainer.get_num_updates():
        logger.warning("this training is finished (--max-update or --patience): nothing to do")
        optimization.stop_min_lr = math.inf  # fairseq-train looks at it before every epoch


def _separate_trainings() -> None:
    original = checkpoint_utils.load_checkpoint

    @wraps(original)
    def load_checkpoint(cfg: Any, trainer: Trainer, **kwargs: Any) -> Any:
        # the first thing that a training does with its checkpoints, once
        vars(checkpoint_utils.save_checkpoint).pop("best", None)
        _patience().clear()
        extra_state, epoch_iterator = original(cfg, trainer, **kwargs)
        resumed = trainer.get_num_updates() > 0  # fine-tuning starts at 0 and has no past
        if extra_state and resumed and not (cfg.reset_meters or cfg.reset_optimizer):
            _patience().update(extra_state.get(_PATIENCE_KEY, {}))
            _end_if_finished(cfg, trainer)
        return extra_state, epoch_iterator

    checkpoint_utils.load_checkpoint = load_checkpoint
    _save_patience()


WORKAROUNDS = (
    Workaround(
        "atomic checkpoint copy",
        "fairseq copies checkpoint_last.pt in place: a kill during the copy left half a file and "
        "a run that could not be resumed",
        lambda: source_contains(PathManager.copy, "shutil.copyfile"),
        _copy_atomically,
    ),
    Workaround(
        "unreadable checkpoints",
        "a truncated, empty, foreign or malicious checkpoint gave a traceback without its name",
        always,
        _explain_unreadable_files,
    ),
    Workaround(
        "resume from the newest good checkpoint",
        "a damaged checkpoint_last.pt stopped a run although good checkpoints lay beside it, and "
        "other dictionaries than the run's went unnoticed",
        always,
        _resume_from_newest_good,
    ),
    Workaround(
        "one training, one history",
        "each run of a Hydra sweep inherited best loss and patience of the one before, had no best "
        "checkpoint and stopped early; a resumed run forgot its patience and stopped late; a "
        "finished one trained on when its command was repeated",
        lambda: source_contains(checkpoint_utils.save_checkpoint, "save_checkpoint.best"),
        _separate_trainings,
    ),
)
