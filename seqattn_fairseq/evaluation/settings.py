"""The ``evaluation`` section of a run's configuration: how its paper decodes and scores.

    evaluation:
      average: last         # last | last_updates | best | none: which checkpoints are averaged
      checkpoints: 10       # how many
      beam: 5
      length_penalty: [1.0] # more than one value: chosen on the validation set, never on test
      subsets: [test]       # test sets of the data-bin, the first gives the headline
      bleu: tokenized       # the paper's flavour: tokenized | compound_split | detokenized
      paper: {score: 35.2, source: "Wu et al. 2019, table 2", ours: false}

``average``, too, may be a list to choose from on the validation set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from seqattn_fairseq.errors import SeqAttnError, nearest
from seqattn_fairseq.evaluation.system import FLAVOURS

CONFIG_FILE = Path("hydra", ".hydra", "config.yaml")  # below a run's folder
AVERAGES = ("last", "last_updates", "best", "none")


@dataclass(frozen=True)
class PaperResult:
    """What the paper reports: its score (None where it has none), where, and whether it is ours.

    ``ours`` marks a recipe of this project for a cell that no paper has.
    """

    score: float | None = None
    source: str | None = None
    ours: bool = False


@dataclass(frozen=True)
class EvaluationSettings:
    """How a run is averaged, decoded and scored; the module's text explains the fields."""

    average: tuple[str, ...] = ("none",)
    checkpoints: int = 10
    beam: int = 5
    length_penalty: tuple[float, ...] = (1.0,)
    subsets: tuple[str, ...] = ("test",)
    bleu: str = "tokenized"
    paper: PaperResult = field(default_factory=PaperResult)

    def __post_init__(self) -> None:
        _check("average", self.average, AVERAGES)
        _check("bleu", (self.bleu,), tuple(FLAVOURS))
        for name in ("checkpoints", "beam"):
            if getattr(self, name) < 1:
                raise SeqAttnError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EvaluationSettings:
        """Build settings from a configuration's section; missing fields keep their defaults.

        Raises:
            SeqAttnError: an unknown field, or a value of the wrong kind.
        """
        if not isinstance(values, Mapping):
            raise SeqAttnError(f"{values!r} has no fields; it must be like average: last")
        known = {one.name: _READERS[one.name] for one in fields(cls)}
        for name in values:
            if name not in known:
                raise SeqAttnError(
                    f"unknown field '{name}'{nearest(name, known)}; known are {', '.join(known)}"
                )
        return cls(**{name: _read(name, value) for name, value in values.items()})

    def overridden(self, **values: Any) -> EvaluationSettings:
        """Return the settings with some fields replaced; a value of None keeps the field.

        What the paper reports goes with its test set and flavour: for others there is nothing.

        Raises:
            SeqAttnError: a value of the wrong kind.
        """
        given = {name: _read(name, value) for name, value in values.items() if value is not None}
        changed = replace(self, **given)
        if (changed.subsets[0], changed.bleu) == (self.subsets[0], self.bleu):
            return changed
        return replace(changed, paper=PaperResult(ours=self.paper.ours))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def _check(name: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
    for value in values:
        if value not in known:
            raise SeqAttnError(
                f"{name} is '{value}'{nearest(value, known)}; it must be one of {', '.join(known)}"
            )
    if not values:
        raise SeqAttnError(f"{name} is empty; give one of {', '.join(known)}")


def _several(kind: type) -> Any:
    def read(value: Any) -> tuple[Any, ...]:
        many = value if isinstance(value, (list, tuple, ListConfig)) else [value]
        if not many:
            raise ValueError
        return tuple(kind(one) for one in many)

    return read


_READERS: dict[str, Any] = {
    "average": _several(str),
    "checkpoints": int,
    "beam": int,
    "length_penalty": _several(float),
    "subsets": _several(str),
    "bleu": str,
    "paper": lambda value: PaperResult(**(value or {})),
}


def _read(name: str, value: Any) -> Any:
    try:
        return _READERS[name](value)
    except (TypeError, ValueError):
        raise SeqAttnError(
            f"field '{name}' has the value {value!r}, which it cannot have"
        ) from None


def load_settings(run: Path) -> EvaluationSettings:
    """Return the settings that a run was started with.

    They are in the configuration that Hydra writes beside the checkpoints. A run started without
    Hydra has none and gets the defaults: its best (or last) checkpoint, fairseq-generate's beam.

    Raises:
        SeqAttnError: the section is malformed; the message names the file.
    """
    path = run / CONFIG_FILE
    if not path.is_file():
        return EvaluationSettings()
    try:
        section = OmegaConf.select(OmegaConf.load(path), "evaluation")
        values = {} if section is None else OmegaConf.to_container(section, resolve=True)
        return EvaluationSettings.from_dict(values)  # type: ignore[arg-type]
    except (OmegaConfBaseException, YAMLError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise SeqAttnError(f"{path}: section evaluation cannot be read: {reason}") from None
    except SeqAttnError as error:
        raise SeqAttnError(f"{path}: section evaluation: {error}") from None
