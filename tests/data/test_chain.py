"""The whole chain on generated text: archive or own files, data-bin, model, translation, score."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from seqattn_fairseq.cli.main import main
from seqattn_fairseq.transformer.model import SeqAttnModel
from tests.data import miniature
from tests.support import toy_corpus

pytestmark = pytest.mark.xdist_group("commands")

Seqattn = Callable[[str], None]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the user."""
    folder = tmp_path / "Größe & Gewicht 中"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def seqattn(folder: Path) -> Seqattn:
    """Run a command in this process."""

    def run(command: str) -> None:
        assert main(shlex.split(command)) == 0

    return run


def lines(path: Path) -> list[str]:
    return path.read_text("utf-8").split("\n")[:-1]


def assert_scored(evaluation: Path, sentences: int) -> None:
    """The folder holds as many translations as there are sentences, and their scores."""
    test = evaluation / "test"
    for name in ("hyp.txt", "ref.txt", "translations.jsonl"):
        assert len(lines(test / name)) == sentences
    assert not any("@@" in line or "\u2581" in line for line in lines(test / "hyp.txt"))
    assert json.loads((test / "scores.json").read_text("utf-8"))


@pytest.mark.parametrize("variant", ["softmax", "mega"])
def test_public_corpus(variant: str, folder: Path, seqattn: Seqattn) -> None:
    miniature.write_iwslt14(folder / "Archive")
    seqattn("prepare iwslt14_de_en --from Archive")
    words = f"""iwslt14_de_en variant={variant} size=tiny hardware=cpu batch.tokens=null
        dataset.max_tokens=3000 optimization.max_epoch=2
        evaluation.average=last evaluation.checkpoints=2 evaluation.beam=2"""
    program = Path(sys.executable).with_name("seqattn")
    train = [str(program), "train", *words.split()]
    done = subprocess.run(train, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run = f"runs/iwslt14_de_en/{variant}_tiny/seed1"
    seqattn(f"average {run} --last 2")
    seqattn(f"generate {run} --cpu --max-len-b 20")
    seqattn(f"score {run}")
    assert_scored(folder / run / "evaluation", 40)
    raw = [pair[1].replace("'", "\u2019") for pair in miniature.german(6, 20)]
    assert lines(folder / run / "evaluation" / "test" / "ref.txt")[:6] == raw


def test_own_corpus_with_sentencepiece(
    folder: Path, seqattn: Seqattn, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in miniature.sides("mine", "de en", miniature.german(300, 5)).items():
        (folder / name).write_bytes(content)
    seqattn(
        "prepare-corpus mine.de mine.en --source-lang de --target-lang en --to data/mine "
        "--bpe sentencepiece --vocab-size 200 --test-size 9"
    )
    data = folder / "data" / "mine" / "data-bin"
    run = folder / "my run"
    trained = toy_corpus.train(
        data, run, "--max-update", "2", "--task", "seqattn_translation", "--max-tokens", "2000",
        "--share-all-embeddings", arch="seqattn_softmax",
    )  # fmt: skip
    assert trained.status == 0, trained.stderr
    checkpoint = "'my run/checkpoint_last.pt'"
    seqattn(f"generate {checkpoint} --data data/mine/data-bin --cpu --beam 2 --max-len-b 20")
    evaluation = run / "evaluation" / "test"
    scored = f"--sys '{evaluation}/hyp.txt' --ref '{evaluation}/ref.txt'"
    capsys.readouterr()
    seqattn(f"score {scored} --flavour detokenized --json")
    assert "sacrebleu" in capsys.readouterr().out.lower()
    drawn = lines(folder / "data" / "mine" / "text" / "test.en")
    assert lines(evaluation / "ref.txt") == drawn and len(drawn) == 9
    assert len(lines(evaluation / "hyp.txt")) == 9

    seqattn(f"export {checkpoint} exported")
    source = lines(folder / "data" / "mine" / "text" / "test.de")
    model = SeqAttnModel.from_pretrained(str(folder / "exported"))
    translated = model.translate(source, beam=2, max_len_b=20)
    assert translated == lines(evaluation / "hyp.txt")
    assert not any("\u2581" in line for line in translated)
    typed = toy_corpus.run(
        "interactive", ".", "--user-dir", toy_corpus.USER_DIR, "--path", "model.pt", "--cpu",
        "--tokenizer", "seqattn_text", "--seqattn-text-chain", "text_chain.json",
        "--bpe", "sentencepiece", "--sentencepiece-model", "sentencepiece.bpe.model",
        "--beam", "2", "--max-len-b", "20",
        stdin="".join(f"{line}\n" for line in source).encode(), folder=folder / "exported",
    )  # fmt: skip
    assert typed.status == 0, typed.stderr
    assert [text for _, text in sorted(typed.lines("D").items())] == translated
