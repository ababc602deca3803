"""Every array of every official file agrees, and none is overlooked."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqattn_fairseq.parity.comparison import Tolerance
from seqattn_fairseq.parity.kinds import KINDS
from seqattn_fairseq.parity.runner import find_files, run_file
from tests.support.goldens import GOLDENS

FILES = list(find_files([GOLDENS]))


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_file(path: Path) -> None:
    row = run_file(path, KINDS, Tolerance())
    assert (row.reason, row.misses) == ("", ())
    assert row.kind
    assert row.checked > 0


def test_every_family_is_there() -> None:
    found = {path.parent.name for path in FILES}
    assert found == {"lightconv_dynamicconv", "luna", "mega", "muse", "rela_sparse"}
