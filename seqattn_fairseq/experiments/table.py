"""The tables of all experiments in the documents: command, paper's score, score here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from seqattn_fairseq.data.files import write_atomically
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.experiments.record import read_results
from seqattn_fairseq.transformer.registry import VARIANTS

NOT_RUN = "not run here"
RESULTS = Path("docs", "results.jsonl")

_FLAVOURS = {
    "tokenized": "tokenised",
    "compound_split": "tokenised, compounds split",
    "detokenized": "sacreBLEU",
}
_BEGIN = "<!-- written by `seqattn configs configs --documents .` -->\n"
_END = "<!-- end -->\n"
_TOP = """\
# Recipes

Every experiment, written by `seqattn configs configs --documents .` from `configs/` and
`docs/results.jsonl`. A row is started with

```bash
scripts/reproduce.sh experiment=DATASET/NAME     # from raw text to a scored result
seqattn train experiment=DATASET/NAME            # the training alone, on prepared data
```

A plain name of a variant is the paper's best known row, or **ours** where no paper has one: then
the recipe is that of the softmax twin beside it, and nothing was tuned. The header of each file in
`configs/experiment/` names the paper's row, the data, and how and why we deviate. Scores of
different flavours, corpora or papers do not compare. [reference.yaml](reference.yaml) explains
every key.
"""


@dataclass(frozen=True)
class Row:
    """What the tables say of an experiment.

    Attributes:
        name: ``DATASET/NAME``.
        groups: choices of the groups that it makes.
        bleu: the flavour of its score.
        paper: the section ``evaluation.paper``.
    """

    name: str
    groups: dict[str, str]
    bleu: str
    paper: dict[str, Any]

    @property
    def score(self) -> str:
        """The paper's score, or a dash."""
        return "-" if self.paper["score"] is None else str(self.paper["score"])

    @property
    def marked_score(self) -> str:
        """The same with a star if it is sacreBLEU, a question mark if it is not verified."""
        star = "*" if self.bleu == "detokenized" else ""
        doubt = "?" if "unverified" in str(self.paper["source"]) else ""
        return self.score if self.score == "-" else f"{self.score}{star}{doubt}"


def read_row(configs: Path, name: str) -> Row:
    """Return an experiment of a folder of recipes.

    Raises:
        SeqAttnError: its file does not say what every experiment says.
    """
    path = configs / "experiment" / f"{name}.yaml"
    values: Any = OmegaConf.to_container(OmegaConf.load(path))
    try:
        groups: dict[str, str] = {}
        for choice in values["defaults"]:
            groups |= {key.removeprefix("override /"): value for key, value in choice.items()}
        corpus = OmegaConf.load(configs / "corpus" / f"{groups['corpus']}.yaml")
        evaluation = values["evaluation"]
        bleu = evaluation.get("bleu") or corpus.evaluation.bleu
        return Row(name, groups, str(bleu), dict(evaluation["paper"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise SeqAttnError(
            f"{path}: an experiment names its variant, size, corpus and budget in defaults and "
            f"has evaluation.paper: {error}"
        ) from error


def _datasets(configs: Path) -> list[str]:
    return sorted(path.stem for path in configs.glob("*.yaml"))


def _scores(results: Path) -> dict[str, str]:
    """Return experiment -> score here, the last one of each; what was altered is said."""
    return {line["experiment"]: _score(line) for line in read_results(results)}


def _score(result: dict[str, Any]) -> str:
    subset, table = next(iter(result["subsets"].items()))
    altered = [word for word in result["overrides"] if not word.startswith("experiment=")]
    with_words = f" with `{' '.join(altered)}`" if altered else ""
    return f"{table['headline']['score']:.2f} ({subset}){with_words}"


def recipes_page(configs: Path, results: Path) -> str:
    """Return docs/recipes.md: a table for each dataset with a row for every experiment.

    Args:
        configs: folder of recipes.
        results: file of ``seqattn reproduce --results``; need not exist.

    Raises:
        SeqAttnError: a recipe or a line of results is malformed.
    """
    parts, scores = [_TOP], _scores(results)
    for dataset in _datasets(configs):
        names = sorted(path.stem for path in (configs / "experiment" / dataset).glob("*.yaml"))
        rows = [read_row(configs, f"{dataset}/{name}") for name in names]
        parts.append(_dataset_table(dataset, rows, scores))
    return "\n".join(parts)


def _dataset_table(dataset: str, rows: Sequence[Row], scores: dict[str, str]) -> str:
    lines = [
        f"## {dataset}\n",
        "| experiment | variant | size | data | budget | flavour | paper's score | from | here |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        choices = [row.groups[group] for group in ("variant", "size", "corpus", "budget")]
        source = "**ours**" if row.paper["ours"] else str(row.paper["source"])
        here = scores.get(row.name, NOT_RUN)
        cells = [f"`{row.name}`", *choices, _FLAVOURS[row.bleu], row.score, source, here]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def readme_table(configs: Path) -> str:
    """Return the README's table: the papers' scores, a row a variant, a column a dataset."""
    datasets = _datasets(configs)
    variants = [name for name in VARIANTS if name != "hybrid"]
    lines = [
        f"| | {' | '.join(f'`{dataset}`' for dataset in datasets)} |",
        f"|---|{'---|' * len(datasets)}",
    ]
    for variant in variants:
        rows = [read_row(configs, f"{dataset}/{variant}") for dataset in datasets]
        lines.append(f"| `{variant}` | {' | '.join(row.marked_score for row in rows)} |")
    return "\n".join(lines) + "\n"


def with_table(readme: str, table: str) -> str:
    """Return a document with the table between its two marks replaced.

    Raises:
        SeqAttnError: the marks are not there.
    """
    if _BEGIN not in readme or _END not in readme.partition(_BEGIN)[2]:
        raise SeqAttnError(f"README.md: no place for the table; it needs the line {_BEGIN.strip()}")
    before, _, rest = readme.partition(_BEGIN)
    return f"{before}{_BEGIN}\n{table}\n{_END}{rest.partition(_END)[2]}"


def write_tables(configs: Path, root: Path) -> list[Path]:
    """Write docs/recipes.md and the table in README.md below ``root``; return both paths.

    Raises:
        SeqAttnError: a recipe, a line of results or the README is not as it should be.
    """
    page, readme = root / "docs" / "recipes.md", root / "README.md"
    contents = {
        page: recipes_page(configs, root / RESULTS),
        readme: with_table(readme.read_text(encoding="utf-8"), readme_table(configs)),
    }
    for path, content in contents.items():
        with write_atomically(path) as stream:
            stream.write(content)
    return list(contents)
