"""The page of a report: one HTML file that needs no network and no other file.

What the page shows first stands in it as JSON; everything else as blocks, gzip in base64 in script
elements that nothing executes, each decoded when it is looked at. A content security policy admits
the page's own script and style and nothing from anywhere.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from seqattn_fairseq.data.files import write_atomically
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.report.data import AttentionMap, Report, Run

MAX_BYTES = 60_000_000
# A block of sentences holds about so many characters: decoding it takes no noticeable time.
TEXT_BLOCK_CHARACTERS = 250_000
STYLES = ("colours", "page", "controls", "charts", "sentences", "media")
# In the order in which they are joined: what a file uses at once stands before it.
SCRIPTS = (
    "elements",
    "numbers",
    "blocks",
    "runs",
    "tables",
    "axes",
    "lines",
    "grids",
    "summary",
    "dots",
    "tradeoff",
    "curves",
    "attention",
    "lengths",
    "texts",
    "words",
    "sentences",
    "outputs",
    "explorer",
    "maps",
    "main",
)
# Parts of a run that stand in its block; the rest stands in the overview.
_DETAILS = ("curves", "attention", "lengths", "alignment", "generalisation")
_PLACE = re.compile(r"\{\{(\w+)\}\}")


def write_page(report: Report, path: Path) -> None:
    """Write the page of a report, complete or not at all.

    What does not fit into ``MAX_BYTES`` is left out from the end, attention maps before sentences,
    and the page says so.

    Raises:
        SeqAttnError: a run's translations are not as many as the sources, or there is no run.
    """
    # Blocks hold a line of every run side by side: lists that are read lazily are read once, here.
    report = replace(report, hypotheses=list(report.hypotheses))
    _check(report)
    style = "".join(_asset(f"{name}.css") for name in STYLES)
    script = _script()
    # What is known of the overview by now, and room for the numbers of blocks and maps.
    overview = len(safe_json(_overview(report))) + 64 * len(report.sources) + 1_000
    frame = (style, script, _asset("template.html"))
    blocks = _Blocks(MAX_BYTES - sum(len(part.encode()) for part in frame) - overview)
    _add_runs(report, blocks)
    starts, sentences = _add_sentences(report, blocks)
    maps, dropped = _add_maps(report, blocks, sentences)
    shown = _overview(report) | {
        "sentences": sentences,
        "blocks": starts,
        "maps": maps,
        "notes": [*report.notes, *_left_out(len(report.sources) - sentences, dropped)],
    }
    values = {
        "title": html.escape(report.title),
        "policy": f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}",
        "style": style,
        "script": script,
        "overview": safe_json(shown),
        "blocks": "\n".join(blocks.elements),
    }
    with write_atomically(path) as stream:
        # One pass: what a title or a sentence writes in braces is not looked at again.
        stream.write(_PLACE.sub(lambda match: values[match[1]], _asset("template.html")))


def safe_json(value: object) -> str:
    """Return JSON that means nothing in HTML or JavaScript; NaN and infinities become null.

    Only ASCII comes out, so that U+2028 and lone surrogates are harmless too.
    """
    text = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@dataclass
class _Blocks:
    """Compressed script elements within a budget of bytes."""

    budget: int
    elements: list[str] = field(default_factory=list)

    def add(self, name: str, content: bytes, optional: bool = True) -> bool:
        """Add a block if it fits (or must), and tell whether it did."""
        text = base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()
        element = f'<script type="application/gzip" id="block-{name}">{text}</script>'
        if optional and len(element) + 1 > self.budget:
            return False
        self.budget -= len(element) + 1
        self.elements.append(element)
        return True


def _check(report: Report) -> None:
    if not report.runs:
        raise SeqAttnError("a report needs at least one run; name the folders of runs")
    expected = len(report.sources)
    texts = [("the references", report.references)]
    texts += [
        (run.folder, lines) for run, lines in zip(report.runs, report.hypotheses, strict=True)
    ]
    for name, lines in texts:
        if len(lines) not in (0, expected):
            raise SeqAttnError(
                f"{name}: {len(lines)} lines, but {expected} sources in {report.subset}; "
                "translate it again with seqattn evaluate"
            )


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("assets", name).read_text("utf-8")


def _script() -> str:
    """Return all scripts as one, in a scope of their own."""
    parts = (f"// {name}.js\n{_asset(f'{name}.js')}" for name in SCRIPTS)
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


def _digest(content: str) -> str:
    """Return the source expression of a content security policy that admits this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value


def _overview(report: Report) -> dict[str, Any]:
    """Return what the page needs before anything is looked at."""
    names = {cell.key: cell.name for run in report.runs for cell in run.scores}
    signatures = sorted({cell.signature for run in report.runs for cell in run.scores})
    number = {signature: index for index, signature in enumerate(signatures)}
    texts = [len(lines) > 0 for lines in report.hypotheses]
    return {
        **{key: getattr(report, key) for key in ("title", "made", "version", "subset", "pair")},
        "baseline": report.baseline,
        "scores": [{"key": key, "name": name} for key, name in names.items()],
        "signatures": signatures,
        "runs": [
            _run(run, number) | {"texts": text}
            for run, text in zip(report.runs, texts, strict=True)
        ],
        "references": len(report.references) > 0,
        "agreement": [agreement.metric for agreement in report.agreement],
    }


def _run(run: Run, signatures: Mapping[str, int]) -> dict[str, Any]:
    shown = {key: value for key, value in vars(run).items() if key not in _DETAILS}
    shown["has"] = {name: len(getattr(run, name)) > 0 for name in _DETAILS}
    shown["scores"] = {
        cell.key: asdict(cell) | {"signature": signatures[cell.signature]} for cell in run.scores
    }
    return shown


def _add_runs(report: Report, blocks: _Blocks) -> None:
    for index, run in enumerate(report.runs):
        details = {name: [asdict(part) for part in getattr(run, name)] for name in _DETAILS}
        blocks.add(f"run-{index}", safe_json(details).encode(), optional=False)
    matrices = [agreement.matrix for agreement in report.agreement]
    blocks.add("agreement", safe_json(matrices).encode(), optional=False)


def _add_sentences(report: Report, blocks: _Blocks) -> tuple[list[int], int]:
    """Add the sentences that fit; return the first sentence of each block and their number."""
    starts: list[int] = []
    done = 0
    for rows in _text_blocks(report):
        if not blocks.add(f"text-{len(starts)}", safe_json(rows).encode()):
            break
        starts.append(done)
        done += len(rows)
    return starts, done


def _text_blocks(report: Report) -> Iterator[list[list[str | None]]]:
    """Yield rows of source, reference and outputs: alike lines side by side compress well."""
    columns = [lines or None for lines in (report.references, *report.hypotheses)]
    rows: list[list[str | None]] = []
    characters = 0
    for index, source in enumerate(report.sources):
        rows.append([source, *(None if lines is None else lines[index] for lines in columns)])
        characters += sum(len(text or "") for text in rows[-1])
        if characters >= TEXT_BLOCK_CHARACTERS:
            yield rows
            rows, characters = [], 0
    if rows:
        yield rows


def _add_maps(
    report: Report, blocks: _Blocks, sentences: int
) -> tuple[dict[int, list[int]], list[int]]:
    """Add the maps that fit: sentence -> runs with a map; return it and the sentences left out."""
    found: dict[int, list[int]] = {}
    dropped: list[int] = []
    for sentence, maps in sorted(report.maps.items()):
        named = [(f"map-{sentence}-{one.run}", _map_bytes(one)) for one in maps]
        # A sentence has the maps of all its runs or none: half of them would look like a result.
        kept, before = len(blocks.elements), blocks.budget
        if sentence < sentences and not dropped and all(blocks.add(*block) for block in named):
            found[sentence] = [one.run for one in maps]
        else:
            del blocks.elements[kept:]
            blocks.budget = before
            dropped.append(sentence)
    return found, dropped


def _map_bytes(one: AttentionMap) -> bytes:
    """Return a line of JSON and the weights behind it."""
    if math.prod(one.shape) != len(one.weights):
        raise SeqAttnError(
            f"attention map of run {one.run}: {len(one.weights)} weights for the shape "
            f"{one.shape}; make it again with seqattn analyse"
        )
    head = {
        "source": one.source,
        "target": one.target,
        "shape": one.shape,
        "scale": one.scale,
    }
    return safe_json(head).encode() + b"\n" + one.weights


def _left_out(sentences: int, maps: list[int]) -> list[str]:
    limit = f"the page is kept below {MAX_BYTES // 1_000_000} MB"
    notes = []
    if sentences:
        notes.append(f"The last {sentences:,} sentences are not in the explorer: {limit}.")
    if maps:
        shown = ", ".join(str(sentence + 1) for sentence in maps)
        notes.append(f"The attention maps of these sentences are left out, {limit}: {shown}.")
    return notes
