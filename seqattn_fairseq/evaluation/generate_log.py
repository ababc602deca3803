"""Reading what fairseq-generate and fairseq-interactive print: S, T, H, D and P lines by id."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from seqattn_fairseq.errors import SeqAttnError

_LINE = re.compile(r"([STHD])-(\d+)\t(.*)", re.DOTALL)


@dataclass(frozen=True)
class GenerateLog:
    """The sentences of a log in corpus order: entry i is the sentence with id i.

    ``hypotheses`` are the H lines (tokens), ``detokenized`` the D lines (H where a log has none).
    ``targets`` is empty when the log has no T lines (fairseq-interactive writes none).
    """

    sources: list[str]
    targets: list[str]
    hypotheses: list[str]
    detokenized: list[str]


@dataclass
class _Collector:
    """Lines by kind and id; of several hypotheses (``--nbest``) the best-scored one."""

    lines: dict[str, dict[int, str]] = field(default_factory=lambda: {kind: {} for kind in "STHD"})
    scores: dict[tuple[str, int], float] = field(default_factory=dict)

    def add(self, kind: str, ident: int, text: str, where: str) -> None:
        if kind in "HD":
            score, _, text = text.partition("\t")
            value = _score(score, where)
            if value <= self.scores.get((kind, ident), float("-inf")):
                return
            self.scores[kind, ident] = value
        elif ident in self.lines[kind]:
            raise SeqAttnError(f"{where}: {kind}-{ident} comes twice; give the log of one run")
        self.lines[kind][ident] = text


def _score(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SeqAttnError(f"{where}: '{text}' is not a score; the line is damaged") from None


def _ranges(numbers: Iterable[int]) -> str:
    """Return sorted numbers as text: ``3, 7-9``; at most ten ranges."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    texts = [f"{low}" if low == high else f"{low}-{high}" for low, high in ranges]
    return ", ".join(texts[:10]) + (", ..." if len(texts) > 10 else "")


def _in_order(lines: dict[int, str], count: int, kind: str, name: str) -> list[str]:
    missing = set(range(count)) - lines.keys()
    if missing:
        raise SeqAttnError(
            f"{name}: no {kind} line for {len(missing)} of {count} sentences: ids "
            f"{_ranges(missing)}; the log is cut off, or sentences were skipped in generation"
        )
    return [lines[ident] for ident in range(count)]


def parse(log_lines: Iterable[str], name: str) -> GenerateLog:
    """Parse a log whose lines come in any order, mixed with other output.

    Args:
        log_lines: lines without their line ends.
        name: the log's name in messages.

    Raises:
        SeqAttnError: no H line, a sentence without one, an id twice, or a damaged line.
    """
    collector = _Collector()
    for number, line in enumerate(log_lines, start=1):
        if match := _LINE.fullmatch(line):
            collector.add(match[1], int(match[2]), match[3], f"{name}:{number}")
    found = collector.lines
    if not found["H"]:
        raise SeqAttnError(f"{name}: no H line; give the output of fairseq-generate")
    count = max(max(lines, default=-1) for lines in found.values()) + 1
    hypotheses = _in_order(found["H"], count, "H", name)
    optional = {kind: _in_order(found[kind], count, kind, name) for kind in "STD" if found[kind]}
    return GenerateLog(
        sources=optional.get("S", []),
        targets=optional.get("T", []),
        hypotheses=hypotheses,
        detokenized=optional.get("D", hypotheses),
    )
