"""Lines of k consecutive sentences, and a process that translates them under observation.

The boundaries of documents are not known, so consecutive sentences may belong to two texts. Lines
are cut from groups of ``unit`` sentences, the largest k of an analysis, which every k divides: each
k sees the same sentences in the same order. A group that does not fit into the model's positions
as one line is left out for every k; the last group may be shorter.

Shapes: N sentences, 2 sides (source, target).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from fairseq.data import ListDataset
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.translation import Job, Sentence, Translator
from seqattn_fairseq.launch.quietness import quiet

MIB = 2**20
BATCH_LINES = 16


class Lines(NamedTuple):
    """The lines of a k: the sentences of each, and how many lines are left out as too long."""

    kept: list[range]
    too_long: int


@dataclass(frozen=True)
class Translated:
    """What a process made of the lines of a k, and what it took.

    Attributes:
        lines: the sentences of each line.
        too_long: lines that were left out.
        source_tokens: subwords of all sources, without the ends of lines.
        sentences: the lines and their best hypotheses.
        seconds: spent in the search, without loading and batching.
        tokens: subwords of the best hypotheses, ends of lines included, as fairseq counts them.
        truncated: hypotheses as long as the search allows.
        model_mib: memory once the model was loaded: of the process, on a GPU what is allocated.
        peak_mib: the most that was held above that; both are None where it cannot be measured.
    """

    lines: list[range]
    too_long: int
    source_tokens: int
    sentences: list[Sentence]
    seconds: float
    tokens: int
    truncated: int
    model_mib: float | None
    peak_mib: float | None


# ---- lines -------------------------------------------------------------------------------------


def cut(sizes_N2: NDArray[np.int64], limits: tuple[float, float], count: int, unit: int) -> Lines:
    """Return the lines of ``count`` sentences.

    Args:
        sizes_N2: subwords of each sentence on both sides, without the ends of sentences.
        limits: longest source and target of the model, the end of the line included.
        count: sentences of a line.
        unit: sentences of a group, a multiple of ``count``.

    Raises:
        SeqAttnError: no group of so many sentences is there, or fits.
    """
    total = len(sizes_N2)
    groups = [range(start, min(start + unit, total)) for start in range(0, total, unit)]
    fitting = [group for group in groups if (sizes_N2[group].sum(axis=0) + 1 <= limits).all()]
    if total < unit:
        raise SeqAttnError(
            f"{total} sentences, fewer than the {unit} that a line is to hold; leave out the "
            "largest count"
        )
    # the last group, which may be shorter, does not stand for lines of so many sentences
    if not any(len(group) == unit for group in fitting):
        raise SeqAttnError(
            f"{unit} consecutive sentences never fit into the model, which takes {limits[0]:,.0f} "
            f"source and {limits[1]:,.0f} target tokens; leave out the largest count"
        )
    kept = [line for group in fitting for line in _split(group, count)]
    return Lines(kept, sum(len(_split(group, count)) for group in groups) - len(kept))


def _split(group: range, count: int) -> list[range]:
    return [group[start : start + count] for start in range(0, len(group), count)]


def sentence_sizes(dataset: Any) -> NDArray[np.int64]:
    """Return (N, 2) subwords of the sentences of fairseq's dataset; 0 where there is no target."""
    sides = [_words(dataset, side) for side in (dataset.src, dataset.tgt)]
    return np.array([[len(words) for words in side] for side in sides], dtype=np.int64).T


def _words(dataset: Any, side: Any) -> list[Tensor]:
    """Return the sentences of a side without what stands for no word."""
    if side is None:
        return [torch.empty(0, dtype=torch.int64)] * len(dataset)
    ends = (dataset.src_dict.pad(), dataset.src_dict.eos())
    return [_without_ends(side[index], ends) for index in range(len(dataset))]


def _without_ends(tokens: Tensor, ends: tuple[int, int]) -> Tensor:
    return tokens[(tokens != ends[0]) & (tokens != ends[1])]


def joined(dataset: Any, lines: Sequence[range]) -> Any:
    """Return fairseq's dataset with the sentences of each line as one, in the same form."""
    changed = copy.copy(dataset)
    changed.src, changed.src_sizes = _join(dataset, dataset.src, lines)
    changed.sizes = changed.src_sizes
    if dataset.tgt is not None:
        changed.tgt, changed.tgt_sizes = _join(dataset, dataset.tgt, lines)
        changed.sizes = np.stack([changed.src_sizes, changed.tgt_sizes], axis=1)
    changed.buckets = changed.align_dataset = None  # both are made for single sentences
    return changed


def _join(dataset: Any, side: Any, lines: Sequence[range]) -> tuple[ListDataset, NDArray[np.int64]]:
    words, end = _words(dataset, side), torch.tensor([dataset.src_dict.eos()])
    tokens = [torch.cat([*(words[index] for index in line), end]) for line in lines]
    sizes = np.array([len(line) for line in tokens], dtype=np.int64)
    return ListDataset(tokens, sizes), sizes


# ---- one process for one k ---------------------------------------------------------------------


def translate_lines(job: Job, count: int, unit: int, first: int | None) -> Translated:
    """Translate the lines of ``count`` sentences; to be called in a process of its own.

    Args:
        job: the test set, and a search whose outputs may be long enough for these lines.
        count: sentences of a line.
        unit: sentences of a group, see :func:`cut`.
        first: how many sentences of the set to take, all by default.

    Raises:
        SeqAttnError: things do not fit together, or no line fits into the model.
    """
    with quiet("fairseq"):
        opened = Translator.open(job)
        sizes = sentence_sizes(opened.dataset)[:first]
        lines = cut(sizes, opened.max_positions(), count, unit)
        long = joined(opened.dataset, lines.kept)
        translator = Translator(job, opened.device, opened.model, opened.task, long)
        translator.warm_up(BATCH_LINES)
        model_mib = _start_watching(translator.device)
        found = _Search(translator, f"{job.subset}, k = {count}")
        peak = _peak(translator.device)
    return Translated(
        lines=lines.kept,
        too_long=lines.too_long,
        source_tokens=int(sum(sizes[line, 0].sum() for line in lines.kept)),
        sentences=sorted(found.sentences, key=lambda sentence: sentence.ident),
        seconds=found.seconds,
        tokens=found.tokens,
        truncated=found.truncated,
        model_mib=model_mib,
        peak_mib=None if model_mib is None else max(0.0, peak - model_mib),
    )


class _Search:
    """All batches of a test set, translated one after the other."""

    def __init__(self, translator: Translator, name: str) -> None:
        self.sentences: list[Sentence] = []
        self.seconds = 0.0
        self.tokens = self.truncated = 0
        with tqdm(total=len(translator.dataset), desc=name, unit="line") as bar:
            for sample in translator.batches(lines=BATCH_LINES):
                best, seconds = translator.timed_search(sample)
                limit = _limit(translator.generator, sample)
                lengths = [len(hypothesis["tokens"]) for hypothesis in best]
                self.seconds += seconds
                self.tokens += sum(lengths)
                self.truncated += sum(length > limit for length in lengths)
                self.sentences += translator.sentences(sample, best)
                bar.update(len(best))


def _limit(generator: Any, sample: dict[str, Any]) -> int:
    """Return the words after which fairseq's generator ends every hypothesis of a batch."""
    width = sample["net_input"]["src_tokens"].size(1)
    wanted = int(generator.max_len_a * width + generator.max_len_b)
    return min(wanted, int(generator.max_len) - 1)


# ---- memory ------------------------------------------------------------------------------------


def _start_watching(device: torch.device) -> float | None:
    """Return the memory (MiB) held now, and forget what was held at any time before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / MIB
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak becomes what is held now
        return _peak(device)
    except (OSError, StopIteration):
        return None


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
