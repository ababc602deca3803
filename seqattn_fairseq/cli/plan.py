"""Tell memory and speed of a training before it runs, and the largest batch that a device holds.

  seqattn plan experiment=iwslt14_de_en/softmax hardware=gpu_24gb
  seqattn plan multi30k_en_de variant=mega dataset.max_tokens=8192 --source-length 60
  seqattn plan --arch seqattn_mega_iwslt_de_en --vocabulary 10000 --max-tokens 4096 --bf16
  seqattn plan --calibrate                     measure this machine anew, which takes some seconds

Words with "=" are Hydra's, as of `seqattn train`; with --arch, options are those of fairseq-train.
Nothing of the training is run: the model is built without numbers. Speed comes from a profile of
this machine, which is measured where there is none (docs/plan.md).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.experiments.cost import cost, dictionaries, precision
from seqattn_fairseq.experiments.plan import load_experiment
from seqattn_fairseq.launch.composition import CONFIGS
from seqattn_fairseq.launch.environment import given
from seqattn_fairseq.optim.batch import apply_batch
from seqattn_fairseq.planning import machine
from seqattn_fairseq.planning.architecture import of_architecture
from seqattn_fairseq.planning.prediction import MOST_TOKENS, USABLE, Prediction, predict
from seqattn_fairseq.planning.step import USUAL_LENGTH, Shape, Subject, refuse_unplanned
from seqattn_fairseq.planning.target import GIB, Target, profile, target

_SECONDS_PER_HOUR = 3600
_MIB = 2**20
_FLAGS = ("fp16", "bf16")
_NEEDED = ("vocabulary", "max_tokens")


class _Planned(NamedTuple):
    """A training to plan: what and where, in which precision, and for how many updates."""

    subject: Subject
    device: Target
    dtype: torch.dtype
    updates: int | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``seqattn plan``."""
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="experiment=DATASET/NAME, DATASET, option=value"
    )
    parser.add_argument(
        "--config-dir", type=Path, default=CONFIGS, metavar="DIR", help="folder of recipes"
    )
    _add_fairseq_options(parser.add_argument_group("an architecture instead of a recipe"))
    for side in ("source", "target"):
        parser.add_argument(
            f"--{side}-length",
            type=int,
            default=USUAL_LENGTH,
            metavar="N",
            help=f"tokens of each {side} sentence (default: %(default)s)",
        )
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="memory of the device (default: that of hardware=gpu_..., or what is here)",
    )
    parser.add_argument(
        "--calibrate", action="store_true", help="measure this machine's speed anew"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")
    # options may stand between the words
    parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]


def _add_fairseq_options(group: Any) -> None:
    group.add_argument("--arch", metavar="NAME", help="see `seqattn list --archs`")
    group.add_argument(
        "--vocabulary", type=int, metavar="N", help="types of the dictionary of both languages"
    )
    group.add_argument("--max-tokens", type=int, metavar="N", help="of a pass on a device")
    group.add_argument("--optimizer", metavar="NAME", help="default: seqattn_adam")
    group.add_argument(
        "--criterion", metavar="NAME", help="default: seqattn_label_smoothed_cross_entropy"
    )
    for name in _FLAGS:
        group.add_argument(f"--{name}", action="store_true", help="precision; default: float32")


def run(args: argparse.Namespace) -> int:
    """Plan and print."""
    _check_numbers(args)
    if args.calibrate and not (args.words or args.arch):
        here = target("auto", cpu=False).here
        assert here is not None
        dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
        print(f"{profile(here, dtype, anew=True).key}: {machine.profiles()}")
        return 0
    planned = _planned(args)
    cfg = planned.subject.cfg
    refuse_unplanned(cfg)
    shape = Shape.filling(cfg.dataset, args.source_length, args.target_length)
    here = planned.device.here
    known = None if here is None else profile(here, planned.dtype, args.calibrate)
    found = predict(planned.subject, planned.dtype, shape, planned.device.capacity, known, here)
    print(_as_json(planned, found) if args.json else _as_table(planned, found))
    return 0


def _check_numbers(args: argparse.Namespace) -> None:
    for name in ("source_length", "target_length", "memory", *_NEEDED):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise SeqAttnError(f"--{name.replace('_', '-')} {value:g}: must be more than 0")


def _planned(args: argparse.Namespace) -> _Planned:
    if args.words:
        return _recipe(args)
    if not args.arch:
        raise SeqAttnError(
            "what is to be planned? name a recipe (experiment=multi30k_en_de/softmax) or an "
            "architecture (--arch seqattn_softmax_iwslt_de_en --vocabulary 10000 --max-tokens 4096)"
        )
    for name in _NEEDED:
        if not getattr(args, name):
            raise SeqAttnError(f"--arch needs --{name.replace('_', '-')}")
    words = ["--max-tokens", str(args.max_tokens), *(f"--{f}" for f in _FLAGS if getattr(args, f))]
    optimizer = args.optimizer or "seqattn_adam"
    criterion = args.criterion or "seqattn_label_smoothed_cross_entropy"
    subject = of_architecture(args.arch, args.vocabulary, optimizer, criterion, words)
    updates = int(subject.cfg.optimization.max_update) or None
    return _Planned(subject, target("auto", False, args.memory), subject.dtype(), updates)


def _recipe(args: argparse.Namespace) -> _Planned:
    for name in ("arch", *_NEEDED, "optimizer", "criterion", *_FLAGS):
        if getattr(args, name):
            flag = name.replace("_", "-")
            raise SeqAttnError(f"--{flag} is for --arch; beside a recipe say it as option=value")
    experiment = load_experiment(args.words, args.config_dir)
    cfg = experiment.cfg
    # without a number of tokens, epochs are no number of updates
    updates = cost(experiment).updates if cfg.dataset.max_tokens else cfg.optimization.max_update
    source, other, _ = dictionaries(experiment)
    device = target(given(args.words).get("hardware", "auto"), bool(cfg.common.cpu), args.memory)
    dtype = precision(experiment, device.here or torch.device("cuda"))
    apply_batch(cfg)
    return _Planned(Subject(cfg, source, other), device, dtype, updates or None)


def _hours(planned: _Planned, found: Prediction) -> float | None:
    if found.seconds is None or planned.updates is None:
        return None
    return planned.updates * found.seconds / _SECONDS_PER_HOUR


def _as_json(planned: _Planned, found: Prediction) -> str:
    memory = found.memory
    values = {
        "parameters": found.parameters,
        "dtype": str(planned.dtype).removeprefix("torch."),
        "device": planned.device.name,
        "capacity": found.capacity,
        "sentences": found.shape.sentences,
        "source_length": found.shape.source,
        "target_length": found.shape.target,
        "passes": found.passes,
        "devices": found.devices,
        "tokens_per_update": found.tokens,
        "bytes": {
            "parameters": memory.parameters,
            "gradients": memory.gradients,
            "optimizer": memory.optimizer,
            "activations": memory.activations,
            "exchange": found.exchange,
            "peak": found.peak,
        },
        "fits": found.fits,
        "largest_max_tokens": found.largest,
        "tokens_per_second": found.tokens_per_second,
        "updates": planned.updates,
        "hours": _hours(planned, found),
    }
    return json.dumps(values, indent=2)


def _as_table(planned: _Planned, found: Prediction) -> str:
    memory, shape = found.memory, found.shape
    rows = {
        "model": f"{found.parameters:,} parameters, {str(planned.dtype).removeprefix('torch.')}",
        "batch": f"{shape.sentences} sentences of {shape.source} / {shape.target} tokens a pass, "
        f"{found.passes} x {found.devices} passes: {found.tokens:,} target tokens an update",
        "weights": _mib(memory.parameters),
        "gradients": _mib(memory.gradients),
        "optimiser": _mib(memory.optimizer),
        "activations": f"{_mib(memory.activations)}, with the gradients of that moment",
        "peak": _peak(found),
        "device": _device(planned.device, found),
        "largest": _largest(found),
        "speed": _speed(found),
        "time": _time(planned, found),
    }
    return "\n".join(f"{name:<13}{text}" for name, text in rows.items())


def _mib(count: int) -> str:
    return f"{count / _MIB:,.1f} MiB"


def _peak(found: Prediction) -> str:
    exchange = f", {_mib(found.exchange)} of them on the way to other devices"
    return _mib(found.peak) + (exchange if found.exchange else "")


def _device(device: Target, found: Prediction) -> str:
    if found.capacity is None:
        return f"{device.name}; --memory GIB says what it holds"
    verdict = "fits" if found.fits else "DOES NOT FIT"
    return f"{device.name}, {found.capacity / GIB:.1f} GiB: {verdict} into {USABLE:.0%} of that"


def _largest(found: Prediction) -> str:
    if found.largest is None:
        return "unknown"
    if found.largest == 0:
        return "not one sentence fits"
    more = " or more" if found.largest > MOST_TOKENS - max(found.shape.source, 8) * 8 else ""
    return f"dataset.max_tokens={found.largest}{more}, sentences of such lengths"


def _speed(found: Prediction) -> str:
    if found.tokens_per_second is None or found.seconds is None:
        return "unknown: there is no such device here; the same command on it tells"
    return f"{found.tokens_per_second:,.0f} target tokens/s, {found.seconds:.3f} s an update"


def _time(planned: _Planned, found: Prediction) -> str:
    hours = _hours(planned, found)
    if planned.updates is None:
        return "unknown: epochs set the number of updates"
    return f"{planned.updates:,} updates" + ("" if hours is None else f", {hours:,.1f} h")
