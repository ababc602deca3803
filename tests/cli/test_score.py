"""``seqattn score`` and ``seqattn corpus`` as commands."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import sacrebleu

from seqattn_fairseq.cli.main import main
from seqattn_fairseq.data.files import read_lines
from seqattn_fairseq.evaluation import bleu
from tests.evaluation import corpus
from tests.support import toy_corpus

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
    kinds = [line.split("  ")[0] for line in out.splitlines()[-5:]]
    assert kinds == ["tokenised BLEU", "compound-split BLEU", "sacreBLEU", "chrF", "TER"]
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


def test_tokens_against_a_raw_reference_are_pointed_out(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = log.with_name("raw.de")
    reference.write_text("\n".join(RAW) + "\n", encoding="utf-8")
    for options, said in (
        (["--ref", reference], 1),
        (["--ref", reference, "--detokenize", "de"], 0),
    ):
        assert main(["score", str(log), *map(str, options)]) == 0
        assert capsys.readouterr().err.count("if these are tokens, give --detokenize LANG") == said


def test_own_reference(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(log), "--detokenize", "de"]) == 0
    assert "sacreBLEU (own reference)" in capsys.readouterr().out


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
    assert f"{tmp_path}: Is a directory; give a text" in _fails([log, "--ref", tmp_path], capsys)
    cases: dict[str, list[Any]] = {
        f"{tmp_path}: no translation of 'test'; run seqattn evaluate or generate": [tmp_path],
        f"{log}: not a run; several inputs are runs of one recipe": [log, log],
        "RUN|LOG and --sys exclude each other": [log, "--sys", log],
        "--ref and --test-set exclude each other": [log, "--ref", log, "--test-set", "wmt14"],
        "nothing to score: give a run, a log, or --sys FILE --ref FILE": ["--sys", log],
        "--test-set wmt14/full: of which languages? give --pair en-de": [
            log, "--test-set", "wmt14/full",
        ],
        "wmt14/fool: sacreBLEU knows no such test set (did you mean wmt14/full": [
            log, "--test-set", "wmt14/fool", "--pair", "en-de",
        ],
        "wmt14/full: holds no en-vi; it has ": [
            log, "--test-set", "wmt14/full", "--pair", "en-vi",
        ],
    }  # fmt: skip
    for message, arguments in cases.items():
        assert message in _fails(arguments, capsys)


def test_languages_that_moses_does_not_know(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = _fails([log, "--detokenize", "xx"], capsys)
    assert "--detokenize xx: Moses has no rules for this language" in error
    assert " cs, de, el, en, " in error
    assert "(did you mean german" in _fails([log, "--detokenize", "germn"], capsys)
    assert bleu.detokenize(["it &apos;s late ."], "english") == ["it's late."]
    assert bleu.detokenize(["c&apos; est ici ."], "fr") == ["c'est ici."]


# ---- plain files -------------------------------------------------------------------------------


def _write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("option", ["--sys", "--hyp", "-s"])
def test_files_as_fairseq_score_takes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    files = [_write(tmp_path / "hyp", OUTPUTS), _write(tmp_path / "ref", TARGETS)]
    assert main(["score", option, str(files[0]), "-r", str(files[1])]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"{'tokenised BLEU':<20} {bleu.tokenized_bleu(OUTPUTS, TARGETS)}"


def test_plain_text_from_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [
        "--sys",
        _write(tmp_path / "hyp", [*RAW[:2], ""]),
        "--ref",
        _write(tmp_path / "r", RAW),
    ]
    assert main(["score", *map(str, files), "--flavour", "detokenized", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert list(values["scores"]) == ["detokenized", "chrf", "ter"]
    assert values["n"] == 3 and values["headline"]["flavour"] == "detokenized"
    expected = bleu.corpus_bleu([*RAW[:2], ""], RAW).value
    assert values["headline"]["score"] == expected


def test_hypotheses_from_standard_input(tmp_path: Path) -> None:
    reference = _write(tmp_path / "a reference", TARGETS)
    text = "".join(f"{line}\n" for line in OUTPUTS).encode()
    result = toy_corpus.script("seqattn", "score", "--ref", str(reference), stdin=text)
    assert result.status == 0, result.stderr
    assert str(bleu.tokenized_bleu(OUTPUTS, TARGETS)) in result.stdout


def test_files_of_other_lengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [_write(tmp_path / "hyp", OUTPUTS), _write(tmp_path / "ref", TARGETS[:2])]
    error = _fails(["--sys", files[0], "--ref", files[1]], capsys)
    assert f"{files[1]} has 2 lines, but {files[0]} 3 sentences; give the file of" in error


# ---- sacreBLEU's own test sets -----------------------------------------------------------------


def test_reference_of_an_official_test_set(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = _write(tmp_path / "wmt14_full.en-de.ref", RAW)
    monkeypatch.setattr(sacrebleu, "get_reference_files", lambda name, pair: [str(raw)])
    options = ["--test-set", "wmt14/full", "--pair", "en-de", "--detokenize", "de"]
    assert main(["score", str(log), *options]) == 0
    assert "sacreBLEU (wmt14/full) " in capsys.readouterr().out
    tokens = _write(tmp_path / "hyp.tok", TARGETS)
    assert main(["score", "--sys", str(tokens), *options]) == 0
    assert capsys.readouterr().out.startswith("sacreBLEU (wmt14/full) 100.00 ")
    _write(raw, RAW[:1])
    assert "wmt14/full has 1 lines, but" in _fails([log, *options], capsys)


@pytest.mark.parametrize("error", [URLError("no network"), SystemExit(1)])
def test_an_official_test_set_that_cannot_be_fetched(
    log: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
) -> None:
    def fails(*_: str) -> list[str]:
        raise error

    monkeypatch.setattr(sacrebleu, "get_reference_files", fails)
    message = _fails([log, "--test-set", "wmt14/full", "--pair", "en-de"], capsys)
    assert "wmt14/full: not at hand, and sacreBLEU cannot download it" in message
    assert "give the raw reference with --ref FILE" in message


# ---- runs --------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs that differ in their seed, translated."""
    data = corpus.described(tmp_path)
    made = [corpus.run_copy(tmp_path, f"seed{seed}") for seed in (1, 2)]
    corpus.change(made[1] / "checkpoint_best.pt", "common", "seed", 2, noise=0.05)
    for run in made:
        assert main(["generate", str(run), "--data", str(data), *corpus.DECODING]) == 0
    return made


@pytest.mark.xdist_group("commands")
def test_a_run(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["score", str(runs[0]), "--show", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["source", "reference", "output"]
    assert lines[4].startswith("tokenised BLEU ")
    assert lines[-1].startswith("headline: test, tokenised BLEU ")
    scores = json.loads((runs[0] / "evaluation" / "test" / "scores.json").read_text())
    assert f"tokenised BLEU {scores['headline']['score']:.2f} " in lines[-1]
    reference = _write(tmp_path / "raw", ["Das Haus."] * 13)
    options = ["--ref", str(reference), "--flavour", "detokenized"]
    assert main(["score", str(runs[0]), *options]) == 0
    assert capsys.readouterr().out.startswith("sacreBLEU            ")
    error = _fails([runs[0], "--subset", "test7"], capsys)
    assert f"{runs[0]}: no translation of 'test7'; it has test" in error


@pytest.mark.xdist_group("commands")
def test_mean_over_seeds(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["score", *map(str, runs), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    ours = [run["scores"]["tokenized"]["score"] for run in values["runs"].values()]
    spread = values["spread"]["tokenized"]
    assert spread["scores"] == ours and ours[0] != ours[1]
    assert spread["mean"] == pytest.approx(statistics.mean(ours))
    assert spread["deviation"] == pytest.approx(statistics.stdev(ours))
    assert main(["score", *map(str, runs)]) == 0
    text = f"{spread['mean']:.2f} +- {spread['deviation']:.2f}  (n = 2)"
    assert f"tokenised BLEU       {text}" in capsys.readouterr().out


@pytest.mark.xdist_group("commands")
def test_runs_of_other_kinds_are_not_averaged(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = runs[0].parent / "data bin"
    again = ["--data", str(data), *corpus.DECODING]

    def fails() -> str:
        capsys.readouterr()
        return _fails([*runs], capsys)

    assert main(["generate", str(runs[1]), *again, "--length-penalty", "0.5"]) == 0
    error = fails()
    assert f"{runs[1]}: search.length_penalty is 0.5, but 1.0 in {runs[0]}; a mean" in error
    for run in runs:  # chosen for each run on its validation set, it may differ
        (run / "evaluation" / "selection.json").write_text("{}")
    assert main(["score", *map(str, runs)]) == 0
    corpus.change(runs[1] / "checkpoint_best.pt", "criterion", "label_smoothing", 0.3)
    assert main(["generate", str(runs[1]), *again]) == 0
    assert "criterion.label_smoothing is 0.3, but " in fails()
    corpus.change(runs[1] / "checkpoint_best.pt", "criterion", "label_smoothing", 0.0)
    corpus.change(runs[1] / "checkpoint_best.pt", "common", "seed", 1)
    assert main(["generate", str(runs[1]), *again]) == 0
    assert f"{runs[1]}: " in fails()
    assert "a run is given twice" in _fails([runs[0], runs[0]], capsys)


def test_corpus_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corpus", "--to", str(tmp_path / "a corpus")]) == 0
    assert "train 20,000, valid 500, test 500" in capsys.readouterr().out
    assert (tmp_path / "a corpus" / "test.en").read_text(encoding="utf-8").count("\n") == 500
    (tmp_path / "file").write_text("")
    assert main(["corpus", "--to", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
