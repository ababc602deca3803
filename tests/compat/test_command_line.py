"""fairseq's commands with mistakes on their command line or in their input."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fairseq import checkpoint_utils, criterions, utils

from seqattn_fairseq.compat import command_line
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


# ---- one line per error ------------------------------------------------------------------------

HINT = " (SEQATTN_TRACEBACK=1 shows the traceback)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--batch-size 7", f"--batch-size cannot be larger than --buffer-size{HINT}"),
        ("--bpe sentencepiece", f"--sentencepiece-model is missing{HINT}"),
        ("--bpe sentencepiece --sentencepiece-model no.model", "no.model: no such file, or no mod"),
        ("--bpe subword_nmt --bpe-codes in", "in: no such file, or no model of --bpe subword_nmt"),
        ("--tokenizer seqattn_text", "--tokenizer seqattn_text needs --seqattn-text-chain FILE"),
        ("--tokenizer seqattn_text --seqattn-text-chain .", f".: Is a directory{HINT}"),
        ("--beam 0", "--beam 0 keeps no hypothesis; it must be at least 1"),
        (
            "--min-len 99",
            "--min-len 99 is more than the words that a translation may have here (12, see "
            "--max-len-a and --max-len-b); lower it or raise them",
        ),
        (
            "--min-len 99 --sampling --nbest 5",  # fairseq's own search
            f"min_len cannot be larger than max_len, please adjust these!{HINT}",
        ),
    ],
)
def test_interactive_with_a_wrong_option(tmp_path: Path, options: str, message: str) -> None:
    (tmp_path / "in").write_bytes(b"no merge operations at all\n")
    run = toy_corpus.trained()
    result = toy_corpus.run(
        "interactive", str(run.data_bin), "--user-dir", toy_corpus.USER_DIR, "--path",
        str(run.checkpoint), "--cpu", "--max-len-b", "12", *options.split(), stdin=b"a b\n",
        folder=tmp_path,
    )  # fmt: skip
    assert_one_line(result, f"fairseq-interactive: error: {message}")


def assert_one_line(result: toy_corpus.Result, message: str) -> None:
    assert result.status == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith(message), result.stderr


def test_training_with_a_wrong_option(tmp_path: Path) -> None:
    options = ["--arch", "seqattn_softmax", *toy_corpus.TINY, "--cpu"]
    result = train(*options)
    assert_one_line(result, "fairseq-train: error: Must specify batch size either with --max-token")
    (tmp_path / "file").touch()
    result = train(*options, "--max-tokens", "99", "--save-dir", str(tmp_path / "file"))
    assert_one_line(result, f"fairseq-train: error: {tmp_path}/file/dummy: Not a directory{HINT}")
    result = train(
        *options, "--max-tokens", "99", "--max-source-positions", "1",
        "--skip-invalid-size-inputs-valid-test", "--save-dir", str(tmp_path / "run"),
    )  # fmt: skip
    assert_one_line(result, "fairseq-train: error: The dataset is empty. This could indicate")


def test_a_wrong_option_under_hydra(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(
        f"# @package _global_\ncommon: {{user_dir: '{toy_corpus.USER_DIR}'}}\n"
        "model: {_name: seqattn_softmax}\nhydra: {run: {dir: .}}\n"
    )
    result = toy_corpus.run(
        "hydra_train", "--config-dir", str(tmp_path), "--config-name", "toy", folder=tmp_path
    )
    assert_one_line(result, "fairseq-hydra-train: error: Must specify batch size either with --max")


def raised_by(function: Callable[..., Any], *args: Any) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 whatever it is
        function(*args)
    return caught.value


def message_of(function: Callable[..., Any], *args: Any) -> str | None:
    return command_line._message(raised_by(function, *args))


def train_step() -> None:
    """Stand for fairseq's method of this name."""
    criterions.register_criterion("cross_entropy")(object)


def test_only_foreseen_errors_before_training_lose_their_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    duplicate = (criterions.register_criterion("cross_entropy"), object)
    assert message_of(*duplicate) is None  # not in a program that merely uses fairseq
    monkeypatch.setattr("sys.argv", ["fairseq-train"])
    assert message_of(*duplicate) == f"Cannot register duplicate criterion (cross_entropy){HINT}"
    missing = (checkpoint_utils.verify_checkpoint_directory, "/dev/null/no")
    assert message_of(*missing) == f"/dev/null/no: Not a directory{HINT}"
    assert message_of(utils.strip_pad, None, 1) is None  # a bug, even if in fairseq
    assert message_of(int, "no number") is None
    assert message_of(train_step) is None
    monkeypatch.setenv("SEQATTN_TRACEBACK", "1")
    assert message_of(*duplicate) is None
    assert message_of(*missing) is None


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
    target.write_text("\n \n\n")
    assert preprocess_error(tmp_path).startswith(f"{target}: all 3 lines are blank")
    target.write_bytes(b"\xef\xbb\xbfb a\nd c\ne\n")
    message = preprocess_error(tmp_path)
    assert message.startswith(f"{target}:1: starts with a byte order mark")
    subprocess.run(["bash", "-c", message.partition("remove it: ")[2]], check=True)
    assert target.read_bytes() == b"b a\nd c\ne\n"
    target.unlink()
    assert preprocess_error(tmp_path).startswith(f"{target}: no such file")


def test_preprocess_takes_windows_line_ends_and_unusual_separators(tmp_path: Path) -> None:
    toy_corpus.write_split(tmp_path / "train", ["a b", "c d", "e"])
    (tmp_path / "train.src").write_bytes("a b\r\nc \u2028 d\r\ne\x85\r\n".encode())
    result = toy_corpus.preprocess(tmp_path, tmp_path / "bin", "train")
    assert result.status == 0, result.stderr
    assert "train.src: 3 sents" in result.stdout + result.stderr


def test_preprocess_takes_a_blank_test_set(tmp_path: Path) -> None:
    toy_corpus.write_split(tmp_path / "test", ["", ""])
    result = toy_corpus.preprocess(tmp_path, tmp_path / "bin", "test")
    assert result.status == 0, result.stderr


# ---- fairseq-interactive -----------------------------------------------------------------------


def test_interactive_drops_a_byte_order_mark_at_the_start_alone() -> None:
    run = toy_corpus.trained()
    plain, marked = (
        toy_corpus.interactive(run, start + b"a b\n\xef\xbb\xbf\n")
        for start in (b"", b"\xef\xbb\xbf")
    )
    assert marked.lines("S") == plain.lines("S") == {0: "a b", 1: "<unk>"}
    assert marked.lines("H") == plain.lines("H")
    lone = toy_corpus.interactive(run, b"\xef\xbb\xbf\nc d\n")
    assert lone.lines("S") == {0: "", 1: "c d"}
    assert lone.lines("D")[0] == ""


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
