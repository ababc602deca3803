"""Is one system better than another? sacreBLEU's paired tests on the same test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sacrebleu.significance import PairedTest, Result

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.scores import ScoreOptions, flavour_metric, text_metric
from seqattn_fairseq.evaluation.system import System

TestKind = Literal["bs", "ar"]
TESTS: dict[TestKind, str] = {"bs": "paired bootstrap", "ar": "approximate randomisation"}


@dataclass(frozen=True)
class Comparison:
    """One system under one metric and test; the first system of a list is the baseline.

    Attributes:
        p_value: probability of such a difference from the baseline by chance; None for the
            baseline itself.
        mean: mean of the bootstrap samples, None under approximate randomisation.
        interval: half the width of their 95 % interval, None under approximate randomisation.
    """

    system: str
    metric: str
    test: TestKind
    score: float
    p_value: float | None
    mean: float | None
    interval: float | None
    signature: str

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def check_same_references(systems: Sequence[System], flavour: str) -> None:
    """Check that all systems translate the same test set.

    Raises:
        SeqAttnError: the references differ; the message names the first line that does.
    """
    base, expected = systems[0], systems[0].pair(flavour)[1]
    for system in systems[1:]:
        references = system.pair(flavour)[1]
        if len(references) != len(expected):
            where = f"{len(references)} references, not {len(expected)}"
        else:
            pairs = enumerate(zip(expected, references, strict=True), start=1)
            line = next((number for number, (ours, theirs) in pairs if ours != theirs), 0)
            where = f"reference {line} differs" if line else ""
        if where:
            raise SeqAttnError(
                f"{system.name}: {where} from {base.name}; compare translations of the same test "
                "set, prepared the same way"
            )


def compare(
    systems: Sequence[System],
    flavour: str,
    metrics: Sequence[str],
    tests: Sequence[TestKind],
    options: ScoreOptions | None = None,
    samples: int = 0,
) -> list[Comparison]:
    """Compare systems with the first of them.

    Args:
        systems: the baseline and at least one more, with different names.
        flavour: decides which texts all metrics read.
        metrics: of ``bleu``, ``chrf``, ``ter``.
        tests: of :data:`TESTS`.
        options: case and tokeniser.
        samples: bootstrap samples or trials; 0: sacreBLEU's 1,000 and 10,000.

    Raises:
        SeqAttnError: different references, a missing text, or two systems of one name.
    """
    _check_names([system.name for system in systems])
    check_same_references(systems, flavour)
    options = options or ScoreOptions()
    base = systems[0]
    makers = {"bleu": flavour_metric(base, flavour, options)} | {
        name: text_metric(base, name, options) for name in ("chrf", "ter")
    }
    named: list[tuple[str, Sequence[str]]] = [
        (system.name, list(system.pair(flavour)[0])) for system in systems
    ]
    references = [list(base.pair(flavour)[1])]
    found: list[Comparison] = []
    for test in tests:
        chosen = {name: makers[name] for name in metrics}
        signatures, scores = PairedTest(named, chosen, references, test, samples)()
        for metric, signature in signatures.items():
            results = [result for result in scores[metric] if isinstance(result, Result)]
            base_score = results[0].score
            found += [
                Comparison(name, metric, test, *_figures(result, base_score), str(signature))
                for (name, _), result in zip(named, results, strict=True)
            ]
    return found


def _check_names(names: list[str]) -> None:
    if len(names) < 2:
        raise SeqAttnError("one system cannot be compared; give the baseline and another one")
    for name in names:
        if names.count(name) > 1:
            raise SeqAttnError(f"{name}: given twice")


def _figures(
    result: Result, base_score: float
) -> tuple[float, float | None, float | None, float | None]:
    """Return score, p-value, mean and interval of a result.

    sacreBLEU counts the samples whose difference is *larger* than the one seen, and so finds a
    difference of nothing significant; any sample has at least that, and the p-value is 1.
    """
    p_value, mean, interval = (
        None if value is None else float(value)
        for value in (result.p_value, result.mean, result.ci)
    )
    if p_value is not None and result.score == base_score:
        p_value = 1.0
    return float(result.score), p_value, mean, interval
