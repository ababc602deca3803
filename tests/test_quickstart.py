"""The quickstart shows a training's progress while it runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

LOG = (
    "2026-01-02 03:04:05 | INFO | train_inner | epoch 002:     25 / 137 loss=5.125, nll_loss=4.5, "
    "ppl=22.63, wps=100, num_updates=162, lr=0.004, wall=9\n",
    "2026-01-02 03:04:06 | INFO | fairseq.trainer | begin training epoch 2\n",
    "2026-01-02 03:04:07 | INFO | valid | epoch 002 | valid on 'valid' subset | loss 4.1 | "
    "nll_loss 3.9 | ppl 14.93 | wps 0 | num_updates 274\n",
)


def test_progress_comes_line_by_line(root: Path) -> None:
    script = root / "examples" / "quickstart" / "run.sh"
    program = f"source <(sed -n '/^progress() {{/,/^}}/p' {str(script)!r}); progress"
    with subprocess.Popen(
        ["bash", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin and process.stdout
        process.stdin.write(LOG[0])  # and the pipe stays open: buffering would hang here
        assert process.stdout.readline() == "   epoch 2, update 162: loss 5.125\n"
        process.stdin.writelines(LOG[1:])
        assert process.stdout.readline() == "   validation: perplexity 14.93\n"
        process.stdin.close()
        assert process.stdout.read() == ""
    assert process.returncode == 0
