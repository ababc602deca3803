"""Model names and options: old checkpoints get new defaults, wrong names the right spelling."""

from __future__ import annotations

import logging
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, models
from fairseq.dataclass import initialize
from fairseq.dataclass.utils import merge_with_parent
from fairseq.distributed.utils import is_master
from fairseq.trainer import Trainer
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ValidationError

from seqattn_fairseq.compat.workaround import Workaround, always, rebind
from seqattn_fairseq.errors import SeqAttnError, nearest
from seqattn_fairseq.launch.progress import DECISIVE, Wanted, decisive, refuse_another_run
from seqattn_fairseq.optim.batch import apply_batch

_logger = logging.getLogger(__name__)


def _refuse_unknown_model(name: str | None) -> None:
    known = {*models.ARCH_MODEL_REGISTRY, *models.MODEL_REGISTRY}
    if name and name not in known:
        raise SeqAttnError(
            f"model '{name}' is not registered{nearest(name, known)}; a model of another plugin "
            "needs that plugin's --user-dir"
        )


def _with_defaults(cfg: Any, name: str | None) -> Any:
    """Fill options that the model has gained since ``cfg``, named by an architecture, was saved."""
    dataclass = models.MODEL_DATACLASS_REGISTRY.get(models.ARCH_MODEL_NAME_REGISTRY.get(name))
    if dataclass is None or name in models.MODEL_DATACLASS_REGISTRY:
        return cfg
    return merge_with_parent(dataclass(), cfg, remove_missing=True)


def _without_vectors(cfg: DictConfig) -> DictConfig:
    """Forget files of pre-trained embeddings: the checkpoint's weights replace them anyway."""
    with open_dict(cfg):
        for name in ("encoder_embed_path", "decoder_embed_path"):
            if name in cfg:
                cfg[name] = None
    return cfg


def _merge_defaults() -> None:
    original = models.build_model

    @wraps(original)
    def build_model(cfg: Any, task: Any, from_checkpoint: bool = False) -> Any:
        name = getattr(cfg, "_name", None) or getattr(cfg, "arch", None)
        _refuse_unknown_model(name)
        if from_checkpoint and isinstance(cfg, DictConfig):
            cfg = _without_vectors(_with_defaults(cfg, name))
        return original(cfg, task, from_checkpoint)

    rebind(original, build_model)


def _refuse_architecture_in_yaml(cfg: DictConfig) -> None:
    """Refuse ``model._name: <architecture>``: Hydra would build the base size without a word."""
    by_hydra = HydraConfig.initialized() or "job_logging_cfg" in cfg
    name = getattr(cfg.get("model"), "_name", None)
    model = models.ARCH_MODEL_NAME_REGISTRY.get(name)
    if by_hydra and model != name and str(model).startswith("seqattn_"):
        size = str(name).removeprefix(f"{model}_")
        raise SeqAttnError(
            f"model._name: '{name}' is an architecture of the fairseq-train command line; write "
            f"model._name: {model} and choose its size with size={size}"
        )


def _check_hydra_names() -> None:
    original = initialize.add_defaults

    @wraps(original)
    def add_defaults(cfg: DictConfig) -> None:
        _refuse_architecture_in_yaml(cfg)
        try:
            original(cfg)
        except (ConfigAttributeError, ConfigKeyError) as error:
            options = error.object_type
            fields = getattr(options, "__dataclass_fields__", None)
            if options is None or fields is None:
                raise
            raise SeqAttnError(
                f"{options.__name__} has no option '{error.full_key}'"
                f"{nearest(str(error.key), fields)}"
            ) from error
        except ValidationError as error:
            line = str(error).partition("\n")[0]
            raise SeqAttnError(f"option '{error.full_key}': {line}") from error

    rebind(original, add_defaults)


def _keep_the_batch() -> None:
    """Cut the batch where every start of a training passes and the number of GPUs is settled."""
    original = Trainer.__init__

    @wraps(original)
    def __init__(self: Any, cfg: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        batch = apply_batch(cfg)
        if batch and is_master(cfg.distributed_training):
            cpu = cfg.common.cpu or not torch.cuda.is_available()
            _logger.info(batch.describe("CPU process" if cpu else "GPU"))
            longest = max(cfg.model.max_source_positions, cfg.model.max_target_positions)
            if warning := batch.warning(longest):
                _logger.warning(warning)
        original(self, cfg, *args, **kwargs)

    Trainer.__init__ = __init__


# A run may go on elsewhere with its batch cut another way; the jobs of a sweep may not. Where the
# recipe says the tokens of an update (batch), the cut itself depends on the number of GPUs alone.
_OF_A_SWEEP: Wanted = {
    **DECISIVE,
    "batch": ("tokens", "max_tokens"),
    "dataset": ("batch_size",),
}
_OF_A_SWEEP_CUT_BY_HAND: Wanted = {
    **_OF_A_SWEEP,
    "dataset": ("max_tokens", "batch_size"),
    "optimization": ("lr", "clip_norm", "update_freq"),
}


def _decisive(cfg: Any) -> dict[str, Any]:
    wanted = DECISIVE
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        by_hand = (cfg.get("batch") or {}).get("tokens") is None
        wanted = _OF_A_SWEEP_CUT_BY_HAND if by_hand else _OF_A_SWEEP
    return decisive(cfg, wanted)


def _refuse_another_runs_folder(checkpoint: Any, trainer: Any) -> None:
    """Refuse, in a Hydra job, to continue a run with another configuration."""
    last = Path(checkpoint.save_dir, "checkpoint_last.pt")
    resets = any(value for name, value in checkpoint.items() if name.startswith("reset_"))
    if "job_logging_cfg" not in trainer.cfg or resets or not last.is_file():
        return
    try:
        saved = _decisive(torch.load(last, mmap=True, weights_only=True)["cfg"])
    except Exception:  # damaged or foreign: loading it says so
        return
    wanted = _decisive(OmegaConf.to_container(trainer.cfg, resolve=True, enum_to_str=True))
    refuse_another_run(checkpoint.save_dir, saved, wanted)


def _keep_runs_apart() -> None:
    original = checkpoint_utils.load_checkpoint

    @wraps(original)
    def load_checkpoint(checkpoint: Any, trainer: Any, **kwargs: Any) -> Any:
        _refuse_another_runs_folder(checkpoint, trainer)
        return original(checkpoint, trainer, **kwargs)

    checkpoint_utils.load_checkpoint = load_checkpoint


WORKAROUNDS = (
    Workaround(
        "the batch of a recipe",
        "fairseq's effective batch is max_tokens x GPUs x update_freq, so the same recipe is "
        "another one on another number of GPUs; batch.tokens keeps it",
        always,
        _keep_the_batch,
    ),
    Workaround(
        "defaults for old checkpoints",
        "a checkpoint named by an architecture lacks every option added to the model since, and "
        "fairseq merges defaults only into those named by a model; files of pre-trained "
        "embeddings, which the weights replace, must no longer exist",
        always,
        _merge_defaults,
    ),
    Workaround(
        "names in Hydra configurations",
        "an architecture name in model._name trains the base size without a word, and a "
        "misspelt option ends in a traceback",
        always,
        _check_hydra_names,
    ),
    Workaround(
        "one folder, one run",
        "a Hydra job went on with the checkpoint of another configuration that it found in its "
        "folder, as the second of a sweep over an option that is no part of the folder's name",
        always,
        _keep_runs_apart,
    ),
)
