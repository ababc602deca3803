"""The section ``evaluation`` of a run's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.settings import (
    CONFIG_FILE,
    EvaluationSettings,
    PaperResult,
    load_settings,
)

SECTION = """
seed: 3
checkpoint: {save_dir: "runs/${hydra:job.config_name}"}
scale: 0.6
evaluation:
  average: last
  checkpoints: 10
  beam: 4
  length_penalty: [0.4, "${scale}"]
  subsets: [test, test1]
  bleu: compound_split
  paper: {score: 29.7, source: "Wu et al. 2019, table 2", ours: false}
"""


def _run(folder: Path, text: str) -> Path:
    path = folder / CONFIG_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return folder


def test_every_field(tmp_path: Path) -> None:
    settings = load_settings(_run(tmp_path, SECTION))
    paper = PaperResult(29.7, "Wu et al. 2019, table 2", ours=False)
    assert settings == EvaluationSettings(
        ("last",), 10, 4, (0.4, 0.6), ("test", "test1"), "compound_split", paper
    )


def test_a_run_without_section_gets_the_defaults(tmp_path: Path) -> None:
    assert load_settings(tmp_path) == EvaluationSettings()
    assert load_settings(_run(tmp_path, "seed: 1\n")) == EvaluationSettings()
    assert load_settings(_run(tmp_path, "evaluation:\n")) == EvaluationSettings()


def test_a_paper_may_have_no_score(tmp_path: Path) -> None:
    text = "evaluation: {average: [last, best], paper: {score: null, source: null, ours: true}}"
    settings = load_settings(_run(tmp_path, text))
    assert settings.average == ("last", "best")
    assert settings.paper == PaperResult(None, None, ours=True)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{beem: 5}", r"unknown field 'beem' \(did you mean beam"),
        ("{average: lasst}", "average is 'lasst' .did you mean last"),
        ("{bleu: detokenised}", "did you mean detokenized"),
        ("{beam: 0}", "beam is 0; it must be at least 1"),
        ("{checkpoints: many}", "field 'checkpoints' has the value 'many', which it cannot have"),
        ("{length_penalty: []}", "field 'length_penalty' has the value"),
        ("{paper: {page: 3}}", "field 'paper' has the value"),
        ("[1, 2]", r"\[1, 2\] has no fields"),
        ("{beam: ${nowhere}}", "cannot be read"),
        ("{beam: [", "cannot be read"),
    ],
)
def test_mistakes_name_the_file(tmp_path: Path, section: str, message: str) -> None:
    run = _run(tmp_path, f"evaluation: {section}\n")
    with pytest.raises(SeqAttnError, match=message) as error:
        load_settings(run)
    assert str(error.value).startswith(f"{run / CONFIG_FILE}: section evaluation")
    assert "\n" not in str(error.value)


def test_the_command_line_replaces_single_values() -> None:
    settings = EvaluationSettings(beam=4, average=("last",))
    assert settings.overridden(beam=None, length_penalty=[0.6], average="best") == (
        EvaluationSettings(beam=4, average=("best",), length_penalty=(0.6,))
    )
    with pytest.raises(SeqAttnError, match="bleu is 'x'"):
        settings.overridden(bleu="x")


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"beam": 4, "subsets": ["test", "test1"]}, True),
        ({"subsets": ["test1"]}, False),
        ({"bleu": "detokenized"}, False),
    ],
)
def test_a_paper_s_score_is_of_its_test_set_and_flavour(
    changes: dict[str, object], kept: bool
) -> None:
    settings = EvaluationSettings(subsets=("test",), paper=PaperResult(30.0, "Somebody 2019"))
    assert settings.overridden(**changes).paper == (settings.paper if kept else PaperResult())
