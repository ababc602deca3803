"""``seqattn list``: presets, and published numbers of parameters beside ours."""

from __future__ import annotations

import pytest

from seqattn_fairseq.cli.main import main
from seqattn_fairseq.evaluation.parameters import build_empty, compare_published, count_all
from seqattn_fairseq.transformer.config import SIZES
from seqattn_fairseq.transformer.registry import VARIANTS, get_variant
from tests.support.models import SINGLE_VARIANTS

PUBLISHED = [
    pytest.param(variant, published, id=f"{name}-{published.parameters}")
    for name, variant in VARIANTS.items()
    for published in variant.published
]


@pytest.mark.parametrize(("variant", "published"), PUBLISHED)
def test_counts_agree_with_the_published_ones(variant, published):
    comparison = compare_published(variant, published)
    assert comparison.agrees, comparison
    assert bool(published.without_gradient) <= bool(published.why)


@pytest.mark.parametrize("variant", SINGLE_VARIANTS)
def test_tiny_is_as_large_as_the_twin(variant):
    twin = count_all(
        build_empty(get_variant("softmax"), "tiny", 9712, 9712, share_all_embeddings=True)
    )
    assert twin == 2_568_192
    ours = count_all(
        build_empty(get_variant(variant), "tiny", 9712, 9712, share_all_embeddings=True)
    )
    assert abs(ours - twin) <= 0.05 * twin


@pytest.mark.parametrize("variant", SINGLE_VARIANTS)
def test_presets_say_whose_they_are(variant):
    found = get_variant(variant)
    assert found.presets.keys() <= SIZES.keys()
    assert all(found.preset(size).source for size in SIZES)
    known = vars(found.config())
    assert all(found.preset(size).options.keys() <= known.keys() for size in SIZES)
    assert found.official.keys() <= known.keys()


def test_the_table(capsys):
    assert main(["list", "softmax", "rela_g"]) == 0
    printed = capsys.readouterr().out
    assert "softmax  tiny           4+4     128    256   4      1,325,056    " in printed
    assert "ours 42,864,640 agrees with 42,864,640 (stock fairseq 0.6.2)" in printed
    assert "rela_g: embedding_bias=True" in printed
    assert "DIFFERS" not in printed


def test_an_unknown_variant_is_one_line(capsys):
    assert main(["list", "musee"]) == 1
    assert "unknown variant 'musee' (did you mean muse" in capsys.readouterr().err


def test_archs_are_for_scripts(capsys):
    assert main(["list", "--archs", "softmax"]) == 0
    assert capsys.readouterr().out.split() == [f"seqattn_softmax_{size}" for size in SIZES]
