"""``seqattn prepare-corpus``: a corpus of one's own, in both kinds of subwords."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import pytest

from seqattn_fairseq.cli.main import main
from tests.data import miniature

PAIRS = [*miniature.german(150, 5), *miniature.HARD_PAIRS]
LANGS = ("de", "en")


def write(folder: Path, stem: str, pairs: Sequence[tuple[str, str]], end: str = "") -> list[str]:
    """Write two text files and return their names, as given on a command line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in miniature.sides(stem, " ".join(LANGS), pairs).items():
        data = gzip.compress(content) if end else content
        (folder / f"{name}{end}").write_bytes(data)
    return [str(folder / f"{stem}.{lang}{end}") for lang in LANGS]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return write(tmp_path / "my files", "corpus", PAIRS)


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "Ergebnis für mich"


@pytest.fixture
def prepare(files: list[str], to: Path) -> Callable[..., int]:
    def run(*options: str | Path, langs: Sequence[str] = LANGS) -> int:
        languages = ["--source-lang", langs[0], "--target-lang", langs[1]]
        arguments = [*files, *languages, "--to", str(to), "--workers", "1", *map(str, options)]
        return main(["prepare-corpus", *arguments])

    return run


def lines(folder: Path, split: str) -> list[tuple[str, str]]:
    sides = [(folder / f"{split}.{lang}").read_bytes().decode().split("\n")[:-1] for lang in LANGS]
    return list(zip(*sides, strict=True))


def without_returns(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [
        (a.rstrip("\r").replace("\r", " "), b.rstrip("\r").replace("\r", " ")) for a, b in pairs
    ]


def test_defaults(
    prepare: Callable[..., int], to: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare() == 0
    first = capsys.readouterr()
    assert "hold out: 100%" in first.err and "\nbinarize   " in first.err
    # A twentieth each, drawn from the pairs with text on both sides; nothing lost or twice.
    split = {name: lines(to / "text", name) for name in ("train", "valid", "test")}
    assert [len(split[name]) for name in ("valid", "test")] == [8, 8]
    assert sorted(chain(*split.values())) == sorted(without_returns(PAIRS))
    assert all(side.strip() for name in ("valid", "test") for pair in split[name] for side in pair)
    assert "de tokens" in first.out and "joined dictionary" in first.out
    train = lines(to / "clean", "train")
    gone = "two blank sides, a line of 260 words, a line out of ratio"
    assert len(train) == len(split["train"]) - 4, gone
    assert "&#124;" in (to / "clean" / "train.de").read_text("utf-8")
    corpus = json.loads((to / "data-bin" / "corpus.json").read_text("utf-8"))
    assert corpus["bpe"] == {"kind": "subword_nmt", "file": "bpe.codes"}
    for name in ("valid", "test"):
        reference = to / "data-bin" / corpus["references"][name]["file"]
        assert reference.read_text("utf-8") == (to / "text" / f"{name}.en").read_text("utf-8")
    assert prepare() == 0
    assert "complete and unchanged" in capsys.readouterr().out


def test_the_folder_may_be_named_another_way(
    files: list[str],
    to: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(to.parent)
    options = ["--source-lang", "de", "--target-lang", "en", "--workers", "1", "--merges", "9"]
    for name in (to.name, str(to)):
        assert main(["prepare-corpus", *files, *options, "--to", name]) == 0
    assert "complete and unchanged" in capsys.readouterr().out


def test_another_seed_draws_other_pairs(prepare: Callable[..., int], to: Path) -> None:
    draws = []
    for seed in ("1", "2"):
        assert (
            prepare("--seed", seed, "--valid-size", "7", "--test-size", "0", "--merges", "9") == 0
        )
        draws.append(lines(to / "text", "valid"))
        assert len(draws[-1]) == 7
        assert not (to / "data-bin" / "test.de-en.de.bin").exists()
    assert draws[0] != draws[1]


def test_files_for_valid_and_tests(prepare: Callable[..., int], tmp_path: Path, to: Path) -> None:
    # All in folders of their own under one name, gzipped or not.
    sets = {
        name: miniature.german(9 + n, 90 + n) for n, name in enumerate("valid test test1".split())
    }
    given = {name: write(tmp_path / name, "corpus", pairs, ".gz") for name, pairs in sets.items()}
    options = ["--valid", *given["valid"], "--test", *given["test"], "--test", *given["test1"]]
    assert prepare(*options, "--lowercase", "--no-tokenize", "--separate-dictionaries") == 0
    assert sorted(lines(to / "text", "train")) == sorted(without_returns(PAIRS))
    for name, pairs in sets.items():
        lowered = [(german.lower(), english.lower()) for german, english in pairs]
        assert lines(to / "tok", name) == lowered
        assert lines(to / "text", name) == list(pairs)
        assert (to / "data-bin" / f"reference.{name}.en").is_file()
    dictionaries = [(to / "data-bin" / f"dict.{lang}.txt").read_bytes() for lang in LANGS]
    assert dictionaries[0] != dictionaries[1]
    bars = [pair for pair in lines(to / "clean", "train") if "|" in "".join(pair)]
    assert bars, "text of the user's own keeps its vertical bars"


def test_changed_input_of_the_same_name_is_noticed(
    prepare: Callable[..., int], files: list[str], to: Path, tmp_path: Path
) -> None:
    # Both sides may have one name, in folders of their own.
    for lang, file in zip(LANGS, list(files), strict=True):
        (tmp_path / lang).mkdir()
        shutil.copy(file, tmp_path / lang / "text.txt")
        files[files.index(file)] = str(tmp_path / lang / "text.txt")
    assert prepare() == 0
    before = (to / "data-bin" / "dict.de.txt").read_bytes()
    german = tmp_path / "de" / "text.txt"
    german.write_bytes(german.read_bytes().replace(b"Das ", b"Dies "))
    assert prepare() == 0
    assert (to / "data-bin" / "dict.de.txt").read_bytes() != before


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_sentencepiece(prepare: Callable[..., int], to: Path, model_type: str) -> None:
    import sentencepiece

    options = ["--bpe", "sentencepiece", "--vocab-size", "200", "--model-type", model_type]
    assert prepare(*options) == 0
    model = sentencepiece.SentencePieceProcessor(model_file=str(to / "sentencepiece.model"))
    assert model.get_piece_size() == 200
    for text, pieces in zip(lines(to / "text", "test"), lines(to / "pieces", "test"), strict=True):
        assert model.decode([piece.split() for piece in pieces]) == [
            model.decode(model.encode(side, out_type=str)) for side in text
        ]
    assert not (to / "tok").exists()
    corpus = json.loads((to / "data-bin" / "corpus.json").read_text("utf-8"))
    assert corpus["bpe"] == {"kind": "sentencepiece", "file": "sentencepiece.model"}
    bytes_of_model = (to / "sentencepiece.model").read_bytes()
    shutil.rmtree(to)
    assert prepare(*options, "--workers", "2") == 0
    assert (to / "sentencepiece.model").read_bytes() == bytes_of_model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bpe", "sentencepiece", "--merges", "9"], "--merges has no meaning with --bpe sente"),
        (["--bpe", "sentencepiece", "--no-tokenize"], "--no-tokenize has no meaning"),
        (["--vocab-size", "9"], "--vocab-size has no meaning with --bpe subword_nmt"),
        (["--model-type", "bpe"], "--model-type has no meaning"),
        (["--bpe", "sentencepiece", "--vocab-size", "9"], "give --vocab-size 8"),
        (["--merges", "0"], "--merges 0: must be 1 or more"),
        (["--max-length", "0"], "--max-length 0: must be 1 or more"),
        (["--max-ratio", "0.5"], "--max-ratio 0.5: must be 1 or more"),
        (["--valid-size", "0"], "--valid-size 0: must be 1 or more"),
        (["--valid-size", "160"], "are too few to hold out 168 of them"),
        (["--max-length", "1"], "leaves no pair"),
        (["--workers", "0"], "--workers 0"),
        (["--test", "a", "b", "--test-size", "5"], "either --test or --test-size"),
        (["--test", "nowhere.de", "nowhere.en"], "nowhere.de: no such file"),
    ],
)
def test_mistakes(
    prepare: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert prepare(*options) == 1
    errors = [line for line in capsys.readouterr().err.split("\n") if ": error: " in line]
    assert len(errors) == 1 and message in errors[0]


@pytest.mark.parametrize(
    ("langs", "message"),
    [(("de", "de"), "are both de"), (("../de", "en"), "give a language code, such as de")],
)
def test_languages(
    prepare: Callable[..., int],
    to: Path,
    capsys: pytest.CaptureFixture[str],
    langs: Sequence[str],
    message: str,
) -> None:
    assert prepare(langs=langs) == 1
    assert message in capsys.readouterr().err
    assert not to.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Ein Haus.\n", "has 1 lines but"),
        (b"gut\nStra\xdfe\n" * 300, "corpus.de:2:5: invalid UTF-8 (byte 0xdf)"),
        ("", "corpus.de: empty file"),
    ],
)
def test_bad_text(
    prepare: Callable[..., int],
    files: list[str],
    capsys: pytest.CaptureFixture[str],
    content: str | bytes,
    message: str,
) -> None:
    data = content.encode() if isinstance(content, str) else content
    Path(files[0]).write_bytes(data)
    assert prepare() == 1
    assert message in capsys.readouterr().err


def results(folder: Path) -> dict[str, bytes]:
    """The files that a preparation promises to repeat.

    A worker may outlive its killed parent by a moment and write to a hidden file once more, which
    the next run sweeps away.
    """
    times = {"manifest.json", "preprocess.log"}
    paths = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        name.as_posix(): path.read_bytes()
        for name, path in paths.items()
        if name.name not in times and not any(part.startswith(".") for part in name.parts)
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked copies of itself")
def test_killed_and_repeated(prepare: Callable[..., int], to: Path) -> None:
    options = ["--bpe", "sentencepiece", "--vocab-size", "200"]
    start = time.perf_counter()
    assert prepare(*options) == 0
    seconds = time.perf_counter() - start
    straight = results(to)
    shutil.rmtree(to)
    draw, kills = random.Random(1), 0
    for _ in range(4):
        child = multiprocessing.get_context("fork").Process(target=prepare, args=options)
        child.start()
        child.join(draw.uniform(0, 0.7 * seconds))
        kills += child.exitcode is None
        child.kill()
        child.join()
    assert kills > 0
    assert prepare(*options) == 0
    assert results(to) == straight


def test_script_from_another_folder(root: Path, files: list[str], tmp_path: Path) -> None:
    # Copies in a folder with spaces and without a .venv take seqattn from the path.
    scripts = tmp_path / "aus gecheckt 中" / "scripts"
    scripts.mkdir(parents=True)
    for name in ("prepare_corpus.sh", "lib.sh"):
        shutil.copy(root / "scripts" / name, scripts / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    options = "--source-lang de --target-lang en --merges 0 --to".split()
    done = subprocess.run(
        [str(scripts / "prepare_corpus.sh"), *files, *options, "to here"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 1
    assert done.stderr == "seqattn prepare-corpus: error: --merges 0: must be 1 or more\n"
