"""One file per attention family; this list is the door to all of them."""

from __future__ import annotations

from seqattn_fairseq.transformer.model import register_variant
from seqattn_fairseq.transformer.registry import VARIANTS, add_variant
from seqattn_fairseq.variants import convolution, luna, mega, muse, rela, softmax, sparse
from seqattn_fairseq.variants.hybrid import make_hybrid

FAMILIES = (softmax, rela, sparse, convolution, muse, luna, mega)


def register() -> None:
    """Register every variant's model and architectures with fairseq (once)."""
    single = [variant for family in FAMILIES for variant in family.VARIANTS]
    if single[0].name not in VARIANTS:
        for variant in (*single, make_hybrid(single)):
            add_variant(variant)
            register_variant(variant)
