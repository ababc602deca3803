"""The tools of the key maps: placing every official parameter once, or saying why not.

Everything done to a tensor here is differentiable (views, transposes, sums), so that gradients with
respect to official parameters flow through a conversion: the parity checks rely on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError


@dataclass(frozen=True)
class OfficialModel:
    """A whole model as its official code saved it.

    Attributes:
        state: its state dict.
        options: the arguments it was trained with, by their official names; may be empty.
    """

    state: Mapping[str, Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)

    def has(self, *parts: str) -> bool:
        """Tell whether some parameter's name contains each of the parts."""
        return all(any(part in name for name in self.state) for part in parts)

    def option(self, name: str) -> Any:
        """Return an official argument.

        Raises:
            SeqAttnError: the file does not hold it.
        """
        if name not in self.options:
            raise SeqAttnError(f"the checkpoint does not tell {name}; --set {name}=VALUE does")
        return self.options[name]


@dataclass(frozen=True)
class Conversion:
    """An official model in our terms.

    Attributes:
        variant: the variant it is.
        options: what of the variant's configuration follows from the official arguments and shapes.
        state: our state dict, tied entries included.
        dropped: official name -> why it has no place here.
    """

    variant: str
    options: dict[str, Any]
    state: dict[str, Tensor]
    dropped: dict[str, str]


@dataclass(frozen=True)
class Origin:
    """One official code, recognised by the names, shapes and arguments it leaves behind.

    Attributes:
        name: one line for messages, with the version.
        recognises: whether a model is this code's.
        convert: the key map.
        untold: arguments that neither names nor shapes tell; a file without any arguments needs
            them given.
    """

    name: str
    recognises: Callable[[OfficialModel], bool]
    convert: Callable[[OfficialModel], Conversion]
    untold: tuple[str, ...] = ()


class Keys:
    """The official tensors still to be placed, and ours as they come.

    Attributes:
        ours: what has been placed, by our names.
        dropped: official name -> reason.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._left = dict(state)
        self.ours: dict[str, Tensor] = {}
        self.dropped: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def names(self, start: str = "") -> list[str]:
        """Return the names still to be placed that begin so."""
        return [name for name in self._left if name.startswith(start)]

    def take(self, name: str) -> Tensor:
        """Remove and return an official tensor.

        Raises:
            SeqAttnError: it is not there.
        """
        if name not in self._left:
            raise SeqAttnError(f"no parameter {name}: not a model of the code it resembles")
        return self._left.pop(name)

    def move(self, official: str, ours: str | None = None) -> None:
        """Place a tensor as it is; by default under the same name."""
        self.ours[official if ours is None else ours] = self.take(official)

    def module(self, official: str, ours: str, leaves: Iterable[str] = ("weight", "bias")) -> None:
        """Place the leaves of a module that both codes have."""
        for leaf in leaves:
            self.move(f"{official}.{leaf}", f"{ours}.{leaf}")

    def drop(self, name: str, why: str) -> None:
        """Leave a tensor out, if it is there."""
        if self._left.pop(name, None) is not None:
            self.dropped[name] = why

    def drop_tied(self, name: str, other: str) -> None:
        """Leave out a tensor, if it is there, that repeats the one placed as ``other``.

        Raises:
            SeqAttnError: it does not repeat it.
        """
        tensor = self._left.get(name)
        if tensor is not None and not torch.equal(tensor, self.ours[other]):
            raise SeqAttnError(f"{name} differs from {other}, though the arguments tie the two")
        self.drop(name, f"tied to {other}")

    def finish(self) -> dict[str, Tensor]:
        """Return ours.

        Raises:
            SeqAttnError: official tensors are left over.
        """
        if self._left:
            some = ", ".join(sorted(self._left)[:5])
            more = f" and {len(self._left) - 5} more" if len(self._left) > 5 else ""
            raise SeqAttnError(f"parameters without a place here: {some}{more}")
        return self.ours
