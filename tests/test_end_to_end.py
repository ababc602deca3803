"""Every variant through the command lines: train, kill -9, resume, average, generate, score."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqattn_fairseq.cli.main import main
from seqattn_fairseq.transformer.registry import VARIANTS
from tests.support import toy_corpus
from tests.support.interruption import differences, train_and_kill, training_state

pytestmark = pytest.mark.xdist_group("commands")


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_killed_resumed_averaged_translated_scored(
    variant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_bin = toy_corpus.corpus()[1]
    folders = {name: tmp_path / f"{name} run" for name in ("calm", "killed")}
    options = [
        "--task", "seqattn_translation", "--max-epoch", "4", "--save-interval-updates", "2",
        "--dropout", "0.1", "--attention-dropout", "0.1",
    ]  # fmt: skip
    commands = {
        name: [
            str(data_bin), "--user-dir", toy_corpus.USER_DIR, "--arch", f"seqattn_{variant}",
            *toy_corpus.TINY, *toy_corpus.TRAINING, *options, "--save-dir", str(folder),
        ]
        for name, folder in folders.items()
    }  # fmt: skip
    killed = train_and_kill(commands["killed"], tmp_path, kills=3, seconds=0.3)
    for arguments in commands.values():
        result = toy_corpus.run("train", *arguments)
        assert result.status == 0, result.stderr
    calm, resumed = (training_state(f / "checkpoint_last.pt") for f in folders.values())
    assert killed > 0
    assert differences(calm, resumed) == []
    repeated = toy_corpus.run("train", *commands["calm"], "--max-update", "1")
    assert "this training is finished" in repeated.stdout + repeated.stderr
    assert differences(training_state(folders["calm"] / "checkpoint_last.pt"), resumed) == []

    assert main(["average", str(folders["killed"]), "--last", "3"]) == 0
    run = toy_corpus.Run(
        tmp_path, data_bin, folders["killed"], folders["killed"] / "checkpoint_average.pt"
    )
    translated = toy_corpus.generate(run)
    assert translated.status == 0, translated.stderr
    log = tmp_path / "gen.log"
    log.write_text(translated.stdout, encoding="utf-8")
    capsys.readouterr()
    assert main(["score", str(log), "--write-hyp", str(tmp_path / "hyp")]) == 0
    assert "tokenised BLEU" in capsys.readouterr().out
    assert len((tmp_path / "hyp").read_text(encoding="utf-8").splitlines()) == 5
