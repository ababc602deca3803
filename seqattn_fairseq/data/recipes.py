"""The public corpora that ``seqattn prepare`` knows, by name."""

from __future__ import annotations

from seqattn_fairseq.data import recipes_small as small
from seqattn_fairseq.data import recipes_wmt as wmt
from seqattn_fairseq.data.recipe import CorpusRecipe
from seqattn_fairseq.errors import SeqAttnError, nearest

__all__ = ["RECIPES", "CorpusRecipe", "find_recipe"]

RECIPES = {
    recipe.name: recipe
    for recipe in (
        small.multi30k("de"),
        small.multi30k("fr"),
        small.iwslt14(),
        small.iwslt14().reversed("iwslt14_en_de"),
        small.iwslt15(),
        wmt.fairseq_en_de("wmt14_en_de", icml17=True),
        wmt.fairseq_en_de("wmt17_en_de", icml17=False),
        wmt.google_en_de(),
        wmt.google_en_de().reversed("wmt16_de_en_bpe32k"),
        wmt.mega_en_de(),
        wmt.mega_en_de().reversed("wmt16_de_en_mega"),
        wmt.fairseq_en_fr(),
    )
}


def find_recipe(name: str) -> CorpusRecipe:
    """Return the recipe of that name.

    Raises:
        SeqAttnError: there is none; names the nearest.
    """
    if name not in RECIPES:
        raise SeqAttnError(
            f"unknown corpus '{name}'{nearest(name, RECIPES)}; known are {', '.join(RECIPES)}"
        )
    return RECIPES[name]
