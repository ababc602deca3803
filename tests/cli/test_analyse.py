"""``seqattn analyse``: what it prints, what it skips, and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seqattn_fairseq.cli.main import main
from tests.analysis.models import toy_run
from tests.evaluation import corpus
from tests.support.models import named

pytestmark = pytest.mark.xdist_group("commands")

GOLD = Path(__file__).parents[1] / "analysis" / "gold"
VARIANTS = ["softmax", "rela_g", "luna", "mega_chunk", "dynamicconv", "mega+softmax"]
SUBSET_GOLD = "".join("0-0\n" for _ in range(5))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_from_end_to_end(
    variant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, gold = toy_run(tmp_path, variant), tmp_path / "gold"
    gold.write_text(SUBSET_GOLD)
    command = ["analyse", str(run), "--cpu", "--maps", "3"]
    assert main([*command, "--gold", str(gold), "--gold-format", "pharaoh"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0] == f"{run}, test"
    assert lines[1] == f"checkpoint_best.pt, results in {run / 'analysis' / 'test'}"
    assert lines[2] == f"attention of {named(variant)[0]}, 5 sentences:"
    for site in ("encoder_self", "decoder_self", "cross"):
        heading = next(line for line in lines if line.startswith(f"{site} "))
        assert heading.split()[1:] == "sparsity null entropy diversity / ln H no null".split()
    assert "maps of cross-attention, each reference as target: sentences 0, 2, 4" in lines
    assert f"alignment with {gold}, 5 sentences:" in lines
    assert sum(line.startswith("layer 2 shifted") for line in lines) == 1
    assert "texts left out: " in printed and "run seqattn evaluate" in printed
    files = {path.name for path in (run / "analysis" / "test").iterdir()}
    assert files == {"attention.json", "maps.jsonl.gz", "maps.json", "alignment.json"}
    assert main([*command, "--gold", str(gold), "--gold-format", "pharaoh"]) == 0
    assert capsys.readouterr().out == printed


def test_tables_hold_the_figures_of_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = toy_run(tmp_path, "rela_g")
    assert main(["analyse", str(run), "--cpu", "--only", "attention"]) == 0
    lines = capsys.readouterr().out.splitlines()
    result = json.loads((run / "analysis" / "test" / "attention.json").read_text())
    cross = result["sites"]["cross"]
    start = next(number for number, line in enumerate(lines) if line.startswith("cross "))
    assert lines[start + 1].split()[2:] == [f"{value:.3f}" for value in cross["all"].values()]
    sparsity = next(line for line in lines[start:] if line.startswith("layer 2 sparsity"))
    heads = cross["layers"][1]["heads"]
    assert sparsity.split()[3:] == [f"{head['sparsity']:.3f}" for head in heads]
    assert len(heads) == 4


def test_texts_lengths_and_agreement_of_two_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = corpus.run_copy(tmp_path), corpus.described(tmp_path)
    assert main(["evaluate", str(run), "--data", str(data), *corpus.DECODING]) == 0
    other = tmp_path / "another run"
    shutil.copytree(run, other)
    capsys.readouterr()
    common = ["--data", str(data), "--cpu"]
    lengths = ["--only", "lengths", "--concatenate", "2", "--first", "8"]
    assert main(["analyse", str(run), *common, *lengths]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("sentences a line") for line in lines) == 1
    assert ["2", "4"] in [line.split()[:2] for line in lines]  # four lines of two sentences
    assert main(["analyse", str(run), str(other), *common, "--only", "texts"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("source length") for line in lines) == 2
    (start,) = (n for n, line in enumerate(lines) if line.startswith("BLEU of one against"))
    assert lines[start + 1].split()[-2:] == ["100.00", "100.00"]
    files = {path.name for path in tmp_path.glob("*/analysis/test/*")}
    assert files == {"text.json", "generalisation.json"}


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["hyp.pharaoh", "gold.talp", "talp"], "AER 19.0 % (precision 81.8 %, recall 80.0 %, 11"),
        (["hyp.pharaoh", "gold.naacl", "naacl"], "AER 19.0 % (precision 81.8 %, recall 80.0 %, 1"),
        (["hyp.reverse.pharaoh", "gold.talp", "talp", "--gold-reversed"], "AER 19.0 % (precision"),
    ],
)
def test_files_of_links(
    arguments: list[str], printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    links, gold, format, *further = arguments
    files = ["--links", str(GOLD / links), "--gold", str(GOLD / gold)]
    assert main(["analyse", *files, "--gold-format", format, *further]) == 0
    assert capsys.readouterr().out.startswith(printed)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to analyse: give a run, or --links FILE --gold FILE"),
        (["none"], "none: no such run folder or checkpoint"),
        (
            ["a", "--gold", "none", "--gold-format", "talp"],
            "none: no such file; --gold and",
        ),
        (["a", "--maps", "51"], "51 sentences: attention is kept of 1 to 50; choose others"),
        (["a", "--concatenate", "1", "--first", "0"], "--first 0: must be at least 1"),
        (
            ["a", "--concatenate", "2,3"],
            "2 does not divide 3, so that lines of so many",
        ),
        (["a", "b", "--checkpoint", "x"], "--checkpoint is for one run; name checkpoints instead"),
        (["a", "--only", "map"], "--only map: no such part (did you mean maps?); there are atten"),
        (["a", "--only", "alignment"], "--only alignment needs --gold FILE"),
        (["a", "--only", "maps,lengths"], "--only lengths needs --concatenate 1,2,4,8"),
        (["a", "--only", "maps", "--concatenate", "1"], "--concatenate is for lengths, which"),
        (["a", "--only", "texts", "--sentences", "1"], "--sentences is for maps, which --only"),
        (["a", "--concatenate", "2,3"], "2 does not divide 3"),
        (["a", "--first", "5"], "--first needs --concatenate 1,2,4,8"),
        (["a", "--gold", "g"], "--gold g: give --gold-format pharaoh|talp|naacl"),
        (["a", "--gold-reversed"], "--gold-reversed needs --gold FILE"),
        (["--links", "x"], "--links needs --gold FILE"),
        (["a", "--links", "x", "--gold", "g", "--gold-format", "talp"], "--links: needs --gold F"),
    ],
)
def test_mistakes(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"seqattn analyse: error: {message}") and error.count("\n") == 1


def test_libraries_keep_their_notes_to_themselves(tmp_path: Path) -> None:
    """A module of fairseq turns on all notes for debugging, Hydra's among them."""
    run = toy_run(tmp_path, "softmax")
    command = [sys.executable, "-m", "seqattn_fairseq.cli.main", "analyse", str(run), "--cpu"]
    done = subprocess.run([*command, "--only", "attention"], capture_output=True, check=False)
    assert done.returncode == 0
    assert b"DEBUG" not in done.stderr and b"INFO" not in done.stderr
