"""COMET in an environment of its own: unbabel-comet pins packages that fairseq cannot use."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

from seqattn_fairseq.checkpoint_files import printable
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.bleu import Score
from seqattn_fairseq.evaluation.system import System

DEFAULT_MODEL = "Unbabel/wmt22-comet-da"
_WORKER = Path(__file__).with_name("comet_worker.py")
_REMEDY = (
    "make an environment for it, python3 -m venv ~/comet && ~/comet/bin/pip install "
    "unbabel-comet, and give its interpreter: --comet ~/comet/bin/python"
)


def comet_score(system: System, python: str, model: str = DEFAULT_MODEL) -> Score:
    """Return the mean COMET score of a system, computed by another interpreter.

    Args:
        system: plain sources, hypotheses and references.
        python: an interpreter that has unbabel-comet.
        model: a COMET model that needs a reference; it is downloaded when it is not at hand.

    Raises:
        SeqAttnError: a text is missing, or the interpreter, the package or the model is.
    """
    hypotheses, references = system.pair("detokenized")
    if len(system.sources) != len(hypotheses):
        raise SeqAttnError(
            f"{system.name}: COMET reads source sentences, too; score the run that seqattn "
            "generate translated, or give them with --source FILE"
        )
    rows = zip(system.sources, hypotheses, references, strict=True)
    data = [{"src": source, "mt": text, "ref": reference} for source, text, reference in rows]
    request = {"model": model, "gpus": int(torch.cuda.is_available()), "data": data}
    answer = _ask(python, request)
    signature = f"model:{model}|version:{answer['version']}"
    return Score(100 * answer["score"], "(x 100)", signature)


def _ask(python: str, request: dict[str, Any]) -> dict[str, Any]:
    """Run the worker; its progress goes to the terminal, its last line is the answer."""
    program = shutil.which(python)
    if not program:
        raise SeqAttnError(f"--comet {python}: no such interpreter; {_REMEDY}")
    command = [program, str(_WORKER)]
    text = json.dumps(request)
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=False)
    answer = _last_line(done.stdout) or {"error": f"it ended with status {done.returncode}"}
    if answer.get("error") == "absent":
        raise SeqAttnError(f"--comet {python}: it has no unbabel-comet; {_REMEDY}")
    if "error" in answer:
        reason = " ".join(printable(answer["error"]).split())
        raise SeqAttnError(
            f"--comet {python}: COMET failed with {request['model']}: {reason}; a model that is "
            "not at hand is downloaded, which needs a network"
        )
    return answer


def _last_line(output: str) -> dict[str, Any]:
    """Return the worker's answer, or nothing when it did not get as far."""
    try:
        answer: dict[str, Any] = json.loads(output.splitlines()[-1])
        return answer if {"score", "version"} <= answer.keys() or "error" in answer else {}
    except (IndexError, AttributeError, ValueError):
        return {}
