"""Every test here that asks for ``variant`` runs for each registered variant and some pairs."""

from __future__ import annotations

from tests.support.models import PAIRS, SINGLE_VARIANTS


def pytest_generate_tests(metafunc):
    if "variant" in metafunc.fixturenames:
        metafunc.parametrize("variant", SINGLE_VARIANTS + PAIRS)
