"""Print the versions that matter and every workaround in force, each with its reason."""

from __future__ import annotations

import argparse
import platform
import textwrap
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch

from seqattn_fairseq import compat

PACKAGES = (
    "seqattn_fairseq",
    "torch",
    "fairseq-fixed",
    "fairseq",
    "numpy",
    "hydra-core",
    "omegaconf",
    "sacrebleu",
    "sentencepiece",
    "triton",
)


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _device() -> str:
    if not torch.cuda.is_available():
        return "no GPU in use"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{torch.version.cuda} on {', '.join(names)}"


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for package in PACKAGES:
        yield package, _installed(package)
    yield "cuda", _device()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no arguments: the doctor looks at everything."""


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    for name, text in _versions():
        print(f"{name:<16} {text}")
    print("\nworkarounds in force:")
    for workaround in compat.active():
        print(f"  {workaround.name}")
        print(textwrap.fill(workaround.reason, 96, initial_indent="    ", subsequent_indent="    "))
    return 0
