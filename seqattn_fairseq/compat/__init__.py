"""Workarounds for defects of the fairseq, torch and numpy at hand: one table, applied once.

Each entry is a :class:`~seqattn_fairseq.compat.workaround.Workaround`: a name, the reason in one
sentence, a test whether the defect is present here, and the repair. ``seqattn doctor`` prints
those in force. Nothing else in the package may import from here.
"""

from __future__ import annotations

import logging

# Before fairseq is imported: its text-to-speech task asks every program for tensorboardX.
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

import fairseq  # noqa: E402

from seqattn_fairseq.compat import (  # noqa: E402
    batches,
    checkpoints,
    command_line,
    configuration,
    device_waits,
    distributed,
    libraries,
    loggers,
    numerics,
    search,
)
from seqattn_fairseq.compat.workaround import Workaround  # noqa: E402

WORKAROUNDS: tuple[Workaround, ...] = (
    *libraries.WORKAROUNDS,
    *batches.WORKAROUNDS,
    *checkpoints.WORKAROUNDS,
    *configuration.WORKAROUNDS,
    *numerics.WORKAROUNDS,
    *search.WORKAROUNDS,
    *device_waits.WORKAROUNDS,
    *distributed.WORKAROUNDS,
    *loggers.WORKAROUNDS,
    *command_line.WORKAROUNDS,
)

# On fairseq itself, because that is what is patched: a second import of this package under
# whatever name (installed, --user-dir, a reload in a notebook) must find what is done.
_RECORD = "_seqattn_workarounds"


def _applied() -> set[str]:
    record: set[str] = vars(fairseq).setdefault(_RECORD, set())
    return record


def apply() -> None:
    """Apply every workaround whose defect is present; the second call does nothing."""
    for workaround in WORKAROUNDS:
        if workaround.name not in _applied() and workaround.needed():
            workaround.apply()
            _applied().add(workaround.name)


def active() -> list[Workaround]:
    """Return the workarounds in force, in the order of the table."""
    return [workaround for workaround in WORKAROUNDS if workaround.name in _applied()]
