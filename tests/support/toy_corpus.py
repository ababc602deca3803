"""A tiny reversed-letters corpus, and fairseq's commands run as real processes, quickly.

Starting Python and importing fairseq costs about four seconds. :func:`run` therefore forks every
command from one server process that has imported fairseq (but not this package): the command is a
process of its own, with its own plugin import, files and exit status, and can be killed.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.support.folders import lasting_folder

USER_DIR = str(Path(__file__).parents[2] / "seqattn_fairseq")  # not imported here: see above
LETTERS = "abcdefghij"

# Dimensions for speed; they fit stock ``--arch transformer`` and our own architectures.
TINY = (
    "--encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 16 --decoder-embed-dim 16 "
    "--encoder-ffn-embed-dim 16 --decoder-ffn-embed-dim 16 --encoder-attention-heads 2 "
    "--decoder-attention-heads 2"
).split()
TRAINING = (
    "--optimizer adam --lr 0.005 --max-tokens 200 --cpu --num-workers 0 --log-format simple "
    "--update-epoch-batch-itr True --required-batch-size-multiple 8"
).split()

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [f"fairseq_cli.{name}" for name in ("preprocess", "train", "generate", "interactive")]
    + ["fairseq_cli.hydra_train", "torch._dynamo"]  # the latter is imported by optimizers
)


@dataclass(frozen=True)
class Result:
    """What a finished command left: exit status and both outputs."""

    status: int
    stdout: str
    stderr: str

    def lines(self, kind: str) -> dict[int, str]:
        """Return the text of fairseq's output lines of one kind (``H``, ``D``, ``S``), by id."""
        rows = [line.split("\t") for line in self.stdout.split("\n") if line.startswith(f"{kind}-")]
        return {int(row[0].partition("-")[2]): row[-1] for row in rows}


def sentences(count: int, seed: int = 1, longest: int = 8) -> list[str]:
    """Return ``count`` sentences of 1 to ``longest`` letters."""
    generator = random.Random(seed)
    return [
        " ".join(generator.choice(LETTERS) for _ in range(generator.randint(1, longest)))
        for _ in range(count)
    ]


def write_split(prefix: Path, lines: Sequence[str]) -> None:
    """Write ``prefix.src`` and ``prefix.tgt``; the target is the source reversed."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_suffix(".src").write_text("".join(f"{line}\n" for line in lines))
    prefix.with_suffix(".tgt").write_text(
        "".join(" ".join(reversed(line.split())) + "\n" for line in lines)
    )


def write_dictionary(path: Path, letters: str = LETTERS) -> None:
    """Write a fairseq dictionary of single letters in the given order."""
    path.write_text("".join(f"{letter} {100 - i}\n" for i, letter in enumerate(letters)))


def preprocess(text: Path, data_bin: Path, *splits: str, letters: str = LETTERS) -> Result:
    """Binarise the named splits (``test:path/of/prefix`` or a plain name) of folder ``text``."""
    dictionary = text / f"dict.{letters}.txt"
    write_dictionary(dictionary, letters)
    prefixes = [f"--{split}pref={text / split}" for split in splits]
    return run(
        "preprocess", "-s", "src", "-t", "tgt", *prefixes, "--destdir", str(data_bin),
        "--srcdict", str(dictionary), "--joined-dictionary", "--user-dir", USER_DIR,
    )  # fmt: skip


def _redirect(output: Path, stdin: Path) -> None:
    os.dup2(os.open(stdin, os.O_RDONLY), 0)
    for number, suffix in ((1, "out"), (2, "err")):
        file = output.with_suffix(f".{suffix}")
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 multiprocessing closed it


def _main(command: str, arguments: Sequence[str], output: Path, stdin: Path, folder: Path) -> None:
    """Do in the forked process what the console script ``fairseq-<command>`` does."""
    _redirect(output, stdin)
    os.chdir(folder)
    sys.argv = [f"fairseq-{command.replace('_', '-')}", *arguments]
    try:
        importlib.import_module(f"fairseq_cli.{command}").cli_main()
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


def start(
    command: str, *arguments: str, output: Path, stdin: bytes = b"", folder: Path | None = None
) -> ForkServerProcess:
    """Start ``fairseq-<command>``; its outputs go to ``output`` with suffixes .out and .err."""
    source = output.with_suffix(".in")
    source.write_bytes(stdin)
    process = _context.Process(
        target=_main, args=(command, arguments, output, source, folder or output.parent)
    )
    process.start()
    return process


def finish(process: ForkServerProcess, output: Path) -> Result:
    """Wait for a started command and collect what it left."""
    process.join(timeout=120)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"hangs: {output.with_suffix('.out').read_text()[-2000:]}")
    texts = [output.with_suffix(s).read_text(errors="replace") for s in (".out", ".err")]
    return Result(process.exitcode, texts[0], texts[1])


def run(command: str, *arguments: str, stdin: bytes = b"", folder: Path | None = None) -> Result:
    """Run ``fairseq-<command>`` to its end."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch, "log")
        return finish(start(command, *arguments, output=output, stdin=stdin, folder=folder), output)


def train(data_bin: Path, save_dir: Path, *extra: str, arch: str = "transformer") -> Result:
    """Train a tiny model."""
    return run(
        "train", str(data_bin), "--user-dir", USER_DIR, "--arch", arch, *TINY, *TRAINING,
        "--save-dir", str(save_dir), *extra,
    )  # fmt: skip


def script(command: str, *arguments: str, stdin: bytes = b"") -> Result:
    """Run a console script as users do: a new interpreter, found beside this one."""
    program = Path(sys.executable).with_name(command)
    done = subprocess.run(
        [str(program), *arguments], input=stdin, capture_output=True, check=False, timeout=300
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


@dataclass(frozen=True)
class Run:
    """A trained tiny model: its data, its folder of checkpoints, and the last of them."""

    text: Path
    data_bin: Path
    save_dir: Path
    checkpoint: Path


@functools.cache
def corpus() -> tuple[Path, Path]:
    """Return text and data-bin folders with 200 train, 13 valid and 5 test sentences."""
    folder = lasting_folder("toy corpus ")  # every path of every test has a space
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for seed, (split, count) in enumerate((("train", 200), ("valid", 13), ("test", 5))):
        write_split(folder / "text" / split, sentences(count, seed))
    result = preprocess(folder / "text", folder / "bin", "train", "valid", "test")
    assert result.status == 0, result.stderr
    return folder / "text", folder / "bin"


@functools.cache
def trained(arch: str = "seqattn_softmax", task: str = "translation") -> Run:
    """Return a run of two epochs; it takes sources of up to 30 tokens, and has learnt little."""
    text, data_bin = corpus()
    save_dir = data_bin.parent / f"run {arch} {task}"
    result = train(
        data_bin, save_dir, "--max-epoch", "2", "--max-source-positions", "30", "--task", task,
        arch=arch,
    )  # fmt: skip
    assert result.status == 0, result.stderr
    return Run(text, data_bin, save_dir, save_dir / "checkpoint_last.pt")


def generate(run_: Run, *extra: str, data_bin: Path | None = None) -> Result:
    """Translate a test set with a toy run, in batches of at most 100 tokens."""
    return run(
        "generate", str(data_bin or run_.data_bin), "--user-dir", USER_DIR, "--path",
        str(run_.checkpoint), "--cpu", "--max-tokens", "100", "--max-len-b", "12", "--beam", "2",
        "--num-workers", "0", *extra,
    )  # fmt: skip


def interactive(run_: Run, text: bytes, *extra: str) -> Result:
    """Translate text from standard input with a toy run."""
    return run(
        "interactive", str(run_.data_bin), "--user-dir", USER_DIR, "--path",
        str(run_.checkpoint), "--cpu", "--max-len-b", "12", "--beam", "2", *extra, stdin=text,
    )  # fmt: skip
