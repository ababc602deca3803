"""Ours beside theirs, array by array, and the verdict on a file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seqattn_fairseq.parity.golden import Golden


class UninterpretableError(Exception):
    """A file that is no golden of a kind we know, or holds arrays that we do not understand."""


@dataclass(frozen=True)
class Tolerance:
    """How far from the official code is equal to it.

    Attributes:
        output: absolute, of every output.
        gradient: relative to the largest entry of the tensor; a tenth of it, relative to the
            largest entry of all gradients of the file, is added.
    """

    output: float = 2e-5
    gradient: float = 1e-4


@dataclass
class Comparison:
    """The comparison of one file.

    Attributes:
        golden: the file.
        tolerance: what passes.
        output_error: largest absolute error of an output so far.
        gradient_error: largest absolute error of a gradient so far.
        misses: what was too far off, a phrase each.
    """

    golden: Golden
    tolerance: Tolerance
    output_error: float = 0.0
    gradient_error: float = 0.0
    misses: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def output(self, name: str, actual: Tensor, where: Tensor | None = None) -> None:
        """Compare with the array ``output/<name>``.

        Args:
            name: of the array, without its group.
            actual: ours, in the official layout.
            where: True where they must agree, over the leading dimensions; None for everywhere.
        """
        error = self._error(f"output/{name}", actual, where)
        self.output_error = max(self.output_error, error)
        self._judge(f"output/{name}", error, self.tolerance.output)

    def gradient(self, array: str, actual: Tensor | None, where: Tensor | None = None) -> None:
        """Compare with a gradient; ``array`` is its whole name, ``grad/...`` or another group's.

        None stands for a gradient of zero; ``where`` is as in ``output``.
        """
        if actual is None:
            actual = torch.zeros_like(self.golden[array])
        error = self._error(array, actual, where)
        self.gradient_error = max(self.gradient_error, error)
        largest = float(_finite(self.golden[array]).abs().max()) if actual.numel() else 0.0
        allowed = self.tolerance.gradient * (largest + 0.1 * self._largest_gradient())
        self._judge(array, error, allowed)

    def gradients(self, parameters: dict[str, Tensor], group: str = "grad") -> None:
        """Compare the gradients that official parameters collected with a group of the file."""
        for name, parameter in parameters.items():
            if f"{group}/{name}" in self.golden:
                self.gradient(f"{group}/{name}", parameter.grad)

    def equal(self, array: str, actual: Tensor) -> None:
        """Compare an array of numbers that must be the same (tokens, counts)."""
        expected = self.golden[array]
        same = actual.shape == expected.shape and bool((actual == expected).all())
        self._seen.add(array)
        if not same:
            self.misses.append(f"{array} differs")

    def check(self, name: str, passed: bool) -> None:
        """Record a condition of a file without arrays."""
        self._seen.add(name)
        if not passed:
            self.misses.append(f"{name} differs")

    @property
    def checked(self) -> int:
        """The number of arrays compared."""
        return len(self._seen)

    def finish(self) -> None:
        """Make sure that nothing the official code computed was overlooked.

        Raises:
            UninterpretableError: arrays were not compared, or none was.
        """
        results = {n for n in self.golden.arrays if n.startswith(("output/", "grad"))}
        overlooked = sorted(results - self._seen)
        if overlooked:
            some = ", ".join(overlooked[:4]) + (", ..." if len(overlooked) > 4 else "")
            raise UninterpretableError(f"arrays that this kind of file should not hold: {some}")
        if not self._seen:
            raise UninterpretableError("holds nothing to compare")

    def _error(self, array: str, actual: Tensor, where: Tensor | None) -> float:
        expected = self.golden[array]
        self._seen.add(array)
        if actual.shape != expected.shape:
            self.misses.append(f"{array} is {tuple(actual.shape)}, not {tuple(expected.shape)}")
            return 0.0
        ours, theirs = actual.detach().double(), expected.double()
        if where is not None:
            ours, theirs = ours[where], theirs[where]
        difference = (ours - theirs).abs()
        difference[ours == theirs] = 0.0  # equal infinities
        error = float(difference.max()) if difference.numel() else 0.0
        return math.inf if math.isnan(error) else error

    def _largest_gradient(self) -> float:
        grads = (t for n, t in self.golden.arrays.items() if n.startswith("grad"))
        return max((float(_finite(t).abs().max()) for t in grads if t.numel()), default=0.0)

    def _judge(self, array: str, error: float, allowed: float) -> None:
        if not error <= allowed:
            self.misses.append(f"{array} off by {error:.2g} (allowed {allowed:.2g})")


def _finite(tensor: Tensor) -> Tensor:
    return tensor.nan_to_num(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Kind:
    """One kind of golden file.

    Attributes:
        name: for messages.
        recognises: whether a file is of this kind, by its meta and arrays (never by its name).
        run: compares everything in it.
    """

    name: str
    recognises: Callable[[Golden], bool]
    run: Callable[[Golden, Comparison], None]
