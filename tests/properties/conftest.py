"""Every test here that asks for ``variant`` runs for each registered variant."""

from __future__ import annotations

from seqattn_fairseq.transformer.registry import VARIANTS


def pytest_generate_tests(metafunc):
    if "variant" in metafunc.fixturenames:
        metafunc.parametrize("variant", list(VARIANTS))
