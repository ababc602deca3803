"""Which word each subword piece belongs to.

Words are what blanks separate in the text before segmentation. Kinds of segmentation have the
names that fairseq's ``--bpe`` gives them: ``subword_nmt`` marks pieces after which a word goes on,
``sentencepiece`` those that begin one, and with ``none`` every piece is a word.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from seqattn_fairseq.errors import SeqAttnError, nearest

SUBWORD_KINDS = ("subword_nmt", "sentencepiece", "none")

_GOES_ON = "@@"  # at the end of a piece of subword-nmt
_BLANK = "\u2581"  # how sentencepiece writes the blank before a word

Integers = npt.NDArray[np.int64]


class WordNumbering:
    """Word numbers of sentences whose pieces are given by their indices in a list of symbols.

    Args:
        symbols: e.g. a dictionary's, in the order of their indices.
        kind: one of ``SUBWORD_KINDS``.

    Raises:
        SeqAttnError: another kind.
    """

    def __init__(self, symbols: Sequence[str], kind: str) -> None:
        check_kind(kind)
        # words begin at a mark, or after a piece that does not go on
        self._marked = kind == "sentencepiece"
        if self._marked:
            begun = [symbol.count(_BLANK) for symbol in symbols]
        else:
            begun = [kind == "none" or not symbol.endswith(_GOES_ON) for symbol in symbols]
        self._begun = np.array(begun, dtype=np.int64)
        self._leading = np.array([symbol.startswith(_BLANK) for symbol in symbols], dtype=bool)

    def of(self, pieces_N: Integers) -> Integers:
        """Return (N,) for each piece of a sentence the number of its word, from 0.

        A piece with several words (sentencepiece can be told to make such) belongs to the last.

        Args:
            pieces_N: (N,) indices of the pieces, without the end of the sentence.
        """
        begun = self._begun[pieces_N]
        numbers: Integers = np.cumsum(begun)
        if self._marked:
            numbers -= self._leading[pieces_N[:1]].sum()
        else:
            numbers -= begun  # only what earlier pieces have begun
        return numbers


def check_kind(kind: str) -> None:
    """Refuse what is no kind of segmentation.

    Raises:
        SeqAttnError: ``kind`` is not in ``SUBWORD_KINDS``.
    """
    if kind not in SUBWORD_KINDS:
        raise SeqAttnError(
            f"'{kind}' is no kind of subwords{nearest(kind, SUBWORD_KINDS)}; "
            f"there are {', '.join(SUBWORD_KINDS)}"
        )
