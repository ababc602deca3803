"""fairseq's command lines: bf16, short errors, and checks of the text that goes in."""

from __future__ import annotations

import argparse
import codecs
import linecache
import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial, wraps
from pathlib import Path
from types import FrameType, ModuleType, TracebackType
from typing import Any, BinaryIO, NoReturn

from fairseq import options
from hydra.core.utils import JobReturn, JobStatus
from omegaconf.errors import MissingMandatoryValue

from seqattn_fairseq.compat.workaround import Workaround, always, source_contains
from seqattn_fairseq.errors import SeqAttnError, nearest

# ---- bf16 --------------------------------------------------------------------------------------


def _allow_bf16() -> None:
    original = options.parse_args_and_arch

    @wraps(original)
    def parse_args_and_arch(parser: Any, input_args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        parsed = original(parser, input_args, *rest, **kwargs)
        words = sys.argv[1:] if input_args is None else input_args
        if "--tpu" not in words:
            namespace = parsed[0] if isinstance(parsed, tuple) else parsed
            namespace.tpu = False
        return parsed

    options.parse_args_and_arch = parse_args_and_arch


# ---- one line per error ------------------------------------------------------------------------

_CHOICE = re.compile(r"argument ([^:]+): invalid choice: '?(.*?)'? \(choose from", re.DOTALL)


def _shorten(parser: argparse.ArgumentParser, message: str) -> str:
    """Replace argparse's lists of every choice by the nearest names."""
    known = parser._option_string_actions
    if match := _CHOICE.match(message):
        option = match[1].split("/")[0]
        hint = nearest(match[2], map(str, known[option].choices or ())) or " (see --help)"
        return f"argument {option}: unknown name '{match[2]}'{hint}"
    if message.startswith("unrecognized arguments:"):
        words = message.split(":", 1)[1].split()
        unknown = [word.partition("=")[0] for word in words if word.startswith("-")]
        hints = [f"unknown option {word}{nearest(word, known)}" for word in unknown]
        return "; ".join(hints) or message
    return message


def _exit_with(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    parser.exit(2, f"{parser.prog}: error: {_shorten(parser, message)}\n")


def _shorten_parser_errors() -> None:
    parse, preprocess = options.parse_args_and_arch, options.add_preprocess_args

    @wraps(parse)
    def parse_args_and_arch(parser: argparse.ArgumentParser, *rest: Any, **kwargs: Any) -> Any:
        parser.error = partial(_exit_with, parser)  # type: ignore[method-assign]
        return parse(parser, *rest, **kwargs)

    @wraps(preprocess)
    def add_preprocess_args(parser: argparse.ArgumentParser) -> Any:
        parser.error = partial(_exit_with, parser)  # type: ignore[method-assign]
        return preprocess(parser)

    options.parse_args_and_arch = parse_args_and_arch
    options.add_preprocess_args = add_preprocess_args


def _is_fairseq_command() -> bool:
    program = Path(sys.argv[0])
    return program.name.startswith("fairseq-") or program.parent.name == "fairseq_cli"


def _report(message: str) -> None:
    print(f"{Path(sys.argv[0]).stem}: error: {message}", file=sys.stderr)


# Once training has begun, fairseq's own errors keep their traceback: hours may lie before them.
_TRAINING = {"train", "train_step", "valid_step"}


def _reason(error: BaseException, frame: FrameType, line: int) -> str | None:
    """Return the message of an error that fairseq foresaw, or ``None`` for a bug."""
    if isinstance(error, MissingMandatoryValue):
        return f"--{str(error.key).replace('_', '-')} is missing"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    package = str(frame.f_globals.get("__name__")).partition(".")[0]
    source = linecache.getline(frame.f_code.co_filename, line)
    foreseen = isinstance(error, AssertionError) or source.lstrip().startswith("raise ")
    in_words = re.search(r"[A-Za-z]{2,} [A-Za-z]", str(error))
    if package in ("fairseq", "fairseq_cli", "__main__") and foreseen and in_words:
        return " ".join(str(error).split())
    return None


def _message(error: BaseException) -> str | None:
    """Return the line to show instead of a traceback; ``None`` where the traceback is needed."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if os.environ.get("SEQATTN_TRACEBACK") or not _is_fairseq_command() or not frames:
        return None
    if isinstance(error, SeqAttnError):
        return str(error)
    if any(frame.f_code.co_name in _TRAINING for frame, _ in frames):
        return None
    reason = _reason(error, *frames[-1])
    return reason and f"{reason} (SEQATTN_TRACEBACK=1 shows the traceback)"


def _hook_exceptions() -> None:
    previous = sys.excepthook

    def excepthook(
        kind: type[BaseException], error: BaseException, where: TracebackType | None
    ) -> None:
        if message := _message(error):
            _report(message)
        else:
            previous(kind, error, where)

    sys.excepthook = excepthook
    _hook_hydra()


def _hook_hydra() -> None:
    """Show a user's mistake in a Hydra job as its message alone, where Hydra would trace it."""
    stock: Any = JobReturn.return_value

    def return_value(self: JobReturn) -> Any:
        if self.status == JobStatus.FAILED and (message := _message(self._return_value)):
            _report(message)
            sys.exit(1)
        return stock.fget(self)

    JobReturn.return_value = stock.getter(return_value)  # type: ignore[method-assign]


# ---- text that fairseq-preprocess reads --------------------------------------------------------


def _refuse_byte_order_mark(path: Path) -> None:
    from seqattn_fairseq.data.files import open_binary

    with open_binary(path) as stream:
        if stream.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
            raise SeqAttnError(
                f"{path}:1: starts with a byte order mark, which would become part of the first "
                f"word; remove it: sed -i '1s/^\\xEF\\xBB\\xBF//' {shlex.quote(str(path))}"
            )


def _count_lines(path: Path, is_training: bool) -> int:
    from seqattn_fairseq.data.files import read_lines

    number, has_words = 0, False
    for number, line in enumerate(read_lines(path), start=1):
        has_words = has_words or bool(line.strip())
        if "\r" in line.removesuffix("\r"):
            raise SeqAttnError(
                f"{path}:{number}: carriage return inside the line, which fairseq reads as a line "
                "end; remove it, e.g. with tr -d '\\r'"
            )
    if number == 0 or (is_training and not has_words):
        what = f"all {number:,} lines are blank" if number else "empty file"
        raise SeqAttnError(f"{path}: {what}; a corpus needs at least one sentence")
    _refuse_byte_order_mark(path)
    return number


def _check_text(args: argparse.Namespace) -> None:
    """Check every text file that ``fairseq-preprocess`` is about to read."""
    languages = [args.source_lang] if args.only_source else [args.source_lang, args.target_lang]
    splits = [args.trainpref, args.validpref, args.testpref]
    for split in filter(None, splits):
        for prefix in split.split(","):
            files = [Path(f"{prefix}.{lang}" if lang else prefix) for lang in languages]
            counts = [_count_lines(path, split is args.trainpref) for path in files]
            if len(set(counts)) > 1:
                raise SeqAttnError(
                    f"{files[0]} has {counts[0]:,} lines but {files[1]} has {counts[1]:,}; line n "
                    "of both files must be the same sentence"
                )


def _check_preprocess_input() -> None:
    original = options.add_preprocess_args

    @wraps(original)
    def add_preprocess_args(parser: argparse.ArgumentParser) -> Any:
        parse = parser.parse_args

        def parse_args(*args: Any, **kwargs: Any) -> Any:
            namespace = parse(*args, **kwargs)
            _check_text(namespace)
            return namespace

        parser.parse_args = parse_args  # type: ignore[method-assign]
        return original(parser)

    options.add_preprocess_args = add_preprocess_args


# ---- text that fairseq-interactive reads -------------------------------------------------------


def _decode(line: bytes, place: str) -> str:
    try:
        return line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise SeqAttnError(
            f"{place}:{error.start + 1}: invalid UTF-8 (byte 0x{line[error.start]:02x}); convert "
            "the input, e.g. with iconv -t UTF-8"
        ) from None


def _open_input(name: str) -> AbstractContextManager[BinaryIO]:
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return open(name, "rb")
    except OSError as error:
        raise SeqAttnError(f"{name}: {error.strerror}; --input takes a text file") from None


def _buffered_read(input: str, buffer_size: int) -> Iterator[list[str]]:
    """Replace ``fairseq_cli.interactive.buffered_read``: lines end at a line feed only.

    What was read before an invalid line is handed out before the error is raised.
    """
    name = "standard input" if input == "-" else input
    buffer: list[str] = []
    with _open_input(input) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                buffer.append(_decode(text, f"{name}:{number}"))
            except SeqAttnError:
                if buffer:
                    yield buffer
                raise
            if len(buffer) >= buffer_size:
                yield buffer
                buffer = []
    if buffer:
        yield buffer


def _interactive_modules() -> Iterator[ModuleType]:
    for name in ("fairseq_cli.interactive", "__main__"):
        module = sys.modules.get(name)
        if module is not None and hasattr(module, "buffered_read"):
            yield module


def _check_interactive_input() -> None:
    original = options.parse_args_and_arch

    @wraps(original)
    def parse_args_and_arch(*args: Any, **kwargs: Any) -> Any:
        # Only now: importing fairseq_cli would set up logging for programs that never asked.
        for module in _interactive_modules():
            module.buffered_read = _buffered_read  # type: ignore[attr-defined]
        return original(*args, **kwargs)

    options.parse_args_and_arch = parse_args_and_arch


WORKAROUNDS = (
    Workaround(
        "bf16 on the command line",
        "fairseq-train --bf16 switches to TPU mode and dies without torch_xla",
        lambda: source_contains(options.parse_args_and_arch, "args.tpu = True"),
        _allow_bf16,
    ),
    Workaround(
        "short errors",
        "a misspelt --arch or option drowned in 15 kB of usage: the nearest names are printed",
        always,
        _shorten_parser_errors,
    ),
    Workaround(
        "errors without traceback",
        "a user's mistake is shown as one line by the fairseq commands, also under Hydra; "
        "SEQATTN_TRACEBACK=1 shows the traceback",
        always,
        _hook_exceptions,
    ),
    Workaround(
        "input of fairseq-preprocess",
        "sides of different length, blank corpora and byte order marks were binarised without a "
        "word, and invalid UTF-8 ended in 'negative seek position -1'",
        always,
        _check_preprocess_input,
    ),
    Workaround(
        "input of fairseq-interactive",
        "invalid UTF-8 ended in a traceback without the line's number, and a byte order mark was "
        "translated",
        always,
        _check_interactive_input,
    ),
)
