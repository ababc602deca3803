"""What is analysed: a run's model and its data, and the batches that the model is shown.

Shapes: B batch, S source length, T target length, eos included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fairseq.data import data_utils
from fairseq.models import MODEL_REGISTRY
from torch import Tensor

from seqattn_fairseq.analysis.record import result_folder
from seqattn_fairseq.checkpoint_files import non_finite
from seqattn_fairseq.data.files import file_stamp, subset_stamp
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation import translation
from seqattn_fairseq.evaluation.checkpoints import find_checkpoint
from seqattn_fairseq.evaluation.generate import RECORD, read_record
from seqattn_fairseq.evaluation.pipeline import FOLDER
from seqattn_fairseq.evaluation.training import data_bin_of, read_training
from seqattn_fairseq.launch.quietness import quiet
from seqattn_fairseq.official.conversion import Conversion
from seqattn_fairseq.official.importing import convert, read_checkpoint_file
from seqattn_fairseq.transformer.attention import AttentionLog
from seqattn_fairseq.transformer.model import SeqAttnModel
from seqattn_fairseq.transformer.registry import make_config


class Pair(NamedTuple):
    """Ids of a sentence and of its translation, each ending in eos; (S,) and (T,)."""

    source: Tensor
    target: Tensor


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs that are read one at a time.

    Attributes:
        name: how messages call them.
        lengths: (S, T) of every pair.
        read: returns a pair by its number, from 0.
    """

    name: str
    lengths: Sequence[tuple[int, int]]
    read: Callable[[int], Pair]


class Batch(NamedTuple):
    """Pairs as the model is shown them: (B, S) sources and (B, T) targets shifted right by one."""

    numbers: list[int]
    pairs: list[Pair]
    source: Tensor
    previous: Tensor


@dataclass(frozen=True)
class Subject:
    """A run, or a checkpoint file by itself, and the test set it is analysed on.

    Attributes:
        run: the run's folder, or the file.
        subset: name of the test set.
        checkpoint: the file with the model.
        data_bin: folder of fairseq-preprocess.
        max_tokens: tokens of a batch, padding included, of the longer side.
        cpu: stay off the GPU.
    """

    run: Path
    subset: str
    checkpoint: Path
    data_bin: Path
    max_tokens: int = 4096
    cpu: bool = False

    @property
    def folder(self) -> Path:
        """Where the results are written."""
        return result_folder(self.run, self.subset)

    @cached_property
    def stamp(self) -> dict[str, Any]:
        """What decides about every result: checkpoint and data."""
        return {
            "checkpoint": file_stamp(self.checkpoint),
            "data": subset_stamp(self.data_bin, self.subset),
        }

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """``generation.json`` of the run's translations; empty if another model made them."""
        record = read_record(self.run / FOLDER / self.subset)
        same = record.get("checkpoint", {}).get("sha256") == self.stamp["checkpoint"]["sha256"]
        return record if same else {}

    @cached_property
    def loaded(self) -> Loaded:
        """The model and its task; read when first asked for."""
        return _load(self)

    def pairs(self) -> Pairs:
        """Return the pairs of the test set.

        Raises:
            SeqAttnError: there is no such set, or it has no target side.
        """
        task = self.loaded.task
        if self.subset not in task.datasets:
            with quiet("fairseq"):
                task.load_dataset(self.subset)
        dataset = task.dataset(self.subset)
        if dataset.tgt is None:
            raise SeqAttnError(
                f"{self.data_bin}: '{self.subset}' has no target side, which the model is to be "
                "shown; analyse a set that has one (--subset)"
            )

        pad = task.source_dictionary.pad(), task.target_dictionary.pad()

        def read(number: int) -> Pair:
            item = dataset[number]  # padded already where --num-batch-buckets is set
            sides = zip((item["source"], item["target"]), pad, strict=True)
            return Pair(*(ids[ids.ne(padding)] for ids, padding in sides))

        sizes = zip(dataset.src_sizes.tolist(), dataset.tgt_sizes.tolist(), strict=True)
        return Pairs(self.subset, list(sizes), read)


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode and float32, its task, and where it computes."""

    model: SeqAttnModel
    task: Any
    device: torch.device

    @torch.inference_mode()
    def show(self, batch: Batch, log: AttentionLog) -> None:
        """Let the model read a batch, given the targets; ``log`` receives the weights."""
        self.model(batch.source, None, batch.previous, attention_log=log)

    def batches(self, pairs: Pairs, numbers: Sequence[int], max_tokens: int) -> Iterator[Batch]:
        """Yield the pairs of these numbers in batches of like lengths."""
        for group in grouped(pairs.lengths, numbers, max_tokens):
            yield self.collate(group, [pairs.read(number) for number in group])

    def collate(self, numbers: list[int], pairs: list[Pair]) -> Batch:
        """Return a batch, padded on the sides that the model was trained with."""
        left = self.task.cfg.left_pad_source, self.task.cfg.left_pad_target
        dictionary = self.task.target_dictionary
        pad, eos = dictionary.pad(), dictionary.eos()
        source = data_utils.collate_tokens([p.source for p in pairs], pad, left_pad=left[0])
        previous = data_utils.collate_tokens(
            [p.target for p in pairs], pad, eos, left_pad=left[1], move_eos_to_beginning=True
        )
        return Batch(numbers, pairs, source.to(self.device), previous.to(self.device))

    def fitting(self, pairs: Pairs) -> list[int]:
        """Return the numbers of the pairs that are not longer than the model's positions."""
        limits = self.model.max_positions()
        return [
            number
            for number, lengths in enumerate(pairs.lengths)
            if all(length <= limit for length, limit in zip(lengths, limits, strict=True))
        ]


def grouped(
    lengths: Sequence[tuple[int, int]], numbers: Sequence[int], max_tokens: int
) -> Iterator[list[int]]:
    """Yield groups of like lengths whose longer side, padded, has at most ``max_tokens`` tokens.

    A longer pair is a group by itself.
    """
    group: list[int] = []
    for number in sorted(numbers, key=lambda n: (max(lengths[n]), n)):
        if group and (len(group) + 1) * max(lengths[number]) > max_tokens:
            yield group
            group = []
        group.append(number)
    if group:
        yield group


def find_subject(
    run: Path,
    subset: str,
    checkpoint: Path | None = None,
    data_bin: Path | None = None,
    max_tokens: int = 4096,
    cpu: bool = False,
) -> Subject:
    """Return what a path stands for.

    Args:
        run: a run's folder or a checkpoint.
        subset: name of the test set.
        checkpoint: the model; by default the one that the run's translations were made with, else
            its best or last.
        data_bin: folder of fairseq-preprocess; by default the one trained on.
        max_tokens: see :class:`Subject`.
        cpu: see :class:`Subject`.

    Raises:
        SeqAttnError: no such run, checkpoint or data.
    """
    if not run.exists():
        raise SeqAttnError(f"{run}: no such run folder or checkpoint")
    if max_tokens < 1:
        raise SeqAttnError(f"--max-tokens {max_tokens}: must be at least 1")
    if checkpoint and not checkpoint.is_file():
        raise SeqAttnError(f"{checkpoint}: no such checkpoint")
    file = checkpoint or _evaluated(run, subset) or find_checkpoint(run)
    folder = data_bin or data_bin_of(read_training(file), file)
    if not any(folder.glob("dict.*.txt")):
        raise SeqAttnError(
            f"{folder}: holds no dictionary; give the folder of fairseq-preprocess with --data, or "
            "start where the path leads"
        )
    return Subject(run, subset, file, folder, max_tokens, cpu)


def _evaluated(run: Path, subset: str) -> Path | None:
    """Return the checkpoint that translated a run's test set, if it was translated."""
    record = read_record(run / FOLDER / subset)
    if not record:
        return None
    path = run / Path(record["checkpoint"]["file"]).name
    remedy = f"run seqattn evaluate {run} again, or name a checkpoint with --checkpoint"
    if not path.is_file():
        raise SeqAttnError(
            f"{path}: not there, but {FOLDER}/{subset}/{RECORD} says that it translated the set; "
            f"{remedy}"
        )
    if file_stamp(path) != record["checkpoint"]:
        raise SeqAttnError(f"{path}: has changed since it translated '{subset}'; {remedy}")
    return path


# ---- the model ---------------------------------------------------------------------------------


def _load(subject: Subject) -> Loaded:
    with quiet("fairseq"):
        search = translation.Search(max_tokens=subject.max_tokens)
        found, task, _ = translation.load(subject.checkpoint, subject.data_bin, search)
    model = found if isinstance(found, SeqAttnModel) else _twin(subject.checkpoint, found, task)
    if name := non_finite(model.state_dict()):
        raise SeqAttnError(
            f"{subject.checkpoint}: {name} holds NaN or infinity; give another checkpoint"
        )
    gpu = torch.cuda.is_available() and not subject.cpu
    device = torch.device("cuda" if gpu else "cpu")
    return Loaded(model.float().to(device), task, device)


def _twin(checkpoint: Path, found: Any, task: Any) -> SeqAttnModel:
    """Return a model of stock fairseq as the variant that computes the same."""
    try:
        _, conversion = convert(read_checkpoint_file(checkpoint).model, {})
        return _converted(conversion, task)
    except (SeqAttnError, RuntimeError) as error:
        raise SeqAttnError(
            f"{checkpoint}: a {type(found).__name__} does not tell its attention weights, and no "
            f"variant here computes the same ({str(error).splitlines()[0]})"
        ) from error


def _converted(conversion: Conversion, task: Any) -> SeqAttnModel:
    cfg = make_config(conversion.variant, **conversion.options)
    registered: type[SeqAttnModel] = MODEL_REGISTRY[f"seqattn_{conversion.variant}"]
    model = registered.build(cfg, task.source_dictionary, task.target_dictionary)
    model.load_state_dict(conversion.state)
    model.eval()
    return model
