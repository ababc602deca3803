"""A training that meets NaN or infinity stops with one line that names the layer and the update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any

from fairseq import nan_detector
from fairseq.trainer import Trainer
from torch import Tensor, nn

from seqattn_fairseq.compat.workaround import Workaround, always, rebind
from seqattn_fairseq.errors import SeqAttnError


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))


def _defect(tensor: Tensor) -> str:
    if not tensor.is_floating_point() or tensor.isfinite().all():
        return ""
    return "NaN" if tensor.isnan().any() else "infinity"


class FirstNonFinite:
    """Watches one forward and backward pass for the first NaN or infinity.

    Takes the place and the arguments of fairseq's NanDetector. Hidden infinities that a mask
    removes later (scores of minus infinity) are no module's output and raise no alarm.

    Attributes:
        finding: of the last pass that was watched: what was found first, and where.
    """

    finding = ""

    def __init__(self, model: nn.Module, forward: bool = True, backward: bool = True) -> None:
        self._model = model
        self._forward = forward
        self._backward = backward
        self._hooks: list[Any] = []

    def __enter__(self) -> FirstNonFinite:
        FirstNonFinite.finding = ""
        for name, module in self._model.named_modules():
            self._hooks.append(module.register_forward_hook(self._watch(name or "the model")))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _watch(self, name: str) -> Any:
        def on_output(module: nn.Module, inputs: Any, output: Any) -> None:
            for tensor in _tensors(output):
                if self._forward:
                    self._note(tensor, f"the output of {name}")
                if self._backward and tensor.requires_grad:
                    tensor.register_hook(on_gradient)

        def on_gradient(gradient: Tensor) -> None:
            self._note(gradient, f"the gradient of the output of {name}")

        return on_output

    def _note(self, tensor: Tensor, place: str) -> None:
        if not FirstNonFinite.finding and (defect := _defect(tensor)):
            FirstNonFinite.finding = f"{defect} in {place}"


def _stop_with_one_line() -> None:
    rebind(nan_detector.NanDetector, FirstNonFinite)
    original = Trainer.train_step

    @wraps(original)
    def train_step(self: Any, samples: Any, raise_oom: bool = False) -> Any:
        try:
            return original(self, samples, raise_oom)
        except FloatingPointError as error:
            reason = " ".join(str(error).split())
            if FirstNonFinite.finding:
                reason = f"{FirstNonFinite.finding} ({reason})"
            raise SeqAttnError(
                f"update {self.get_num_updates() + 1}: {reason}; lower --lr, lengthen "
                "--warmup-updates, or set --clip-norm; the weights are in crash.pt"
            ) from error

    Trainer.train_step = train_step


WORKAROUNDS = (
    Workaround(
        "non-finite numbers",
        "fairseq prints every gradient when it meets NaN or infinity, and its detector dies on "
        "modules that return a dict, so that the layer is not named",
        always,
        _stop_with_one_line,
    ),
)
