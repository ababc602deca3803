"""Stand-ins on the CPU for the CUDA graphs that training steps are recorded as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def tensors_of(result: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


class StandIn:
    """Like a graph: recording leaves no trace, and outputs are always in the same memory."""

    def __init__(self) -> None:
        self.eager = self.recorded = self.replayed = 0
        self.parameters: list[nn.Parameter] = []

    def run(self, function: Callable[[], Any]) -> Any:
        self.eager += 1
        return function()

    def record(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        self.recorded += 1
        gradients = [None if p.grad is None else p.grad.clone() for p in self.parameters]
        generator = torch.get_rng_state()
        result, again = self.taken(function)
        torch.set_rng_state(generator)
        for parameter, before in zip(self.parameters, gradients, strict=True):
            assert (parameter.grad is None) == (before is None)
            if parameter.grad is not None and before is not None:
                parameter.grad.copy_(before)
        outputs = tensors_of(result)
        for output in outputs:  # a graph that was not replayed has computed nothing
            output.fill_(float("nan") if output.is_floating_point() else -1)

        def replay() -> None:
            self.replayed += 1
            with torch.no_grad():
                again()

        return result, replay

    def taken(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        raise NotImplementedError


class Rerun(StandIn):
    """Runs the function again, so that it may look at values, as models do on a CPU."""

    def taken(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        result = function()
        outputs = tensors_of(result)

        def again() -> None:
            with torch.enable_grad():
                for output, value in zip(outputs, tensors_of(function()), strict=True):
                    output.copy_(value)

        return result, again


READS = {f"aten::{name}" for name in ("_local_scalar_dense", "nonzero", "masked_select")}


class Tape(StandIn):
    """Repeats the operations on tensors, on the memory they had, and no line of Python.

    Numbers that Python has seen while it recorded stay as they were, as in a graph; what would
    have it see values of tensors is refused, as on a GPU that records.
    """

    def taken(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        tape: list[tuple[Any, Any, Any, Any]] = []

        class Recording(TorchDispatchMode):
            def __torch_dispatch__(
                self, op: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                if op._schema.name in READS:
                    raise RuntimeError(f"{op}: operation not permitted when stream is capturing")
                out = op(*args, **(kwargs or {}))
                tape.append((op, args, kwargs or {}, out))
                return out

        with Recording():
            result = function()

        def again() -> None:
            for op, args, kwargs, out in tape:
                values = tensors_of(op(*args, **kwargs))
                for known, value in zip(tensors_of(out), values, strict=True):
                    if known.data_ptr() != value.data_ptr():  # neither a view nor in place
                        known.copy_(value)

        return result, again
