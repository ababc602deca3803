"""fairseq's command lines: bf16, short errors, and checks of the text that goes in."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial, wraps
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, BinaryIO, NoReturn

from fairseq import options
from hydra.core.utils import JobReturn, JobStatus

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


def _report(error: BaseException) -> None:
    print(f"{Path(sys.argv[0]).stem}: error: {error}", file=sys.stderr)


def _hook_exceptions() -> None:
    previous = sys.excepthook

    def excepthook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if issubclass(kind, SeqAttnError) and _is_fairseq_command():
            _report(error)
        else:
            previous(kind, error, traceback)

    sys.excepthook = excepthook
    _hook_hydra()


def _hook_hydra() -> None:
    """Show a user's mistake in a Hydra job as its message alone, where Hydra would trace it."""
    stock: Any = JobReturn.return_value

    def return_value(self: JobReturn) -> Any:
        if self.status == JobStatus.FAILED and isinstance(self._return_value, SeqAttnError):
            _report(self._return_value)
            sys.exit(1)
        return stock.fget(self)

    JobReturn.return_value = stock.getter(return_value)  # type: ignore[method-assign]


# ---- text that fairseq-preprocess reads --------------------------------------------------------


def _count_lines(path: Path) -> int:
    from seqattn_fairseq.data.files import read_lines

    number = 0
    for number, line in enumerate(read_lines(path), start=1):
        if "\r" in line.removesuffix("\r"):
            raise SeqAttnError(
                f"{path}:{number}: carriage return inside the line, which fairseq reads as a line "
                "end; remove it, e.g. with tr -d '\\r'"
            )
    if number == 0:
        raise SeqAttnError(f"{path}: empty file; a corpus needs at least one sentence")
    return number


def _check_text(args: argparse.Namespace) -> None:
    """Check every text file that ``fairseq-preprocess`` is about to read."""
    languages = [args.source_lang] if args.only_source else [args.source_lang, args.target_lang]
    splits = [args.trainpref, args.validpref, args.testpref]
    for prefix in [prefix for split in splits if split for prefix in split.split(",")]:
        files = [Path(f"{prefix}.{lang}" if lang else prefix) for lang in languages]
        counts = [_count_lines(path) for path in files]
        if len(set(counts)) > 1:
            raise SeqAttnError(
                f"{files[0]} has {counts[0]:,} lines but {files[1]} has {counts[1]:,}; line n of "
                "both files must be the same sentence"
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
                buffer.append(_decode(line, f"{name}:{number}"))
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
        "a user's mistake is shown as its one line by the fairseq commands, also under Hydra",
        always,
        _hook_exceptions,
    ),
    Workaround(
        "input of fairseq-preprocess",
        "sides of different length were binarised without a word, and invalid UTF-8 ended in "
        "'negative seek position -1'",
        always,
        _check_preprocess_input,
    ),
    Workaround(
        "input of fairseq-interactive",
        "invalid UTF-8 ended in a traceback without the line's number",
        always,
        _check_interactive_input,
    ),
)
