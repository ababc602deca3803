"""Word alignments of the training pairs, as the links between pieces that fairseq's batches take.

fairseq's own ``--load-alignments`` wants links between pieces, binarised with the data; these are
links between words, as aligners write them, next to any data.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq import utils
from fairseq.data import BucketPadLengthDataset, ConcatDataset, Dictionary, LanguagePairDataset
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm  # type: ignore[import-untyped]

from seqattn_fairseq.data.alignments import Alignments, load_alignments
from seqattn_fairseq.data.description import CORPUS_FILE, load_corpus_description
from seqattn_fairseq.data.words import SUBWORD_KINDS, Integers, WordNumbering
from seqattn_fairseq.errors import SeqAttnError

logger = logging.getLogger(__name__)


class _Side:
    """The sentences of one side of a pair dataset as word numbers.

    Args:
        dataset: token ids that end with the end of the sentence.
        dictionary: of these ids.
        kind: of segmentation.
        limit: tokens to which sentences are truncated; None: they are not.
    """

    def __init__(self, dataset: Any, dictionary: Dictionary, kind: str, limit: int | None) -> None:
        self.dataset = _unpadded(dataset)
        self.numbering = WordNumbering(dictionary.symbols, kind)
        self.eos, self.unk = dictionary.eos(), dictionary.unk()
        self.limit = limit
        self.unknown_may_go_on = kind != "none"

    def words(self, index: int) -> tuple[Integers, float]:
        """Return the word numbers (N,) of a sentence's pieces, and its number of words.

        An unknown piece hides whether a word goes on behind or begins with it, so N ends before
        the first. The number of words is an upper bound if they are not all known.
        """
        pieces = self.dataset[index].numpy()
        is_cut = self.limit is not None and len(pieces) >= self.limit
        if len(pieces) and pieces[-1] == self.eos:
            pieces = pieces[:-1]
        known = pieces
        if self.unknown_may_go_on and self.unk in pieces:
            known = pieces[: (pieces == self.unk).argmax()]
        numbers = self.numbering.of(known)
        words = int(numbers[-1]) + 1 if len(numbers) else 0
        return numbers, np.inf if is_cut else words + len(pieces) - len(known)


def _unpadded(dataset: Any) -> Any:
    return dataset.dataset if isinstance(dataset, BucketPadLengthDataset) else dataset


class PieceAlignments(Dataset[Tensor]):
    """What fairseq's pair dataset takes as ``align_dataset``: links between pieces, when asked for.

    Two pieces are linked if their words are.

    Args:
        alignments: links between words, line n being the n-th pair of the binarised text.
        pairs: the pairs; several splits (train, train1) count one after the other, and pairs that
            are there repeatedly (--upsample-primary) share their line.
        kind: of segmentation, see ``SUBWORD_KINDS``.
        source_limit: tokens to which sources are truncated; None: they are not.

    Raises:
        SeqAttnError: a link to a word that its sentence does not have.
    """

    def __init__(
        self,
        alignments: Alignments,
        pairs: LanguagePairDataset,
        kind: str,
        source_limit: int | None = None,
    ) -> None:
        self.alignments = alignments
        self.source = _Side(pairs.src, pairs.src_dict, kind, source_limit)
        self.target = _Side(pairs.tgt, pairs.tgt_dict, kind, None)
        self._check()

    def __len__(self) -> int:
        return len(self.source.dataset)

    def __getitem__(self, index: int) -> Tensor:
        """Return (K, 2): source and target piece of every link of a pair."""
        links = self.alignments.links(self._line(index))
        source, _ = self.source.words(index)
        target, _ = self.target.words(index)
        shape = [numbers.max(initial=-1) + 1 for numbers in (source, target)]
        linked = np.zeros(shape, dtype=bool)
        inside = (links < shape).all(axis=1)  # the rest of a truncated sentence is not
        linked[tuple(links[inside].T)] = True
        return torch.from_numpy(np.argwhere(linked[source][:, target]))

    def prefetch(self, indices: Any) -> None:
        """Do nothing: all is in memory (fairseq's interface)."""

    def _line(self, index: int) -> int:
        dataset = self.source.dataset
        if not isinstance(dataset, ConcatDataset):
            return index
        part, row = dataset._get_dataset_and_sample_index(index)
        return int(sum(dataset.real_sizes[:part]) + row)

    def _check(self) -> None:
        lines = tqdm(
            line_indices(self.source.dataset), desc="check of word alignments", unit="pair",
            total=len(self.alignments), delay=2, leave=False,
        )  # fmt: skip
        for line, index in enumerate(lines):
            links = self.alignments.links(line)
            for side, name in enumerate(("source", "target")):
                highest = int(links[:, side].max(initial=0))
                words = getattr(self, name).words(index)[1]
                if len(links) and highest >= words:
                    raise SeqAttnError(
                        f"{self.alignments.place(line)}: a link to {name} word {highest} (from 0), "
                        f"but pair {line + 1:,} has {words:,} {name} words; align the words of the "
                        "text that was binarised, before it is cut into subwords"
                    )


def line_indices(dataset: Any) -> Iterator[int]:
    """Return for every line of binarised text an index at which the dataset has its sentence."""
    if not isinstance(dataset, ConcatDataset):
        return iter(range(len(dataset)))
    starts = [0, *dataset.cumulative_sizes[:-1]]
    sizes = zip(starts, dataset.real_sizes, strict=True)
    return chain.from_iterable(range(start, start + size) for start, size in sizes)


def add_word_alignments(cfg: Any, pairs: LanguagePairDataset, epoch: int) -> None:
    """Give the training pairs of an epoch the alignments of ``cfg.word_alignments``.

    Args:
        cfg: the task's options.
        pairs: what fairseq has loaded for the epoch.
        epoch: from 1; decides which of several data folders and files is meant.

    Raises:
        SeqAttnError: options that contradict each other, or a file that does not fit the pairs.
    """
    folders, files = utils.split_paths(cfg.data), utils.split_paths(cfg.word_alignments)
    if cfg.load_alignments:
        raise SeqAttnError(
            "--word-alignments and --load-alignments both bring alignments; pass one of them"
        )
    if len(files) != len(folders):
        raise SeqAttnError(
            f"--word-alignments names {len(files)} files (separated by ':'), but there are "
            f"{len(folders)} data folders; give one file for each, in the same order"
        )
    path, folder = Path(files[(epoch - 1) % len(files)]), folders[(epoch - 1) % len(folders)]
    kind = cfg.word_alignments_subwords or subword_kind(Path(folder))
    lines = sum(1 for _ in line_indices(_unpadded(pairs.src)))
    alignments = load_alignments(path, cfg.word_alignments_format, lines)
    limit = cfg.max_source_positions if cfg.truncate_source else None
    pairs.align_dataset = PieceAlignments(alignments, pairs, kind, limit)
    logger.info(f"{path}: {len(alignments.words):,} links between words of {lines:,} pairs")


def subword_kind(data_bin: Path) -> str:
    """Return how the text of a data folder is segmented.

    Raises:
        SeqAttnError: the folder has no description.
    """
    description = load_corpus_description(data_bin)
    if description is None:
        raise SeqAttnError(
            f"{data_bin}: no {CORPUS_FILE} that tells how the words are cut into subwords; pass "
            f"--word-alignments-subwords, one of {', '.join(SUBWORD_KINDS)}"
        )
    return description.bpe.kind if description.bpe else "none"
