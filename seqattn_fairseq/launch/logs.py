"""One pair of log files for each rank, where torchrun writes what the rank prints."""

from __future__ import annotations

import re
import time
from pathlib import Path

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs

# Bytes at the end of a log in which its last words are looked for
_TAIL = 4096

_FAIRSEQ_ERROR = re.compile(r"^fairseq-hydra-train: error: ")
# What a rank says that lost another one: the reason is to be found elsewhere
_CONSEQUENCE = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|closed by peer|remote process exited"
    r"|nccl (communicator|error|watchdog)|timed out waiting",
    re.IGNORECASE,
)
_HEARTBEAT = "Killing job for not making progress"


class RankLogs(LogsSpecs):
    """``FOLDER/START/rank0.out``, ``rank0.err``, ... for every start; rank 0 is shown as well."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / time.strftime("%Y%m%d-%H%M%S")
        super().__init__(str(self.folder))

    @property
    def root_log_dir(self) -> str:
        """Return the folder of this start."""
        return str(self.folder)

    def path(self, rank: int, stream: str) -> Path:
        """Return the file of a rank's stream: ``out`` or ``err``."""
        return self.folder / f"rank{rank}.{stream}"

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Return the files of this node's processes, by local rank."""
        self.folder.mkdir(parents=True, exist_ok=True)
        ranks = {local: int(environ["RANK"]) for local, environ in envs.items()}
        shown = [local for local, rank in ranks.items() if rank == 0]
        out, err, error = (
            {local: str(self.path(rank, stream)) for local, rank in ranks.items()}
            for stream in ("out", "err", "json")
        )
        return LogsDest(
            stdouts=out,
            stderrs=err,
            tee_stdouts={local: out[local] for local in shown},
            tee_stderrs={local: err[local] for local in shown},
            error_files=error,
        )

    def last_words(self, rank: int) -> str:
        """Return the line in which a rank said why it ended; empty if it said nothing."""
        lines = _tail(self.path(rank, "err"))
        for line in reversed(_tail(self.path(rank, "out"))):
            if _HEARTBEAT in line:
                return line[line.index(_HEARTBEAT) :]
        errors = [line for line in lines if _FAIRSEQ_ERROR.match(line) or _is_exception(line)]
        return _FAIRSEQ_ERROR.sub("", errors[-1]) if errors else ""


def is_consequence(words: str) -> bool:
    """Tell whether a rank's last words only say that another rank has gone."""
    return bool(_CONSEQUENCE.search(words))


def _is_exception(line: str) -> bool:
    return re.match(r"[A-Za-z_.]*(Error|Exception|Interrupt)\b", line) is not None


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - _TAIL))
            return stream.read().decode(errors="replace").splitlines()
    except OSError:
        return []
