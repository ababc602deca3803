"""Files of the official codes: what is in them, which code wrote them, and the model in our terms.

Nothing in a file is executed.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import ItemsView, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqattn_fairseq.checkpoint_files import explained, printable, verify_contents
from seqattn_fairseq.errors import SeqAttnError, nearest
from seqattn_fairseq.official import convolution, luna, mega, muse, rela, transformer
from seqattn_fairseq.official.conversion import Conversion, OfficialModel, Origin

FAMILIES = (transformer, rela, convolution, muse, mega, luna)
ORIGINS: tuple[Origin, ...] = tuple(origin for family in FAMILIES for origin in family.ORIGINS)

_OURS = "seqattn_"
_TASK = ("data", "source_lang", "target_lang", "left_pad_source", "left_pad_target")
# classes of counters that fairseq before 0.9 pickled into its checkpoints
_METERS = ("AverageMeter", "TimeMeter", "StopwatchMeter")


@dataclass(frozen=True)
class OfficialFile:
    """A file of an official code.

    Attributes:
        model: the model in it.
        task: languages, data folder and padding sides, as far as it tells them.
    """

    model: OfficialModel
    task: Mapping[str, Any]


# ---- reading -----------------------------------------------------------------------------------


class _Meter:
    """Stands in for a counter: holds what was pickled, and is never asked."""


def _load(path: Path) -> Any:
    meters: list[Any] = [(_Meter, f"fairseq.meters.{name}") for name in _METERS]
    try:
        with explained(path), torch.serialization.safe_globals(meters):
            state = torch.load(path, map_location="cpu", weights_only=True)
            if not _is_bare(state):
                verify_contents(state)
            return state
    except FileNotFoundError:
        raise SeqAttnError(f"{os.fspath(path)}: no such file") from None


def _is_bare(state: Any) -> bool:
    """Tell a state dict alone from a checkpoint."""
    tensors = isinstance(state, dict) and all(isinstance(t, Tensor) for t in state.values())
    return tensors and bool(state) and all(str(n).isprintable() for n in state)


def _values(options: Any) -> dict[str, Any]:
    """Return a Namespace or a configuration as a dictionary, one level deep.

    fairseq's own dataclasses nest the options of the two sides.
    """
    named = vars(options) if isinstance(options, Namespace) else dict(options or {})
    flat = {name: value for name, value in named.items() if not isinstance(value, Mapping)}
    for side in ("encoder", "decoder"):
        nested = named.get(side)
        if isinstance(nested, Mapping):
            flat |= {f"{side}_{name}": value for name, value in nested.items()}
    return flat


def read_checkpoint_file(path: Path) -> OfficialFile:
    """Return the contents of a fairseq checkpoint of any age, or of a bare state dict.

    Raises:
        SeqAttnError: the file is missing, damaged, refused or something else, or a model of ours.
    """
    state = _load(path)
    if _is_bare(state):
        return OfficialFile(OfficialModel(state), {})
    cfg = state.get("cfg") or {}
    options = _values(state.get("args")) or _values(cfg.get("model"))
    task = _values(cfg.get("task")) or options
    names = (options.get(name) for name in ("arch", "_name"))
    if ours := next((n for n in names if str(n).startswith(_OURS)), None):
        raise SeqAttnError(
            f"{path}: is a model of this project already ({printable(str(ours))}); "
            "fairseq-generate, seqattn export and fine-tuning read it as it is"
        )
    known = {name: task[name] for name in _TASK if task.get(name) is not None}
    return OfficialFile(OfficialModel(state["model"], options), known)


# ---- converting --------------------------------------------------------------------------------


class _Asked(Mapping[str, Any]):
    """Arguments that remember which of them were looked up by name."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return self._options[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)

    def items(self) -> ItemsView[str, Any]:
        """Return all of them, which is no look-up of any."""
        return self._options.items()


def recognise(model: OfficialModel) -> Origin:
    """Return the one code whose model this is.

    Raises:
        SeqAttnError: it is none's, or several codes' that its arguments do not tell apart.
    """
    found = [origin for origin in ORIGINS if origin.recognises(model)]
    if len(found) == 1:
        return found[0]
    if found:
        names = " or ".join(origin.name for origin in found)
        raise SeqAttnError(f"of {names}, which its arguments do not tell apart")
    some = ", ".join(printable(name) for name in sorted(model.state)[:4])
    known = "; ".join(origin.name for origin in ORIGINS)
    raise SeqAttnError(
        f"of no code that is known here, by the {len(model.state)} names, shapes and arguments "
        f"of its parameters ({some}, ...); known: {known}"
    )


def convert(model: OfficialModel, given: Mapping[str, Any]) -> tuple[Origin, Conversion]:
    """Return the code and the model in our terms, in float32.

    Args:
        model: what the file holds.
        given: official arguments that the file does not tell, or tells wrong.

    Raises:
        SeqAttnError: unknown code, parameters without a place, an argument that is missing or
            that nothing asks for.
    """
    options = _Asked({**model.options, **given})
    state = {n: t.float() if t.is_floating_point() else t for n, t in model.state.items()}
    model = OfficialModel(state, options)
    origin = recognise(model)
    _check_told(origin, options)
    conversion = _converted(origin, model)
    for name in given:
        if name not in options.asked and name not in conversion.options:
            known = options.asked | conversion.options.keys()
            raise SeqAttnError(f"--set {name}: nothing here depends on it{nearest(name, known)}")
    return origin, conversion


def _converted(origin: Origin, model: OfficialModel) -> Conversion:
    try:
        return origin.convert(model)
    except KeyError as error:
        raise SeqAttnError(f"no parameter {error.args[0]}: the state dict is not whole") from error
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise SeqAttnError(f"the parameters do not fit together: {reason}") from error


def _check_told(origin: Origin, options: _Asked) -> None:
    """Refuse to guess what a bare state dict does not tell."""
    missing = [name for name in origin.untold if name not in options]
    if missing and not options.keys() - set(origin.untold):
        wanted = " ".join(f"--set {name}=VALUE" for name in missing)
        raise SeqAttnError(f"{origin.name}: the parameters alone do not tell everything; {wanted}")


# ---- the dictionary ----------------------------------------------------------------------------

_FAIRSEQ_IDS = {"pad": 1, "eos": 2}
_TABLES = (
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "decoder.output_projection.weight",
)


@dataclass(frozen=True)
class SpecialSymbols:
    """The ids that an official dictionary gives to special symbols; fairseq's are 0 to 3.

    Attributes:
        pad: of padding.
        eos: of the end of a sentence.
        unk: of unknown words; None if the code has none, or does not tell.
    """

    pad: int
    eos: int
    unk: int | None

    @classmethod
    def of(cls, model: OfficialModel, given: Mapping[str, Any]) -> SpecialSymbols | None:
        """Return those that the arguments tell; None if they are fairseq's."""
        options = {**model.options, **given}
        ids = {name: int(options.get(name, ours)) for name, ours in _FAIRSEQ_IDS.items()}
        return None if ids == _FAIRSEQ_IDS else cls(**ids, unk=options.get("unk"))

    def rows(self, size: int) -> list[int]:
        """Return the official row of every row of fairseq's order: <s>, <pad>, </s>, <unk>, words.

        What the code lacks gets the row of padding, which it never predicts either.
        """
        unk = self.pad if self.unk is None else self.unk
        special = [self.pad, self.pad, self.eos, unk]
        return [*special, *(row for row in range(size) if row not in special)]

    def reorder(self, conversion: Conversion) -> Conversion:
        """Return the model with its embeddings in fairseq's order."""
        state = dict(conversion.state)
        for name in _TABLES:
            rows = torch.tensor(self.rows(state[name].size(0)))
            state[name] = state[name].index_select(0, rows)
        return replace(conversion, state=state)

    def __str__(self) -> str:
        was = {"<s>": None, "<pad>": self.pad, "</s>": self.eos, "<unk>": self.unk}
        told = ", ".join(f"{s} {'is new' if n is None else f'was {n}'}" for s, n in was.items())
        return f"in fairseq's order: {told}, then the others as they were"
