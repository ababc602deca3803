"""The scripts: several nodes by hand, and under a SLURM whose programs are stand-ins."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from seqattn_fairseq.launch import nodes
from tests.launch import support
from tests.support.interruption import differences

pytestmark = pytest.mark.xdist_group("launch")

# Starts the task once for each node, hands SIGUSR1 on and returns the highest status.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
tasks=()
for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do
    SLURM_NODEID=$node "$@" &
    tasks+=($!)
done
trap 'interrupted=true; kill -USR1 "${tasks[@]}"' USR1
highest=0
for task in "${tasks[@]}"; do
    interrupted=true
    while $interrupted; do
        interrupted=false
        wait "$task" && status=0 || status=$?
    done
    ((status > highest)) && highest=$status
done
exit "$highest"
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
    show) printf 'localhost\\nsecond-node\\n' ;;
    requeue) echo "$2" >> requeued ;;
esac
"""


def program(path: Path, text: str) -> None:
    """Write an executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Job:
    """scripts/slurm/train.sbatch run as SLURM runs it: a copy, elsewhere."""

    def __init__(self, root: Path, folder: Path, *words: str, **environ: str) -> None:
        self.folder = folder
        program(folder / "bin" / "srun", SRUN)
        program(folder / "bin" / "scontrol", SCONTROL)
        copy = folder / "spool" / "slurm_script"
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(root / "scripts/slurm/train.sbatch", copy)
        self.output = folder / "slurm.out"
        with self.output.open("ab") as stream:
            self.process = subprocess.Popen(
                ["bash", str(copy), *words], cwd=folder, stdout=stream, stderr=stream,
                env={**self.environ(root), **environ},
            )  # fmt: skip

    def environ(self, root: Path) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_NODELIST": "node-[1-2]",
            "SLURM_SUBMIT_DIR": str(root),
            "MASTER_PORT": str(nodes.here().port),
        }

    def wait_for(self, words: str) -> None:
        end = time.monotonic() + 150
        while words not in self.output.read_text():
            assert self.process.poll() is None and time.monotonic() < end, self.output.read_text()
            time.sleep(0.05)


def test_a_preempted_job_is_queued_again_and_resumes(root: Path, tmp_path: Path) -> None:
    recipe_dir = support.recipes(tmp_path / "recipes")
    words = ("optimization.max_epoch=40", "checkpoint.no_epoch_checkpoints=true")
    command = ["toy", "--config-dir", str(recipe_dir), support.save_dir(tmp_path / "run"), *words]
    job = Job(root, tmp_path, *command)
    job.wait_for("epoch 002 |")
    job.process.send_signal(signal.SIGUSR1)
    assert job.process.wait(150) == 75, job.output.read_text()
    assert (tmp_path / "requeued").read_text() == "4711\n"
    assert "stopped as asked; job 4711 is queued again" in job.output.read_text()
    job = Job(root, tmp_path, *command)
    assert job.process.wait(150) == 0, job.output.read_text()
    assert (tmp_path / "requeued").read_text() == "4711\n"
    support.train(2, tmp_path / "calm", recipe_dir, *words)
    assert differences(support.state(tmp_path / "calm"), support.state(tmp_path / "run")) == []


@pytest.fixture
def checkout(root: Path, tmp_path: Path) -> Path:
    """A copy of the scripts in a folder with spaces, where ``seqattn`` prints its words."""
    folder = tmp_path / "a checkout in Köln"
    shutil.copytree(root / "scripts", folder / "scripts")
    program(folder / ".venv/bin/seqattn", "#!/usr/bin/env bash\nprintf '%s|' \"$@\"\n")
    return folder


def train_sh(checkout: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("NNODES", "NODE_RANK")}
    return subprocess.run(
        [checkout / "scripts/train.sh", *words], env={**clean, **environ},
        cwd=checkout.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_script_hands_its_words_on(checkout: Path) -> None:
    assert train_sh(checkout, "toy", "a.b='c d'").stdout == "train|toy|a.b='c d'|"
    several = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "node-a", "MASTER_PORT": "29500"}
    assert train_sh(checkout, "toy", **several).stdout == (
        "train|--nnodes|2|--node-rank|1|--rendezvous|node-a:29500|toy|"
    )


@pytest.mark.parametrize(
    ("state", "status", "requeued"),
    [
        ("RUNNING", 75, True),
        ("COMPLETING", 75, False),
        ("RUNNING", 1, False),
        ("RUNNING", 0, False),
    ],
)
def test_only_a_job_that_was_stopped_and_not_cancelled_is_queued_again(
    checkout: Path, tmp_path: Path, state: str, status: int, requeued: bool
) -> None:
    program(checkout / ".venv/bin/seqattn", f"#!/usr/bin/env bash\nexit {status}\n")
    program(tmp_path / "bin/squeue", f"#!/usr/bin/env bash\necho {state}\n")
    job = Job(checkout, tmp_path, "toy", SLURM_JOB_NUM_NODES="1")
    assert job.process.wait(30) == status, job.output.read_text()
    assert (tmp_path / "requeued").exists() is requeued


def test_the_script_names_what_is_missing(checkout: Path) -> None:
    done = train_sh(checkout, "toy", NNODES="2", NODE_RANK="1", MASTER_ADDR="node-a")
    assert done.returncode == 1
    assert done.stderr == "train.sh: NNODES=2 needs MASTER_PORT, too\n"
    shutil.rmtree(checkout / ".venv")
    done = train_sh(checkout, "toy", PATH="/usr/bin:/bin")
    assert done.returncode == 1
    assert "seqattn is not installed; run 'make setup' first" in done.stderr
