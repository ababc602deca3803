"""fairseq against today's torch and numpy."""

from __future__ import annotations

import argparse
import io
import os
import pickle
from functools import wraps
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from fairseq.data import data_utils, language_pair_dataset
from fairseq.models import distributed_fairseq_model
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from seqattn_fairseq.compat.workaround import Workaround, rebind, source_contains

# ---- safe loading ------------------------------------------------------------------------------


def _namespace_is_refused() -> bool:
    buffer = io.BytesIO()
    torch.save(argparse.Namespace(), buffer)
    buffer.seek(0)
    try:
        torch.load(buffer)
    except pickle.UnpicklingError:
        return True
    return False


def _checkpoint_types() -> list[Any]:
    """Return what fairseq puts into checkpoints beyond tensors and plain Python values."""
    multiarray = (np._core if hasattr(np, "_core") else np.core).multiarray
    constructors = [
        (getattr(multiarray, function), f"{package}.multiarray.{function}")
        for function in ("_reconstruct", "scalar")
        for package in ("numpy._core", "numpy.core")  # numpy 2 and 1 pickle different names
    ]
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}
    return [argparse.Namespace, np.ndarray, np.dtype, *dtypes, *constructors]


def _allow_checkpoint_types() -> None:
    torch.serialization.add_safe_globals(_checkpoint_types())


# ---- length buckets ----------------------------------------------------------------------------


def _buckets_fail() -> bool:
    try:
        data_utils.get_buckets(np.array([1, 2]), 1)
    except TypeError:
        return True
    return not hasattr(np, "compat")


def _get_buckets(sizes: Any, num_buckets: int) -> Any:
    quantiles = np.linspace(0, 100, num_buckets + 1)
    return np.unique(np.percentile(sizes, quantiles, method="lower")[1:])


def _repair_buckets() -> None:
    rebind(data_utils.get_buckets, _get_buckets)
    # LanguagePairDataset asks for np.compat.long; a private copy of the namespace serves it
    # without changing numpy for anybody else.
    private = ModuleType("numpy")
    vars(private).update(vars(np), compat=SimpleNamespace(long=int))
    language_pair_dataset.np = private


# ---- data-parallel on CPU ----------------------------------------------------------------------


def _repair_cpu_data_parallel() -> None:
    wrapper = distributed_fairseq_model.DistributedDataParallel

    def data_parallel(module: torch.nn.Module, **kwargs: Any) -> torch.nn.Module:
        if all(parameter.device.type == "cpu" for parameter in module.parameters()):
            kwargs.update(device_ids=None, output_device=None)
        wrapped: torch.nn.Module = wrapper(module=module, **kwargs)
        return wrapped

    distributed_fairseq_model.DistributedDataParallel = data_parallel


# ---- data workers ------------------------------------------------------------------------------


def _leave_the_parents_workers() -> None:
    """Let a forked worker drop its copy of the parent's iterator without touching its workers."""
    original = _MultiProcessingDataLoaderIter.__del__

    @wraps(original)
    def __del__(self: Any) -> None:  # noqa: N807
        if all(worker._parent_pid == os.getpid() for worker in getattr(self, "_workers", ())):
            original(self)

    _MultiProcessingDataLoaderIter.__del__ = __del__  # type: ignore[method-assign]


WORKAROUNDS = (
    Workaround(
        "safe checkpoint loading",
        "torch >= 2.6 unpickles only what is on its list, and fairseq's checkpoints hold "
        "argparse.Namespace and numpy scalars: these are added, weights_only stays on",
        _namespace_is_refused,
        _allow_checkpoint_types,
    ),
    Workaround(
        "length buckets",
        "--num-batch-buckets uses names that numpy 2 no longer has",
        _buckets_fail,
        _repair_buckets,
    ),
    Workaround(
        "data-parallel training on CPU",
        "fairseq passes GPU numbers to DistributedDataParallel, which refuses them with --cpu",
        lambda: source_contains(
            distributed_fairseq_model.DistributedFairseqModel, "device_ids=[args.device_id]"
        ),
        _repair_cpu_data_parallel,
    ),
    Workaround(
        "tracebacks of data workers",
        "a data worker that drops its copy of the last epoch's iterator asks for workers that are "
        "not its own: an ignored AssertionError, with traceback, in every other epoch's log",
        lambda: not source_contains(_MultiProcessingDataLoaderIter.__del__, "getpid"),
        _leave_the_parents_workers,
    ),
)
