"""Reproduce an experiment: prepare, train, average, generate, score, and write the result down.

  seqattn reproduce experiment=multi30k_en_de/softmax               one command, raw text to BLEU
  seqattn reproduce experiment=wmt14_en_de/dynamicconv --dry-run    commands, tokens, space, hours
  seqattn reproduce multi30k_en_de variant=mega seed=2              a recipe with options of yours

Words with "=" are Hydra's: a group's choice or an option. Every step does only what is missing, so
the same command goes on after an interruption and does nothing once all is done.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.experiments.cost import Cost, Probe, cost, probe
from seqattn_fairseq.experiments.plan import Experiment, Step, load_experiment, plan
from seqattn_fairseq.experiments.record import record
from seqattn_fairseq.launch.composition import CONFIGS
from seqattn_fairseq.launch.stopping import RESUME_ME, STOP

_ASKING = (signal.SIGTERM, signal.SIGHUP, STOP)  # as `seqattn train` is asked to stop
_SECONDS_PER_HOUR = 3600
_HOURS_SHOWN = 1000
_GB = 1e9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``seqattn reproduce``."""
    parser.add_argument(
        "words", nargs="+", metavar="WORD", help="experiment=DATASET/NAME, DATASET, option=value"
    )
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="DIR", help="folder of the raw files"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results.jsonl"),
        metavar="FILE",
        help="file that gets the line of the result (default: %(default)s)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print commands and cost, do nothing"
    )
    parser.add_argument(
        "--no-probe", action="store_true", help="leave out the hours, which take seconds to measure"
    )
    parser.add_argument(
        "--config-dir", type=Path, default=CONFIGS, metavar="DIR", help="folder of recipes"
    )
    # options may stand between the words
    parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]


def run(args: argparse.Namespace) -> int:
    """Run the steps and write the result down, or say what they would take."""
    experiment = load_experiment(args.words, args.config_dir)
    steps = plan(experiment, args.source)
    if args.dry_run:
        _show_plan(experiment, steps, with_probe=not args.no_probe)
        return 0
    for number, step in enumerate(steps, start=1):
        print(f"== {number}/{len(steps)} {step.name}: {_shown(step)}", flush=True)
        if _execute(step) == RESUME_ME:
            print(f"{step.name} stopped as asked; the same command goes on there", file=sys.stderr)
            return RESUME_ME
    print(record(experiment, args.results))
    return 0


def _shown(step: Step) -> str:
    return shlex.join(["seqattn", *step.command])


def _execute(step: Step) -> int:
    """Run a step, hand on what asks it to stop, and return its status: 0 or RESUME_ME."""
    command = [sys.executable, "-m", "seqattn_fairseq.cli.main", *step.command]
    before = {asking: signal.getsignal(asking) for asking in _ASKING}
    with subprocess.Popen(command) as process:
        for asking, handler in before.items():
            if handler != signal.SIG_IGN:  # nohup
                signal.signal(asking, lambda number, _: process.send_signal(number))
        try:
            status = process.wait()
        finally:
            for asking, handler in before.items():
                signal.signal(asking, handler)
    if status < 0:
        how = signal.Signals(-status).name
        raise SeqAttnError(f"{step.name} was ended by {how}; the same command goes on from here")
    if status not in (0, RESUME_ME):
        raise SeqAttnError(
            f"{step.name} ended with status {status}; once the reason above is removed, the same "
            "command goes on from here"
        )
    return status


def _show_plan(experiment: Experiment, steps: list[Step], with_probe: bool) -> None:
    for step in steps:
        print(_shown(step))
    estimate = cost(experiment)
    for name, text in _lines(experiment, estimate).items():
        print(f"{name:<12}{text}")
    if with_probe:
        print(f"{'time':<12}{_hours(estimate, probe(experiment))}")


def _lines(experiment: Experiment, estimate: Cost) -> dict[str, str]:
    source, target = estimate.types
    assumed = ", assumed until the data is prepared" if estimate.assumed else ""
    return {
        "run": str(experiment.run),
        "model": f"{estimate.parameters:,} parameters, {source:,} / {target:,} types{assumed}",
        "steps": _steps(estimate),
        "tokens": _tokens(estimate),
        "disk": _disk(estimate),
    }


def _steps(estimate: Cost) -> str:
    each = f"of {estimate.tokens_per_update:,} target tokens (padding included)"
    if estimate.updates is None:
        return f"updates {each}; epochs set their number, known once the data is prepared"
    return f"at most {estimate.updates:,} updates {each}"


def _tokens(estimate: Cost) -> str:
    if estimate.updates is None:
        return "known once the data is prepared"
    total = estimate.updates * estimate.tokens_per_update
    if not estimate.tokens_per_epoch:
        return f"at most {total:,}"
    return f"at most {total:,}, {total / estimate.tokens_per_epoch:.1f} epochs"


def _disk(estimate: Cost) -> str:
    each = f"{estimate.checkpoint_bytes / _GB:.2f} GB a checkpoint"
    if estimate.checkpoints is None:
        return f"{each}, one an epoch"
    total = estimate.checkpoint_bytes * estimate.checkpoints / _GB
    return f"{total:.2f} GB: {estimate.checkpoints} checkpoints, {each}"


def _hours(estimate: Cost, speed: Probe) -> str:
    measured = (
        f"{speed.tokens_per_second:,.0f} tokens/s in {speed.batches} made-up batches of "
        f"{speed.tokens:,} tokens on {speed.device}"
    )
    if estimate.updates is None:
        return measured
    seconds = estimate.updates * estimate.tokens_per_update / speed.tokens_per_second
    return f"at most {_duration(seconds)} on one such device: {measured}"


def _duration(seconds: float) -> str:
    hours = seconds / _SECONDS_PER_HOUR
    return f"{hours:,.1f} h" if hours < _HOURS_SHOWN else f"{hours / 24:,.0f} days"
