"""One training at a time in a run's folder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seqattn_fairseq.errors import SeqAttnError


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a run's folder while training; the system lets go of it however the process ends.

    Raises:
        SeqAttnError: another process holds it.
    """
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SeqAttnError(
                f"{folder}: another `seqattn train` is at work there; wait for it, or give this "
                "one a folder of its own with checkpoint.save_dir=FOLDER"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
