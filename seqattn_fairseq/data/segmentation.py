"""Byte-pair encoding by subword-nmt: learning the codes and applying them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path

from subword_nmt.apply_bpe import BPE
from subword_nmt.learn_bpe import learn_bpe

from seqattn_fairseq.data.files import read_lines, write_atomically
from seqattn_fairseq.errors import SeqAttnError


def learn_codes(texts: Sequence[Path], codes: Path, merges: int) -> None:
    """Learn at most ``merges`` merge operations jointly on tokenised texts (Sennrich et al. 2016).

    Fewer are written when no pair of symbols occurs twice. subword-nmt shows its progress.

    Raises:
        SeqAttnError: the texts hold no word of two or more characters.
    """
    with write_atomically(codes) as stream:
        try:
            learn_bpe(chain.from_iterable(map(read_lines, texts)), stream, merges)
        except ValueError:
            names = " and ".join(map(str, texts))
            raise SeqAttnError(
                f"{names}: too little text to learn BPE from; no word has two characters"
            ) from None


def segment_lines(codes: Path, codes_sha256: str, lines: list[str]) -> list[str]:
    """Split the words of tokenised lines into subword units, "@@" marking a word that goes on."""
    segmenter = _segmenter(codes, codes_sha256)
    return [segmenter.segment(line) for line in lines]


@lru_cache(maxsize=1)
def _segmenter(codes: Path, codes_sha256: str) -> BPE:
    # The hash is part of the key: the file may be learnt anew while this process lives.
    with open(codes, encoding="utf-8", newline="\n") as stream:
        return BPE(stream)
