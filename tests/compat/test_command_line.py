"""fairseq's commands with mistakes on their command line or in their input."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import toy_corpus

pytestmark = pytest.mark.xdist_group("commands")


def train(*extra: str) -> toy_corpus.Result:
    return toy_corpus.run(
        "train", str(toy_corpus.corpus()[1]), "--user-dir", toy_corpus.USER_DIR, *extra
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--arch", "seqattn_rela_gg"], ["--arch", "'seqattn_rela_gg'", "seqattn_rela_g,"]),
        (["--arch", "seqattn_softmax", "--encoder-layer", "3"], ["--encoder-layers"]),
        (["--arch", "seqattn_softmax", "--optimizer", "adamm"], ["'adamm'", "adam"]),
        (["--arch", "seqattn_softmax", "--task", "seqatn_translation"], ["seqattn_translation"]),
    ],
)
def test_a_misspelt_name_gets_the_nearest_ones(options: list[str], words: list[str]) -> None:
    result = train(*options)
    assert result.status == 2
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("fairseq-train: error: ")
    assert all(word in last for word in words), last
    assert len(last) < 300
    assert "usage:" not in result.stderr


def test_generate_and_preprocess_name_unknown_options_too() -> None:
    for command in ("generate", "preprocess"):
        result = toy_corpus.run(command, "--user-dir", toy_corpus.USER_DIR, "--sed", "3", "data")
        assert result.status == 2
        assert "unknown option --sed (did you mean --seed" in result.stderr


def test_bf16_trains_on_the_cpu(tmp_path: Path) -> None:
    result = toy_corpus.train(
        toy_corpus.corpus()[1], tmp_path, "--bf16", "--max-update", "3", arch="seqattn_softmax"
    )
    assert result.status == 0, result.stderr
    assert "'bf16': True" in result.stdout + result.stderr
    assert "'tpu': False" in result.stdout + result.stderr
    assert (tmp_path / "checkpoint_last.pt").exists()


def test_a_users_mistake_through_the_console_script_is_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "no such folder"
    result = toy_corpus.script(
        "fairseq-train", str(missing), "--user-dir", toy_corpus.USER_DIR, "--arch",
        "seqattn_softmax", "--task", "seqattn_translation", "-s", "src", "-t", "tgt",
        "--max-tokens", "100", "--cpu", "--save-dir", str(tmp_path / "run"),
    )  # fmt: skip
    assert result.status == 1
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(f"fairseq-train: error: {missing}/dict.src.txt: not found")


# ---- fairseq-preprocess ------------------------------------------------------------------------


def preprocess_error(folder: Path) -> str:
    result = toy_corpus.preprocess(folder, folder / "bin", "train")
    assert result.status == 1
    assert "Traceback" not in result.stderr
    assert not (folder / "bin").exists()
    return result.stderr.strip().splitlines()[-1].removeprefix("fairseq-preprocess: error: ")


def test_preprocess_refuses_what_would_go_wrong_later(tmp_path: Path) -> None:
    toy_corpus.write_split(tmp_path / "train", ["a b", "c d", "e"])
    source, target = tmp_path / "train.src", tmp_path / "train.tgt"

    target.write_text("b a\nd c\n")
    assert preprocess_error(tmp_path) == (
        f"{source} has 3 lines but {target} has 2; line n of both files must be the same sentence"
    )
    target.write_bytes(b"b a\nd \xff c\ne\n")
    assert preprocess_error(tmp_path).startswith(f"{target}:2:3: invalid UTF-8 (byte 0xff)")
    target.write_bytes(b"b a\nd\rc\ne\n")
    assert preprocess_error(tmp_path).startswith(f"{target}:2: carriage return inside the line")
    target.write_bytes(b"")
    assert preprocess_error(tmp_path).startswith(f"{target}: empty file")
    target.unlink()
    assert preprocess_error(tmp_path).startswith(f"{target}: no such file")


def test_preprocess_takes_windows_line_ends_and_unusual_separators(tmp_path: Path) -> None:
    toy_corpus.write_split(tmp_path / "train", ["a b", "c d", "e"])
    (tmp_path / "train.src").write_bytes("a b\r\nc \u2028 d\r\ne\x85\r\n".encode())
    result = toy_corpus.preprocess(tmp_path, tmp_path / "bin", "train")
    assert result.status == 0, result.stderr
    assert "train.src: 3 sents" in result.stdout + result.stderr


# ---- fairseq-interactive -----------------------------------------------------------------------


def test_interactive_translates_up_to_an_invalid_line_and_names_it() -> None:
    result = toy_corpus.interactive(
        toy_corpus.trained(), b"a b\nc\nd \xc3( e\nf\n", "--buffer-size", "8"
    )
    assert result.status == 1
    assert sorted(result.lines("H")) == [0, 1]
    assert (
        result.stderr.strip()
        .splitlines()[-1]
        .startswith("fairseq-interactive: error: standard input:3:3: invalid UTF-8 (byte 0xc3)")
    )
    assert "Traceback" not in result.stderr


def test_interactive_reads_files_and_names_a_missing_one(tmp_path: Path) -> None:
    text = tmp_path / "input text"
    text.write_bytes("a b\rc\n\nd e\u2028f".encode())
    result = toy_corpus.interactive(toy_corpus.trained(), b"", "--input", str(text))
    assert result.status == 0, result.stderr
    assert sorted(result.lines("H")) == [0, 1, 2]
    result = toy_corpus.interactive(toy_corpus.trained(), b"", "--input", str(tmp_path / "no"))
    assert result.status == 1
    assert f"{tmp_path / 'no'}: No such file or directory" in result.stderr
