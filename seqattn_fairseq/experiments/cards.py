"""The model card of a run: what it is, what it was trained on, what it scores, how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Result = Mapping[str, Any]  # what `seqattn_fairseq.experiments.record.describe` returns


def model_card(result: Result) -> str:
    """Return the card of a result as Markdown."""
    sections = [
        f"# {result['experiment']}, seed {result['seed']}",
        _summary(result),
        "## Scores",
        *(_subset(name, table) for name, table in result["subsets"].items()),
        _decoding(result),
        "## Training",
        _table({**result["training"], "options": " ".join(result["overrides"]) or "none"}),
        "## Data and versions",
        _table({**result["data"], "machine": result["machine"], **result["versions"]}),
        "## Use",
        _use(result),
    ]
    return "\n\n".join(sections) + "\n"


def _summary(result: Result) -> str:
    headline = str(result["headline"]).removeprefix("headline: ")
    return f"An encoder-decoder Transformer with `{result['variant']}` attention.\n\n{headline}"


def _subset(name: str, table: Mapping[str, Any]) -> str:
    rows = [
        f"| {score['name']} | {score['score']:.2f} | `{_cell(score['signature'])}` |"
        for score in table["scores"].values()
    ]
    head = [
        f"`{name}`, {table['n']:,} sentences:",
        "",
        "| score | value | signature |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *rows])


def _decoding(result: Result) -> str:
    settings = result["settings"]
    return (
        f"Checkpoint {result['checkpoint']}: average {result['average']}, beam {settings['beam']}, "
        f"length penalty {result['length_penalty']:g}."
    )


def _table(values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {_shown(value)} |" for name, value in values.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")  # a signature's bars would end the cell


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _use(result: Result) -> str:
    return (
        "```bash\n"
        f"seqattn export {result['checkpoint']} exported\n"
        "```\n\n"
        'The folder translates raw text: `SeqAttnModel.from_pretrained("exported").translate(...)`.'
    )
