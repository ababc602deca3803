"""Task seqattn_translation, and the stock task with our models: as many lines out as in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from fairseq import hub_utils
from fairseq.tasks import setup_task
from omegaconf import OmegaConf

import seqattn_fairseq  # noqa: F401 registers models and task
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.tasks.batches import hard_alignment
from seqattn_fairseq.tasks.dictionaries import STATE_KEY
from seqattn_fairseq.tasks.translation import _explain_dead_beam
from tests.support import toy_corpus

pytestmark = pytest.mark.xdist_group("commands")

COUNTS = (1, 5, 8, 13, 461)
OURS = ("seqattn_rela_g", "translation")  # the stock task, which fairseq-generate picks by itself
STOCK = ("transformer", "seqattn_translation")
LONG = "a " * 40  # the toy runs take 30 tokens


@pytest.fixture(scope="module")
def tests_of_all_sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data-bin with the test sets test, test1, ... of COUNTS sentences."""
    folder = tmp_path_factory.mktemp("sizes of tests")
    prefixes = [folder / f"of{count}" for count in COUNTS]
    for prefix, count in zip(prefixes, COUNTS, strict=True):
        toy_corpus.write_split(prefix, toy_corpus.sentences(count, seed=count))
    toy_corpus.write_dictionary(folder / "dict.txt")
    result = toy_corpus.run(
        "preprocess", "-s", "src", "-t", "tgt", "--testpref", ",".join(map(str, prefixes)),
        "--destdir", str(folder / "bin"), "--srcdict", str(folder / "dict.txt"),
        "--joined-dictionary", "--user-dir", toy_corpus.USER_DIR,
    )  # fmt: skip
    assert result.status == 0, result.stderr
    return folder / "bin"


@pytest.mark.parametrize("number", range(len(COUNTS)))
def test_generate_translates_every_sentence(tests_of_all_sizes: Path, number: int) -> None:
    result = toy_corpus.generate(
        toy_corpus.trained(*OURS), "--gen-subset", f"test{number or ''}",
        data_bin=tests_of_all_sizes,
    )  # fmt: skip
    assert result.status == 0, result.stderr
    assert sorted(result.lines("H")) == list(range(COUNTS[number]))
    assert f"Translated {COUNTS[number]} sentences" in result.stdout + result.stderr


@pytest.mark.parametrize("count", COUNTS)
def test_interactive_translates_every_line(count: int) -> None:
    text = "".join(f"{line}\n" for line in toy_corpus.sentences(count, seed=count))
    result = toy_corpus.interactive(
        toy_corpus.trained(*OURS), text.encode(), "--buffer-size", "100", "--batch-size", "64"
    )
    assert result.status == 0, result.stderr
    assert sorted(result.lines("H")) == list(range(count))


def test_a_real_generate_command_with_its_defaults() -> None:
    """The console script in a new interpreter, with a data-loading process."""
    run = toy_corpus.trained(*OURS)
    result = toy_corpus.script(
        "fairseq-generate", str(run.data_bin), "--user-dir", toy_corpus.USER_DIR, "--path",
        str(run.checkpoint), "--cpu", "--max-len-b", "12",
    )  # fmt: skip
    assert result.status == 0, result.stderr
    assert sorted(result.lines("H")) == list(range(5))


def test_validation_sees_every_sentence(tmp_path: Path) -> None:
    """fairseq logs sentences per batch: 13 make a batch of 8 and one of 5, which it would drop."""
    result = toy_corpus.train(
        toy_corpus.corpus()[1], tmp_path, "--max-update", "1", "--max-tokens-valid", "1000",
        arch=OURS[0],
    )  # fmt: skip
    assert result.status == 0, result.stderr
    line = next(x for x in (result.stdout + result.stderr).splitlines() if "valid on 'valid'" in x)
    assert "| bsz 6.5 |" in line


# ---- empty and over-long lines -----------------------------------------------------------------


@pytest.fixture(scope="module")
def hard_lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hard lines")
    toy_corpus.write_split(folder / "test", ["a b c", "", LONG, "d e f", "", "b " * 25])
    assert toy_corpus.preprocess(folder, folder / "bin", "test").status == 0
    return folder / "bin"


@pytest.mark.parametrize(("arch", "task"), [OURS, STOCK])
@pytest.mark.parametrize("max_tokens", ["20", "1000"])
def test_generate_keeps_empty_and_long_lines(
    hard_lines: Path, arch: str, task: str, max_tokens: str
) -> None:
    options = ["--task", task, "--max-source-positions", "30"] if task != "translation" else []
    result = toy_corpus.generate(
        toy_corpus.trained(arch, task), *options, "--max-tokens", max_tokens, data_bin=hard_lines
    )
    assert result.status == 0, result.stderr
    hypotheses = result.lines("D")
    assert sorted(hypotheses) == list(range(6))
    assert [i for i in range(6) if not hypotheses[i]] == [1, 2, 4]
    assert result.lines("S")[2].split() == ["a"] * 40
    log = result.stdout + result.stderr
    assert log.count("its output line stays empty") == 1
    assert "sentence 3: 41 source tokens, the model takes 30; not translated" in log


@pytest.mark.parametrize(("arch", "task"), [OURS, STOCK])
def test_interactive_keeps_empty_and_long_lines(arch: str, task: str) -> None:
    text = f"a b\n\n{LONG}\n   \nc d\n{LONG}\n".encode()
    result = toy_corpus.interactive(
        toy_corpus.trained(arch, task), text, "--task", task, "--max-source-positions", "30",
        "--buffer-size", "4", "--batch-size", "4",
    )  # fmt: skip
    assert result.status == 0, result.stderr
    hypotheses = result.lines("D")
    assert sorted(hypotheses) == list(range(6))
    assert [hypotheses[i] for i in (1, 2, 3, 5)] == [""] * 4
    assert hypotheses[0]
    log = result.stdout + result.stderr
    assert "sentence 3: 41 source tokens" in log
    assert "sentence 6: 41 source tokens" in log


def test_nothing_but_empty_lines() -> None:
    result = toy_corpus.interactive(
        toy_corpus.trained(*OURS), b"\n\n\n", "--buffer-size", "3", "--batch-size", "3"
    )
    assert result.status == 0, result.stderr
    assert result.lines("D") == {0: "", 1: "", 2: ""}


def test_other_lines_are_translated_as_if_they_were_alone(hard_lines: Path) -> None:
    mixed = toy_corpus.generate(toy_corpus.trained(*OURS), data_bin=hard_lines)
    alone = toy_corpus.interactive(toy_corpus.trained(*OURS), b"a b c\nd e f\n")
    assert [mixed.lines("H")[i] for i in (0, 3)] == [alone.lines("H")[i] for i in (0, 1)]


@pytest.mark.parametrize(("arch", "task"), [OURS, STOCK])
def test_the_hub_keeps_empty_and_long_lines(
    arch: str, task: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = toy_corpus.trained(arch, task)
    loaded = hub_utils.from_pretrained(
        str(run.save_dir), run.checkpoint.name, data_name_or_path=str(run.data_bin)
    )
    hub = hub_utils.GeneratorHubInterface(loaded["args"], loaded["task"], loaded["models"])
    translations = hub.translate(["a b c", "", LONG, "d e f"], beam=2, max_len_b=8)
    assert [bool(line) for line in translations] == [True, False, False, True]
    assert hub.translate("") == ""
    assert "sentence 3: 41 source tokens" in caplog.text


def test_generate_can_score_references_of_empty_sources(hard_lines: Path) -> None:
    result = toy_corpus.generate(
        toy_corpus.trained(*OURS), "--score-reference", data_bin=hard_lines
    )
    assert result.status == 0, result.stderr
    assert result.lines("D")[0] == "c b a"
    assert float(result.lines("P")[1]) < 0  # the model's score of the bare end of sentence


def test_empty_sources_get_as_many_hypotheses_as_others(hard_lines: Path) -> None:
    result = toy_corpus.generate(
        toy_corpus.trained(*OURS), "--beam", "3", "--nbest", "3", data_bin=hard_lines
    )
    assert result.status == 0, result.stderr
    numbers = [line.split("\t")[0] for line in result.stdout.splitlines()]
    assert [numbers.count(f"H-{i}") for i in range(6)] == [3] * 6


@pytest.mark.parametrize("beam", ["1", "3"])
def test_forced_prefixes_may_come_from_empty_targets(tmp_path: Path, beam: str) -> None:
    (tmp_path / "test.src").write_text("a b c\nd e\nf\n\n")
    (tmp_path / "test.tgt").write_text("c b a\n\nf\ng h\n")
    assert toy_corpus.preprocess(tmp_path, tmp_path / "bin", "test").status == 0
    result = toy_corpus.generate(
        toy_corpus.trained(*OURS), "--prefix-size", "2", "--beam", beam, data_bin=tmp_path / "bin"
    )
    assert result.status == 0, result.stderr
    hypotheses = result.lines("H")
    assert hypotheses[0].startswith("c b")
    assert [hypotheses[i] for i in (1, 2, 3)] == ["", "f", ""]


# ---- alignment, scores that are no numbers -----------------------------------------------------


def test_hard_alignment_links_nothing_where_attention_is_null() -> None:
    pad, eos = 1, 2
    attention = torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.0, 0.0], [0.7, 0.1, 0.0], [0.0, 0.0, 0.9]])
    source, target = torch.tensor([5, 6, eos]), torch.tensor([7, 8, 9, eos])
    assert hard_alignment(attention, source, target, pad, eos) == [(1, 0), (0, 2)]


def test_a_model_of_nan_is_one_line(tmp_path: Path) -> None:
    run = toy_corpus.trained(*OURS)
    state = torch.load(run.checkpoint, weights_only=True)
    name = "decoder.layers.0.fc1.weight"
    state["model"][name][0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    broken = toy_corpus.Run(run.text, run.data_bin, tmp_path, tmp_path / "nan.pt")
    for result in (toy_corpus.generate(broken), toy_corpus.interactive(broken, b"a b\n")):
        assert result.status == 1
        assert "Traceback" not in result.stderr
        last = result.stderr.strip().splitlines()[-1]
        assert f"error: non-finite scores: no translation of a sentence can be ranked; {name}" in (
            last.replace("parameter ", "")
        )


def test_non_finite_scores_of_finite_parameters_and_other_assertions() -> None:
    models = [torch.nn.Linear(1, 1)]
    explained = _explain_dead_beam(models, AssertionError("200 < 200"))
    assert "the parameters are finite, so NaN or infinity arises as they are used" in str(explained)
    assert _explain_dead_beam(models, AssertionError("min_len is larger than max_len")) is None


# ---- dictionaries ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def permuted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy corpus binarised with a dictionary of the same letters in another order."""
    folder = tmp_path_factory.mktemp("permuted") / "bin"
    text = toy_corpus.corpus()[0]
    letters = toy_corpus.LETTERS[::-1]
    result = toy_corpus.preprocess(text, folder, "train", "valid", "test", letters=letters)
    assert result.status == 0, result.stderr
    return folder


def refusal(command: str, run: toy_corpus.Run, permuted: Path) -> str:
    return (
        f"fairseq-{command}: error: {permuted}/dict.src.txt (14 types) is not the source "
        f"dictionary of the checkpoint, which is {run.data_bin}/dict.src.txt (14 types); use data"
    )


@pytest.mark.parametrize(("arch", "task"), [OURS, STOCK])
def test_generate_refuses_other_dictionaries(permuted: Path, arch: str, task: str) -> None:
    run = toy_corpus.trained(arch, task)
    result = toy_corpus.generate(run, data_bin=permuted)  # without --task: fairseq's own
    assert result.status == 1
    assert refusal("generate", run, permuted) in result.stderr
    assert "Traceback" not in result.stderr


def test_resuming_refuses_other_dictionaries(permuted: Path, tmp_path: Path) -> None:
    run = toy_corpus.trained(*OURS)
    shutil.copy(run.checkpoint, tmp_path / "checkpoint_last.pt")
    result = toy_corpus.train(
        permuted, tmp_path, "--max-source-positions", "30", "--max-epoch", "3", arch=OURS[0]
    )
    assert result.status == 1
    assert refusal("train", run, permuted) in result.stderr


def test_interactive_and_the_hub_refuse_other_dictionaries(permuted: Path) -> None:
    run = toy_corpus.trained(*OURS)
    elsewhere = toy_corpus.Run(run.text, permuted, run.save_dir, run.checkpoint)
    result = toy_corpus.interactive(elsewhere, b"a b\n")
    assert refusal("interactive", run, permuted) in result.stderr
    with pytest.raises(SeqAttnError, match="is not the source dictionary"):
        hub_utils.from_pretrained(
            str(run.save_dir), run.checkpoint.name, data_name_or_path=str(permuted)
        )


def test_the_other_direction_is_refused(tmp_path: Path) -> None:
    """Both languages share a dictionary here, so that the digests agree."""
    run, swapped = toy_corpus.trained(*OURS), ("-s", "tgt", "-t", "src")
    results = [
        ("generate", toy_corpus.generate(run, *swapped)),
        ("interactive", toy_corpus.interactive(run, b"a b\n", *swapped)),
    ]
    for command, result in results:
        assert result.status == 1
        assert "Traceback" not in result.stderr
        assert result.stderr.strip().splitlines()[-1] == (
            f"fairseq-{command}: error: {run.data_bin}: to be translated from tgt to src, but the "
            "checkpoint was trained to translate from src to tgt; pass --source-lang src "
            "--target-lang tgt, or the checkpoint of the other direction"
        )
    state = torch.load(run.checkpoint, weights_only=True)
    for side in state["task_state"][STATE_KEY].values():
        del side["language"]  # as saved by version 0.1.0
    torch.save(state, tmp_path / "old.pt")
    old = toy_corpus.Run(run.text, run.data_bin, tmp_path, tmp_path / "old.pt")
    assert toy_corpus.generate(old, *swapped).status == 0


# ---- data --------------------------------------------------------------------------------------


def training_error(data_bin: Path, tmp_path: Path, *extra: str) -> str:
    result = toy_corpus.train(
        data_bin, tmp_path / "run", "--max-update", "1", *extra, arch="seqattn_softmax"
    )
    assert result.status == 1
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1].removeprefix("fairseq-train: error: ")


def test_missing_empty_and_mismatched_splits(tmp_path: Path) -> None:
    data_bin = tmp_path / "bin"
    shutil.copytree(toy_corpus.corpus()[1], data_bin)
    assert training_error(data_bin, tmp_path, "--valid-subset", "vaild") == (
        f"{data_bin}: no split 'vaild' for src-tgt (did you mean valid?); it holds test, train, "
        "valid"
    )
    for extension in ("bin", "idx"):
        shutil.copy(
            data_bin / f"test.src-tgt.src.{extension}", data_bin / f"valid.src-tgt.src.{extension}"
        )
    assert training_error(data_bin, tmp_path).startswith(
        f"{data_bin}/valid.src-tgt.src has 5 sentences but {data_bin}/valid.src-tgt.tgt has 13; "
    )


@pytest.mark.parametrize("task", ["seqattn_translation", "translation"])
def test_data_that_is_no_data(tmp_path: Path, task: str) -> None:
    config = {"_name": task, "data": str(tmp_path)}
    with pytest.raises(SeqAttnError, match="holds no language pair .* -s SRC -t TGT"):
        setup_task(OmegaConf.create(config))
    with pytest.raises(SeqAttnError, match=r"dict\.de\.txt: not found"):
        setup_task(OmegaConf.create({**config, "source_lang": "de", "target_lang": "en"}))
    with pytest.raises(SeqAttnError, match="nowhere: not found"):
        setup_task(OmegaConf.create({**config, "data": str(tmp_path / "nowhere")}))
    with pytest.raises(SeqAttnError, match="no data given"):
        setup_task(OmegaConf.create({**config, "data": None}))


def test_commands_without_task_name_missing_data(tmp_path: Path) -> None:
    run, nowhere = toy_corpus.trained(*OURS), tmp_path / "nowhere"
    elsewhere = toy_corpus.Run(run.text, nowhere, run.save_dir, run.checkpoint)
    results = {
        f"generate: error: {nowhere}: not found; ": toy_corpus.generate(elsewhere),
        f"interactive: error: {nowhere}: not found; ": toy_corpus.interactive(elsewhere, b"a\n"),
        f"generate: error: {run.data_bin}/dict.xx.txt: not found; ": toy_corpus.generate(
            run, "-s", "src", "-t", "xx"
        ),
    }
    for message, result in results.items():
        assert result.status == 1
        assert "Traceback" not in result.stderr
        assert result.stderr.strip().splitlines()[-1].startswith(f"fairseq-{message}")


def test_validation_names_the_sentence_that_is_too_long(tmp_path: Path) -> None:
    toy_corpus.write_split(tmp_path / "train", toy_corpus.sentences(20))
    toy_corpus.write_split(tmp_path / "valid", ["a b", "c", "d " * 50, "e"])
    assert toy_corpus.preprocess(tmp_path, tmp_path / "bin", "train", "valid").status == 0
    limit = ("--max-source-positions", "30")
    assert training_error(tmp_path / "bin", tmp_path, *limit).startswith(
        "valid: sentence 3 has (source, target) tokens (51, 51), the limit is (30, 1024)"
    )
    message = training_error(tmp_path / "bin", tmp_path, "--max-tokens-valid", "40")
    assert message.startswith("valid: sentence 3 has 51 tokens, more than a batch may hold (40)")
    result = toy_corpus.train(
        tmp_path / "bin", tmp_path / "skipping", *limit, "--max-update", "1",
        "--skip-invalid-size-inputs-valid-test", arch="seqattn_softmax",
    )  # fmt: skip
    assert result.status == 0, result.stderr
    assert "first few sample ids=[2]" in result.stdout + result.stderr
