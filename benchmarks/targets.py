"""What the benchmarks must show on a CPU, as data, and whether a CSV shows it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmarks.measure import OURS
from benchmarks.scaling import slope
from seqattn_fairseq.transformer.registry import VARIANTS
from seqattn_fairseq.variants import register

NOT_SLOWER = 0.95  # what counts as "not slower": the noise of a ratio on a shared machine
Row = dict[str, str]
_NOT_SHAPE = {"contender", "seconds", "ratio", "error", "peak_mib", "tokens_per_second", "date"}

register()


class Target(NamedTuple):
    """A ratio that all of some rows must have.

    Attributes:
        mechanism: of the rows.
        rival: contender whose time is compared with ours.
        least: ratio of its time and ours.
        lengths: first and last T of the rows; any if it is None.
        benchmark: of the rows, where the mechanism is in several.
    """

    mechanism: str
    rival: str
    least: float
    lengths: tuple[int, int] | None = None
    benchmark: str = ""

    @property
    def text(self) -> str:
        """What must be, in words."""
        lengths = " .. ".join(str(n) for n in dict.fromkeys(self.lengths or ()))
        where = f" at T = {lengths}" if lengths else ""
        text = f"{self.mechanism}: {self.least} x {self.rival}{where}"
        return text.replace("_", " ")

    def has(self, row: Row) -> bool:
        """Tell whether a row is one of those."""
        if (row["mechanism"], row["contender"]) != (self.mechanism, self.rival):
            return False
        if self.benchmark and row["benchmark"] != self.benchmark:
            return False
        if self.lengths is None:
            return bool(row["ratio"])
        return self.lengths[0] <= int(row["T"]) <= self.lengths[1] and row.get("S") in _same(row)


def _same(row: Row) -> tuple[str | None, ...]:
    return (None, "", row["T"])


class Verdict(NamedTuple):
    """What the rows say of a target.

    Attributes:
        text: the target in words.
        found: the worst figure, or why there is none.
        met: whether it is good enough.
        error: the largest error of ours in these rows.
    """

    text: str
    found: str
    met: bool
    error: float


TARGETS = (
    Target("dynamic_convolution", "unfold", 5, (32, 512)),
    Target("dynamic_convolution", "band", NOT_SLOWER),
    Target("luna_causal", "outer_product", 20, (32, 1024)),
    Target("mega_ema_bidirectional", "official_fft", 3, (32, 256)),
    Target("mega_ema_bidirectional", "official_fft", 2.5, (512, 512)),
    Target("entmax15", "entmax package", 10, (128, 128)),
    Target("entmax15", "entmax package", 10, (512, 512)),
    Target("sparsemax", "entmax package", 5, (128, 128)),
    Target("sparsemax", "entmax package", 5, (512, 512)),
    Target("top-k", "torch topk", NOT_SLOWER),
    Target("rela", "SDPA softmax", NOT_SLOWER, (32, 512)),
    Target("adam", "fairseq", 2),
    Target("training step, softmax", "stock_transformer", 1.1, benchmark="training_step_wmt"),
    *(
        Target(f"training step, {variant}", "naive", NOT_SLOWER, benchmark="training_step_wmt")
        for variant in VARIANTS
    ),
)
# of the logarithm of memory over that of T: 1 is linear
MOST_MEMORY_EXPONENT = 1.05


def verdict(target: Target, rows: Iterable[Row]) -> Verdict:
    """Judge one target; rows that are missing are a target missed."""
    found = [row for row in rows if target.has(row)]
    if not found:
        return Verdict(target.text, "not measured", False, float("nan"))
    worst = min(float(row["ratio"]) for row in found)
    error = max(_error(row, rows) for row in found)
    return Verdict(target.text, f"{worst:.2f}", worst >= target.least, error)


def _error(row: Row, rows: Iterable[Row]) -> float:
    """Return the error of ours at the shape of a row."""
    shape = [key for key in row if key not in _NOT_SHAPE]
    same = (r for r in rows if r["contender"] == OURS and all(r[k] == row[k] for k in shape))
    return max((float(r["error"]) for r in same if r["error"]), default=float("nan"))


def memory_verdict(rows: Iterable[Row]) -> Verdict:
    """Judge whether the convolution's memory is linear in the length."""
    text = f"dynamic convolution: memory ~ T^a, a <= {MOST_MEMORY_EXPONENT}"
    name = "dynamic_convolution_memory"
    points = [(float(r["T"]), float(r["peak_mib"])) for r in rows if r["benchmark"] == name]
    if len(points) < 2:
        return Verdict(text, "not measured", False, float("nan"))
    exponent = slope(points)
    return Verdict(text, f"{exponent:.2f}", exponent <= MOST_MEMORY_EXPONENT, float("nan"))


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Judge all targets."""
    return [*(verdict(target, rows) for target in TARGETS), memory_verdict(rows)]
