"""Finding golden files, telling their kind, and running them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.parity.comparison import Comparison, Kind, Tolerance, UninterpretableError
from seqattn_fairseq.parity.golden import Golden

SUFFIXES = (".npz", ".json")


@dataclass(frozen=True)
class Row:
    """The outcome of one file.

    Attributes:
        path: the file.
        kind: what it was taken for; empty if unknown.
        checked: number of arrays compared.
        output_error: largest absolute error of an output.
        gradient_error: largest absolute error of a gradient.
        misses: what missed the tolerance.
        reason: why the file could not be interpreted; empty if it could.
    """

    path: Path
    kind: str = ""
    checked: int = 0
    output_error: float = 0.0
    gradient_error: float = 0.0
    misses: tuple[str, ...] = ()
    reason: str = ""


def find_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files named, and those below the folders named, in order.

    Raises:
        SeqAttnError: a path does not exist, or a folder holds none.
    """
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES)
            if not found:
                raise SeqAttnError(f"{path}: no golden files ({', '.join(SUFFIXES)}) in it")
            yield from found
        elif path.exists():
            yield path
        else:
            raise SeqAttnError(f"{path}: no such file or folder")


def run_file(path: Path, kinds: Sequence[Kind], tolerance: Tolerance) -> Row:
    """Compare one file with this project."""
    kind = ""
    try:
        golden = Golden(path)
        matching = [k for k in kinds if k.recognises(golden)]
        if len(matching) != 1:
            names = ", ".join(k.name for k in matching)
            raise UninterpretableError(
                f"of several kinds: {names}" if names else "of no kind we know"
            )
        kind = matching[0].name
        comparison = Comparison(golden, tolerance)
        matching[0].run(golden, comparison)
        comparison.finish()
    except (UninterpretableError, SeqAttnError) as error:
        return Row(path, kind, reason=str(error))
    except Exception as error:
        # an array or option of an unforeseen shape: the file's fault as far as we can tell
        reason = str(error).partition("\n")[0]
        return Row(path, kind, reason=f"{type(error).__name__}: {reason}")
    return Row(
        path,
        kind,
        comparison.checked,
        comparison.output_error,
        comparison.gradient_error,
        tuple(comparison.misses),
    )
