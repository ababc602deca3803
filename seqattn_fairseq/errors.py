"""The one exception type that stands for a user's mistake."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SeqAttnError(Exception):
    """Bad input, reported to the user as one line: what is wrong, where, and the remedy.

    The command line prints only the message and exits with a non-zero status; library callers
    catch it like any other exception.
    """


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return `` (did you mean a, b?)`` for the names closest to ``name``, or an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f" (did you mean {', '.join(matches)}?)" if matches else ""
