"""What a workaround is, and the two tools that all of them share."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Workaround:
    """One defect: what it does to the user (``reason``), whether it is here, and its repair."""

    name: str
    reason: str
    needed: Callable[[], bool]
    apply: Callable[[], None]


def always() -> bool:
    """Tell that a workaround is needed with every version of fairseq that we support."""
    return True


def source_contains(function: Callable[..., Any], text: str) -> bool:
    """Tell whether the source of ``function`` contains ``text``, the mark of a known defect."""
    try:
        return text in inspect.getsource(function)
    except OSError:  # no source at hand: the supported versions have the defect
        return True


def rebind(original: object, replacement: object) -> None:
    """Put ``replacement`` wherever a loaded fairseq module holds ``original`` under a name.

    Patching only the module that defines a function would miss every ``from x import f``.
    """
    for name, module in list(sys.modules.items()):
        if name == "__main__" or name.partition(".")[0] in ("fairseq", "fairseq_cli"):
            for attribute, value in list(vars(module).items()):
                if value is original:
                    setattr(module, attribute, replacement)
