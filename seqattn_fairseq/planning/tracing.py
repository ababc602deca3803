"""The memory and the work of a training step, from a step on tensors without numbers."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.ops import backend
from seqattn_fairseq.planning.fakes import Fakes
from seqattn_fairseq.planning.step import Shape, Step, Subject
from seqattn_fairseq.planning.work import Work, scratch, work


@dataclass(frozen=True)
class Memory:
    """Bytes of tensors on a device during an update that is not the first.

    Attributes:
        parameters: weights and buffers of model and criterion.
        gradients: of the weights, after the last pass.
        optimizer: what the optimiser keeps from update to update, copies of the weights included.
        peak: most at any moment; at the end of the forward pass or within the backward pass, the
            criterion, or the update.
    """

    parameters: int
    gradients: int
    optimizer: int
    peak: int

    @property
    def fixed(self) -> int:
        """What no batch changes."""
        return self.parameters + self.optimizer + self.gradients

    @property
    def activations(self) -> int:
        """What the peak holds beside weights and the optimiser's part."""
        return self.peak - self.parameters - self.optimizer


@dataclass(frozen=True)
class Trace:
    """A traced update.

    Attributes:
        memory: its bytes.
        passes: the work of one forward and backward pass: how often what was done.
        update: the work of the rest: clipping, optimiser.
    """

    memory: Memory
    passes: Counter[Work]
    update: Counter[Work]


class Tracer:
    """A training on tensors without numbers, built once and traced for any batch.

    Args:
        subject: the training.
        dtype: what the model computes in.
        device: what the model takes itself to be on.

    Raises:
        SeqAttnError: a backend whose kernels run on numbers only; options of the model that
            contradict each other.
    """

    def __init__(self, subject: Subject, dtype: torch.dtype, device: torch.device) -> None:
        if backend.chosen() == "triton":
            raise SeqAttnError(
                f"{backend.VARIABLE}=triton cannot be planned: its kernels run on numbers only; "
                f"plan with {backend.VARIABLE}=torch"
            )
        self.subject = subject
        self._mode = _Recorder()
        with self._mode:
            self._step = Step(subject, device, dtype)
            self._settle()
        gc.collect()  # weights of before their conversion
        modules = (self._step.model, self._step.criterion)
        self._parameters = sum(_bytes(t) for m in modules for t in (*m.parameters(), *m.buffers()))
        self._optimizer = self._mode.live - self._parameters
        self.parameters = sum(p.numel() for p in self._step.parameters)
        accumulates = int(subject.cfg.optimization.update_freq[0]) > 1
        self._rounds = 2 if accumulates else 1

    def _settle(self) -> None:
        """Take an update that costs nothing, for the optimiser to make what it keeps."""
        step = self._step
        step.optimizer.backward(sum(p.sum() for p in step.parameters))
        step.update(1)

    def trace(self, shape: Shape) -> Trace:
        """Return memory and work of an update with batches of this shape.

        Raises:
            SeqAttnError: a criterion that needs more than sentences.
        """
        gc.collect()
        with self._mode:
            sample = self._step.sample(shape)
            self._mode.start()
            for _ in range(self._rounds):
                self._mode.work.clear()
                self._passes(sample)
            passes = Counter(self._mode.work)
            gradients = sum(_bytes(p.grad) for p in self._step.parameters if p.grad is not None)
            self._mode.work.clear()
            self._step.update(sample["ntokens"])
        memory = Memory(self._parameters, gradients, self._optimizer, self._mode.peak)
        return Trace(memory, passes, Counter(self._mode.work))

    def _passes(self, sample: dict[str, Any]) -> None:
        try:
            self._step.passes(sample)
        except KeyError as error:
            name = self._step.subject.cfg.criterion._name
            raise SeqAttnError(
                f"criterion {name} cannot be planned: its batches need {error}; plan with "
                "seqattn_label_smoothed_cross_entropy"
            ) from error


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class _Recorder(TorchDispatchMode):
    """Counts live bytes by storage, and work by operator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self.work: Counter[Work] = Counter()
        self._fakes = Fakes()
        self._storages: dict[int, weakref.ref[Any]] = {}

    def start(self) -> None:
        """Forget the peak so far."""
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = self._fakes(func, args, kwargs)
        if func.namespace != "prim":  # questions to a tensor: fakes answer them here
            self.work[work(func, args, kwargs, out)] += 1
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._follow(leaf)
        self.peak = max(self.peak, self.live + scratch(func, args))
        return out

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._storages:
            return

        def gone(_: Any) -> None:
            del self._storages[key]
            self.live -= size

        self._storages[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)
