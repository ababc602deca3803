"""All kinds of golden files; a file is matched by its contents, never by its name."""

from __future__ import annotations

from seqattn_fairseq.parity import convolution, luna, mega, muse, rela, sparse
from seqattn_fairseq.parity.comparison import Kind

FAMILIES: tuple[tuple[Kind, ...], ...] = (
    convolution.KINDS,
    luna.KINDS,
    mega.KINDS,
    muse.KINDS,
    rela.KINDS,
    sparse.KINDS,
)

KINDS: tuple[Kind, ...] = tuple(kind for family in FAMILIES for kind in family)
