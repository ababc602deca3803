"""A model of an official code as a fairseq checkpoint, compared with the model after writing.

Shapes: B batch, S source length, T target length, V vocabulary.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf
from torch import Tensor

from seqattn_fairseq.checkpoint_files import non_finite
from seqattn_fairseq.data.files import partial_path
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.checkpoints import save_checkpoint
from seqattn_fairseq.official.conversion import Conversion, OfficialModel, Origin
from seqattn_fairseq.official.importing import (
    OfficialFile,
    SpecialSymbols,
    convert,
    read_checkpoint_file,
)
from seqattn_fairseq.parity.golden import Golden
from seqattn_fairseq.parity.modules import build_converted, dictionary_of
from seqattn_fairseq.transformer.config import SIDES
from seqattn_fairseq.transformer.model import SeqAttnModel

_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Imported:
    """What became of a file.

    Attributes:
        origin: the code that wrote it.
        conversion: its model in our terms, the dictionary as it was.
        symbols: the special symbols' official ids, if they are not fairseq's.
        parameters: number of parameters of our model.
        difference: largest difference of a logit between the model as converted and as read back.
    """

    origin: Origin
    conversion: Conversion
    symbols: SpecialSymbols | None
    parameters: int
    difference: float


def read(path: Path) -> OfficialFile:
    """Return the contents of a checkpoint, of a state dict, or of a golden file of a model.

    Raises:
        SeqAttnError: the file is none of these.
    """
    if path.suffix != ".npz":
        return read_checkpoint_file(path)
    golden = Golden(path)
    state = golden.group("param")
    if not state:
        raise SeqAttnError(f"{path}: holds no parameters (arrays param/...)")
    told = {k: v for k, v in golden.meta.items() if isinstance(v, str | int | float)}
    return OfficialFile(OfficialModel(state, {**told, **golden.config}), {})


def import_file(path: Path, output: Path, given: Mapping[str, Any]) -> Imported:
    """Write the model of an official code's file as a fairseq checkpoint.

    Args:
        path: a fairseq checkpoint, a state dict (.pt) or a golden file of a model (.npz).
        output: the checkpoint; it appears complete and tested, or not at all.
        given: official arguments that the file does not tell.

    Raises:
        SeqAttnError: the file cannot be read, is of no known code, holds NaN or infinity, or the
            model read back is another.
    """
    file = read(path)
    try:
        origin, conversion = convert(file.model, given)
        _check_finite(file.model, conversion)
        symbols = SpecialSymbols.of(file.model, given)
        direct, model = _built(conversion, symbols)
    except (KeyError, ValueError, TypeError, RuntimeError, SeqAttnError) as error:
        # whatever a file's shapes and arguments do to a map that expects another code's
        reason = " ".join(str(error).split())
        kind = "" if isinstance(error, SeqAttnError) else f"{type(error).__name__}: "
        raise SeqAttnError(f"{path}: {kind}{reason[:400]}") from error
    partial = partial_path(output)
    try:
        save_checkpoint(_checkpoint(model, conversion.variant, file.task), partial)
        difference = _difference(direct, partial, symbols)
        if not difference <= _TOLERANCE:
            raise SeqAttnError(f"{path}: read back, its logits are off by {difference:.1e}")
        os.replace(partial, output)
    finally:
        partial.unlink(missing_ok=True)
    parameters = sum(p.numel() for p in model.parameters())
    return Imported(origin, conversion, symbols, parameters, difference)


def _check_finite(model: OfficialModel, conversion: Conversion) -> None:
    """Refuse NaN and infinity; what is dropped may be memory that nobody ever set."""
    used = {name: t for name, t in model.state.items() if name not in conversion.dropped}
    if name := non_finite(used):
        raise SeqAttnError(f"{name} holds NaN or infinity; import another checkpoint")


def _built(
    conversion: Conversion, symbols: SpecialSymbols | None
) -> tuple[SeqAttnModel, SeqAttnModel]:
    """Return the model over the official dictionary and over one in fairseq's order."""
    if symbols is None:
        model = build_converted(conversion)
        return model, model
    sizes = [conversion.state[f"{side}.embed_tokens.weight"].size(0) for side in SIDES]
    official = [dictionary_of(size, symbols.pad, symbols.eos) for size in sizes]
    if conversion.options.get("share_all_embeddings"):
        official[1] = official[0]
    return build_converted(conversion, *official), build_converted(symbols.reorder(conversion))


# ---- writing -----------------------------------------------------------------------------------


def _checkpoint(model: SeqAttnModel, variant: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint as fairseq-train writes it, of a run that has not begun."""
    cfg = OmegaConf.to_container(OmegaConf.structured(FairseqConfig), enum_to_str=True)
    assert isinstance(cfg, dict)
    options = {name: value for name, value in vars(model.cfg).items() if not name.startswith("_")}
    cfg["model"] = {**options, "_name": f"seqattn_{variant}"}
    # fairseq overrides only what is there: what the file does not tell is there as None
    untold = dict.fromkeys(("data", "source_lang", "target_lang"))
    cfg["task"] = {**untold, **task, "_name": "seqattn_translation"}
    cfg["criterion"] = {"_name": "cross_entropy"}
    history = {"criterion_name": "CrossEntropyCriterion", "optimizer_name": "FairseqAdam"}
    return {
        "args": None,
        "cfg": cfg,
        "model": model.state_dict(),
        "optimizer_history": [{**history, "lr_scheduler_state": {}, "num_updates": 0}],
        "last_optimizer_state": None,
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "task_state": {},
    }


# ---- reading back ------------------------------------------------------------------------------


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what fairseq tells of the dictionaries it reads."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        yield
    finally:
        logging.disable(before)


def _load_back(checkpoint: Path, direct: SeqAttnModel, extra: int) -> SeqAttnModel:
    """Return the model as fairseq-generate gets it, over made-up dictionaries."""
    with tempfile.TemporaryDirectory() as folder:
        for language, stack in zip(("source", "target"), SIDES, strict=True):
            size = getattr(direct, stack).embed_tokens.num_embeddings + extra
            made: Dictionary = dictionary_of(size)
            made.save(os.path.join(folder, f"dict.{language}.txt"))
        overrides = {"data": folder, "source_lang": "source", "target_lang": "target"}
        with _quiet():
            loaded = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], overrides)
    model: SeqAttnModel = loaded[0][0]
    model.eval()
    return model


def _random_batch(model: SeqAttnModel) -> tuple[Tensor, Tensor]:
    """Return (3, 7) source and (3, 6) target tokens, of different lengths, padded right."""
    generator = torch.Generator().manual_seed(1)
    batch = []
    for stack, width in ((model.encoder, 7), (model.decoder, 6)):
        special = {stack.dictionary.pad(), stack.dictionary.eos()}
        words = [i for i in range(stack.embed_tokens.num_embeddings) if i not in special]
        chosen = torch.randint(len(words), (3, width), generator=generator)
        tokens = torch.tensor(words)[chosen]
        for row in range(1, 3):
            tokens[row, width - row :] = stack.dictionary.pad()
        batch.append(tokens)
    batch[1][:, 0] = model.decoder.dictionary.eos()
    return batch[0], batch[1]


@torch.no_grad()
def _difference(direct: SeqAttnModel, checkpoint: Path, symbols: SpecialSymbols | None) -> float:
    """Return the largest difference of logits on random tokens, padding left out."""
    sizes = [getattr(direct, stack).embed_tokens.num_embeddings for stack in SIDES]
    rows = [list(range(n)) if symbols is None else symbols.rows(n) for n in sizes]
    loaded = _load_back(checkpoint, direct, extra=len(rows[0]) - sizes[0])
    tokens = _random_batch(direct)
    ours = [_renumbered(t, r, n) for t, r, n in zip(tokens, rows, sizes, strict=True)]
    expected = direct(tokens[0], None, tokens[1])[0][..., rows[1]]
    actual = loaded(ours[0], None, ours[1])[0]
    real = tokens[1].ne(direct.decoder.padding_idx)
    return float((actual - expected)[real].abs().max())


def _renumbered(tokens: Tensor, rows: list[int], size: int) -> Tensor:
    """Return official ids as ours; ``rows`` tells the official id of each of ours."""
    ours = torch.zeros(size, dtype=torch.long)
    for index, official in reversed(list(enumerate(rows))):  # padding's row stands for others, too
        ours[official] = index or ours[official]
    return ours[tokens]
