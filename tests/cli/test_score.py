"""``seqattn score`` and ``seqattn corpus`` as commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seqattn_fairseq.cli.main import main
from seqattn_fairseq.data.files import read_lines
from seqattn_fairseq.evaluation import bleu

TARGETS = ["Das Café-Haus ist alt .", "Er liest das Buch .", "Sie macht die neue Tür auf ."]
OUTPUTS = ["Das Café-Haus ist neu .", "Er liest das Buch .", "Sie macht die alte Tür auf ."]
RAW = ["Das Café-Haus ist alt.", "Er liest das Buch.", "Sie macht die neue Tür auf."]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    lines = ["INFO | something else"]
    for ident in (2, 0, 1):
        output = OUTPUTS[ident]
        lines += [f"S-{ident}\tsource {ident}", f"T-{ident}\t{TARGETS[ident]}"]
        lines += [f"H-{ident}\t-0.5\t{output}", f"D-{ident}\t-0.5\t{output}"]
    path = tmp_path / "a folder" / "gen.log"
    path.parent.mkdir()
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _fails(arguments: list[Any], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["score", *map(str, arguments)]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.out == ""
    return captured.err


def test_all_flavours(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = log.with_name("raw.de")
    reference.write_text("\n".join(RAW) + "\n", encoding="utf-8")
    hypotheses = log.with_name("hyp.de")
    arguments = [log, "--ref", reference, "--detokenize", "de", "--compound-split"]
    assert main(["score", *map(str, [*arguments, "--write-hyp", hypotheses, "--show", 2])]) == 0
    out = capsys.readouterr().out
    kinds = [line.split("  ")[0] for line in out.splitlines()[-3:]]
    assert kinds == ["tokenised BLEU", "compound-split BLEU", "sacreBLEU"]
    assert "|tok:13a|smooth:exp|" in out and "|tok:none|smooth:none|" in out
    assert "reference  Das Café-Haus ist alt .\noutput     Das Café-Haus ist neu.\n" in out
    assert out.count("source ") == 4  # two sentences, whose text begins with that word too
    assert hypotheses.read_text(encoding="utf-8").split("\n")[2] == "Sie macht die alte Tür auf."


def test_a_byte_order_mark_is_no_word(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = log.with_name("raw.de")
    scores = []
    for encoding in ("utf-8", "utf-8-sig"):
        reference.write_text("\n".join(RAW) + "\n", encoding=encoding)
        assert main(["score", str(log), "--ref", str(reference)]) == 0
        scores.append(capsys.readouterr().out)
    assert scores[0] == scores[1]
    reference.write_text("\ufeffa\n\ufeffb\n", encoding="utf-8")
    assert list(read_lines(reference)) == ["a", "\ufeffb"]  # elsewhere it is text


def test_own_reference(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(log), "--detokenize", "de"]) == 0
    assert "sacreBLEU (own ref)" in capsys.readouterr().out


def test_errors(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = tmp_path / "short.de"
    short.write_text("Das Haus.\n", encoding="utf-8")
    error = _fails([log, "--ref", short], capsys)
    assert f"{short} has 1 lines, but {log} 3 sentences" in error
    assert "no such file" in _fails([tmp_path / "none.log"], capsys)
    without = tmp_path / "interactive.log"
    without.write_text("S-0\ta\nH-0\t-1\tb\n", encoding="utf-8")
    assert "no T lines; give the reference with --ref" in _fails([without], capsys)
    (tmp_path / "latin1.log").write_bytes(b"H-0\t-1\tb\nH-1\t-1\tT\xfcr\n")
    assert "latin1.log:2:9: invalid UTF-8" in _fails([tmp_path / "latin1.log"], capsys)
    for arguments in ([tmp_path], [log, "--ref", tmp_path]):
        assert f"{tmp_path}: Is a directory; give a text file" in _fails(arguments, capsys)


def test_languages_that_moses_does_not_know(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = _fails([log, "--detokenize", "xx"], capsys)
    assert "--detokenize xx: Moses has no rules for this language" in error
    assert " cs, de, el, en, " in error
    assert "(did you mean german" in _fails([log, "--detokenize", "germn"], capsys)
    assert bleu.detokenize(["it &apos;s late ."], "english") == ["it's late."]
    assert bleu.detokenize(["c&apos; est ici ."], "fr") == ["c'est ici."]


def test_corpus_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corpus", "--to", str(tmp_path / "a corpus")]) == 0
    assert "train 20,000, valid 500, test 500" in capsys.readouterr().out
    assert (tmp_path / "a corpus" / "test.en").read_text(encoding="utf-8").count("\n") == 500
    (tmp_path / "file").write_text("")
    assert main(["corpus", "--to", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
