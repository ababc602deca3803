"""--cuda-graphs, with stand-ins on the CPU for the graphs: what is replayed is what was trained."""

from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed import (
    DistributedTimeoutWrapper,
    LegacyDistributedDataParallel,
    ModuleProxyWrapper,
)
from fairseq.tasks import setup_task
from fairseq.trainer import Trainer
from omegaconf import open_dict
from torch import Tensor, distributed, nn

import seqattn_fairseq  # noqa: F401 registers models, task and criterions
from seqattn_fairseq.compat.numerics import FirstNonFinite
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.ops import cross_entropy
from seqattn_fairseq.tasks import graphs, translation
from seqattn_fairseq.tasks.graphs import EAGER_PASSES, CudaRecorder, check_training
from seqattn_fairseq.transformer import decoder, encoder, padding
from tests.support.recorders import Rerun, StandIn, Tape
from tests.support.toy_corpus import (
    LETTERS,
    TINY,
    corpus,
    preprocess,
    sentences,
    train,
    write_split,
)

pytestmark = pytest.mark.xdist_group("commands")

OURS = "seqattn_label_smoothed_cross_entropy"


# ---- trainings ---------------------------------------------------------------------------------


def make_trainer(
    data_bin: Path, *extra: str, arch: str = "seqattn_softmax", cpu: bool = True
) -> Trainer:
    parser = options.get_training_parser()
    arguments = [
        str(data_bin), "--arch", arch, *TINY, "--task", "seqattn_translation", "--optimizer",
        "seqattn_adam", "--lr", "0.01", "--clip-norm", "0.5", "--dropout", "0.1", "--criterion",
        OURS, "--label-smoothing", "0.1", "--max-tokens", "100", "--shape-buckets", "3",
        "--num-workers", "0", "--required-batch-size-multiple", "1", *(["--cpu"] if cpu else []),
        *extra,
    ]  # fmt: skip
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, arguments))
    with open_dict(cfg):
        cfg.distributed_training.distributed_world_size = 1
        cfg.common.tpu = False  # --bf16 sets it
    task = setup_task(cfg.task)
    torch.manual_seed(7)
    model = task.build_model(cfg.model)
    return Trainer(cfg, task, model, task.build_criterion(cfg.criterion))


def updates(trainer: Trainer, epochs: int = 4) -> list[dict[str, Any]]:
    """Train; return what every update logs, and its gradients."""
    found = []
    for epoch in range(1, epochs + 1):
        batches = trainer.get_train_iterator(epoch).next_epoch_itr()
        samples, freq = list(batches), trainer.cfg.optimization.update_freq[0]
        trainer.begin_epoch(epoch)
        for start in range(0, len(samples), freq):
            log = trainer.train_step(copy.deepcopy(samples[start : start + freq]))
            norms = [p.grad.float().norm() for p in trainer.model.parameters()]
            found.append({"gradients": torch.stack(norms), **(log or {})})
        trainer.valid_step(samples[0])  # leaves the model in evaluation mode
    return found


def claim_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_device", lambda model: "cuda")


def trained(
    monkeypatch: pytest.MonkeyPatch, recorder: StandIn, data_bin: Path, *extra: str
) -> tuple[Trainer, list[dict[str, Any]]]:
    monkeypatch.setattr(translation, "CudaRecorder", lambda: recorder)
    claim_gpu(monkeypatch)
    trainer = make_trainer(data_bin, "--cuda-graphs", *extra)
    recorder.parameters = list(trainer.model.parameters())
    return trainer, updates(trainer)


def assert_same(ours: Any, eager: Any) -> None:
    (trainer, logged), (other, expected) = ours, eager
    for update, want in zip(logged, expected, strict=True):
        assert update.keys() == want.keys()
        for name, value in want.items():
            if name not in ("wps", "ups", "wall", "train_wall"):
                same = torch.equal(torch.as_tensor(update[name]), torch.as_tensor(value))
                assert same, (name, update[name], value)
    for name, value in other.model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value), name


def eagerly(data_bin: Path, *extra: str) -> tuple[Trainer, list[dict[str, Any]]]:
    trainer = make_trainer(data_bin, *extra)
    return trainer, updates(trainer)


TRAININGS: dict[str, tuple[str, ...]] = {
    "two passes an update": ("--update-freq", "2"),
    "no dropout": ("--dropout", "0"),
    "bf16": ("--bf16", "--update-freq", "2"),
    "memory-efficient bf16": ("--memory-efficient-bf16", "--update-freq", "2"),
    "fairseq's adam": ("--optimizer", "adam"),
    "R-Drop": ("--criterion", "seqattn_rdrop"),
    "accuracy, per sentence, EMA": ("--report-accuracy", "--sentence-avg", "--store-ema"),
}


def some_slow(*fast: str) -> Any:
    marks = {name: () if name in fast else (pytest.mark.slow,) for name in TRAININGS}
    return pytest.mark.parametrize("name", [pytest.param(n, marks=m) for n, m in marks.items()])


def binarised(folder: Path, lines: list[str]) -> Path:
    for split, some in (("train", lines), ("valid", lines[:5])):
        write_split(folder / "text" / split, some)
    assert preprocess(folder / "text", folder / "bin", "train", "valid").status == 0
    return folder / "bin"


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return binarised(tmp_path_factory.mktemp("padded"), sentences(80))


@pytest.fixture(scope="module")
def unpadded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = [" ".join(LETTERS[(i * k) % 10] for k in range(1, 5)) for i in range(1, 81)]
    return binarised(tmp_path_factory.mktemp("unpadded"), lines)


@some_slow("two passes an update", "bf16")
def test_replayed_trainings_are_the_eager_ones(
    name: str, padded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Rerun()
    ours = trained(monkeypatch, recorder, padded, *TRAININGS[name])
    assert recorder.recorded > 2
    assert recorder.replayed > recorder.recorded
    assert_same(ours, eagerly(padded, *TRAININGS[name]))


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let models and criterions look for padding as little as they do on a GPU."""
    monkeypatch.setattr(cross_entropy, "_can_look_at", lambda tensor: False)
    monkeypatch.setattr(padding, "real_rows", lambda module, mask: None)
    for module in (encoder, decoder):
        monkeypatch.setattr(module, "mask_if_any", lambda mask: mask)


@pytest.mark.usefixtures("as_on_a_gpu")
@some_slow("bf16", "R-Drop", "accuracy, per sentence, EMA")
def test_no_value_of_a_batch_is_part_of_what_is_recorded(
    name: str, padded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Tape()
    ours = trained(monkeypatch, recorder, padded, *TRAININGS[name])
    assert recorder.recorded > 2
    assert recorder.replayed > recorder.recorded
    assert_same(ours, eagerly(padded, *TRAININGS[name]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", TRAININGS)
def test_graphs_of_a_gpu_train_as_the_eager_steps(name: str, padded: Path) -> None:
    """Random numbers are the same ones; the order in which a GPU adds need not be."""
    ours = make_trainer(padded, "--cuda-graphs", *TRAININGS[name], cpu=False)
    eager = make_trainer(padded, *TRAININGS[name], cpu=False)
    for update, want in zip(updates(ours), updates(eager), strict=True):
        torch.testing.assert_close(update["gradients"], want["gradients"], rtol=5e-2, atol=5e-3)
        assert update["loss"] == pytest.approx(want["loss"], rel=1e-2)
    steps = ours.task._steps
    assert isinstance(steps._recorder, CudaRecorder)
    assert len(steps._steps) > 2


# ---- one step at a time ------------------------------------------------------------------------


def batch_of(trainer: Trainer, length: int, rows: int = 3) -> dict[str, Any]:
    dictionary = trainer.task.source_dictionary
    words = torch.randint(dictionary.nspecial, len(dictionary), (rows, length))
    words[:, -1] = dictionary.eos()
    return {
        "id": torch.arange(rows),
        "nsentences": rows,
        "ntokens": words.numel(),
        "net_input": {
            "src_tokens": words,
            "src_lengths": torch.full((rows,), length),
            "prev_output_tokens": words.roll(1, 1),
        },
        "target": words,
    }


@pytest.fixture
def graphed(
    unpadded: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[Trainer, Rerun]:
    """A training of which nothing is done yet, and what records its steps; it keeps two graphs."""
    recorder = Rerun()
    monkeypatch.setattr(translation, "CudaRecorder", lambda: recorder)
    monkeypatch.setattr(translation, "MOST_GRAPHS", 2)
    flags = ("--shape-buckets", "0", "--save-dir", str(tmp_path))  # fairseq leaves a crash.pt
    trainer = make_trainer(unpadded, "--cuda-graphs", *flags)
    recorder.parameters = list(trainer.model.parameters())
    return trainer, recorder


def test_the_graph_used_longest_ago_goes(graphed: tuple[Trainer, Rerun]) -> None:
    trainer, recorder = graphed
    batches = [batch_of(trainer, length) for length in (4, 5, 6)]

    def recordings(*order: int) -> int:
        before = recorder.recorded
        for index in order:
            trainer.train_step([batches[index]])
        return recorder.recorded - before

    assert recordings(*[0] * (EAGER_PASSES + 3)) == 1
    assert recordings(*[1] * (EAGER_PASSES + 1)) == 1
    assert recordings(0, 1, 0) == 0
    assert recordings(*[2] * (EAGER_PASSES + 1)) == 1  # of three shapes one has to go
    assert recordings(0, 2, 0) == 0
    assert recordings(1) == 0  # it went, and is run eagerly again
    assert recordings(1, 1) == 1


def test_other_numbers_of_sentences_are_other_shapes(
    graphed: tuple[Trainer, Rerun],
) -> None:
    trainer, recorder = graphed
    for rows in (2, 3, 4) * EAGER_PASSES:
        trainer.train_step([batch_of(trainer, 4, rows)])
    assert recorder.recorded == 0


def test_batches_that_stand_for_none_leave_the_gradient_alone(
    graphed: tuple[Trainer, Rerun],
) -> None:
    trainer, recorder = graphed
    task, optimizer = trainer.task, trainer.optimizer
    batch = batch_of(trainer, 4)

    def step(ignore_grad: bool) -> Tensor:
        task.train_step(batch, trainer.model, trainer.criterion, optimizer, 0, ignore_grad)
        return torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).clone()

    for _ in range(EAGER_PASSES + 2):
        optimizer.zero_grad()
        gradient = step(False)
        assert torch.equal(step(True), gradient)
    assert recorder.recorded == 1


def test_what_watches_layers_sees_them_run(graphed: tuple[Trainer, Rerun]) -> None:
    """fairseq looks for the first NaN with hooks, which a replay does not call."""
    trainer, recorder = graphed
    batch = batch_of(trainer, 4)
    for _ in range(EAGER_PASSES + 2):
        trainer.train_step([batch])
    assert recorder.replayed == 2
    with torch.no_grad():
        next(trainer.model.decoder.layers[0].parameters()).fill_(float("nan"))
    with pytest.raises(SeqAttnError, match="NaN in"):
        trainer.train_step([batch])
    assert "decoder" in FirstNonFinite.finding
    assert (recorder.replayed, recorder.eager) == (3, EAGER_PASSES + 1)


def test_a_gradient_that_was_replaced_is_taken_over(graphed: tuple[Trainer, Rerun]) -> None:
    trainer, recorder = graphed
    batch, parameter = batch_of(trainer, 4), next(trainer.model.parameters())

    def step() -> None:
        torch.manual_seed(5)
        trainer.task.train_step(batch, trainer.model, trainer.criterion, trainer.optimizer, 0)

    for _ in range(EAGER_PASSES + 1):
        trainer.zero_grad()
        step()
    once = parameter.grad.clone()
    parameter.grad = parameter.grad + 1.0
    step()
    assert recorder.replayed == 2
    assert torch.equal(parameter.grad, once + 1.0 + once)


def test_what_a_graph_reads_lives_as_long_as_it(graphed: tuple[Trainer, Rerun]) -> None:
    """Its addresses would otherwise be given to other tensors."""
    trainer, recorder = graphed
    positions = trainer.model.encoder.embed_positions
    table = weakref.ref(positions.table)
    for _ in range(EAGER_PASSES + 1):
        trainer.train_step([batch_of(trainer, 4)])
    trainer.valid_step(batch_of(trainer, positions.table.size(0), rows=1))
    assert positions.table is not table() is not None
    assert recorder.recorded == 1


def test_no_memory_to_record_is_said_once(
    graphed: tuple[Trainer, Rerun], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    trainer, recorder = graphed

    def fail(function: Callable[[], Any]) -> Any:
        try:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        except RuntimeError:
            raise RuntimeError("capture was invalidated") from None

    monkeypatch.setattr(recorder, "record", fail)
    batch = batch_of(trainer, 4)
    with caplog.at_level(logging.WARNING):
        for _ in range(EAGER_PASSES + 3):
            assert trainer.train_step([batch]) is not None
    assert recorder.eager == EAGER_PASSES + 3
    assert caplog.text.count("no memory to record the step of sources of shape 3 x 4") == 1


def test_what_a_gpu_cannot_record_is_one_line(
    graphed: tuple[Trainer, Rerun], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, recorder = graphed

    def fail(function: Callable[[], Any]) -> Any:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(recorder, "record", fail)
    with pytest.raises(SeqAttnError, match=r"cannot be recorded \(CUDA error: [^)\n]*\); train"):
        for _ in range(EAGER_PASSES + 1):
            trainer.train_step([batch_of(trainer, 4)])


def test_numbers_of_a_batch_cannot_be_computed_with(
    graphed: tuple[Trainer, Rerun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph would repeat the computation with the numbers of the batch that it was made of."""
    trainer, _ = graphed
    original = type(trainer.criterion).forward

    def per_token(self: Any, model: Any, sample: Any, reduce: bool = True) -> Any:
        loss, size, output = original(self, model, sample, reduce)
        return loss / sample["ntokens"], size, output

    monkeypatch.setattr(type(trainer.criterion), "forward", per_token)
    with pytest.raises(TypeError, match="_FromBatch"):
        for _ in range(EAGER_PASSES + 1):
            trainer.train_step([batch_of(trainer, 4)])


# ---- refusals ----------------------------------------------------------------------------------


def test_a_cpu_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    flags = ("--task", "seqattn_translation", "--criterion", OURS, "--cuda-graphs")
    result = train(corpus()[1], tmp_path, *flags, arch="seqattn_softmax")
    assert result.status == 1
    assert result.stderr.strip().splitlines()[-1] == (
        "fairseq-train: error: --cuda-graphs: a graph needs a GPU, but the model is on the cpu; "
        "train on a GPU, or leave --cuda-graphs out"
    )
    assert not (tmp_path / "crash.pt").exists()


@pytest.mark.parametrize(
    ("arch", "extra", "message"),
    [
        ("transformer", (), "TransformerModel is no model of this package"),
        ("seqattn_softmax", ("--encoder-layerdrop", "0.1"), "LayerDrop chooses other layers"),
        ("seqattn_softmax", ("--decoder-layerdrop", "0.1"), "LayerDrop chooses other layers"),
    ],
)
def test_models_whose_steps_differ_are_refused(
    arch: str, extra: tuple[str, ...], message: str, padded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_gpu(monkeypatch)
    trainer = make_trainer(padded, "--cuda-graphs", *extra, arch=arch)
    with pytest.raises(SeqAttnError, match=f"--cuda-graphs: {message}.*leave --cuda-graphs out"):
        trainer.begin_epoch(1)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--criterion", "label_smoothed_cross_entropy"), "LabelSmoothed.* use --criterion seq"),
        (("--fp16", "--fp16-no-flatten-grads"), "the loss scale .* use --bf16"),
        (("--memory-efficient-fp16",), "the loss scale .* use --bf16"),
        (("--use-bmuf",), "BMUF has not been tried"),
    ],
)
def test_what_a_graph_would_freeze_is_refused(
    extra: tuple[str, ...], message: str, padded: Path
) -> None:
    trainer = make_trainer(padded, *extra)
    with pytest.raises(SeqAttnError, match=f"--cuda-graphs: {message}.*leave --cuda-graphs out"):
        check_training(trainer.model, trainer.criterion, trainer.optimizer)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Any]:
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    yield distributed.group.WORLD
    distributed.destroy_process_group()


def test_data_parallel_training_that_reduces_after_backward(
    group: Any, padded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(*extra: str) -> Trainer:
        trainer = make_trainer(padded, "--update-freq", "2", *extra)
        legacy = LegacyDistributedDataParallel(trainer.model, group)
        trainer._wrapped_model = ModuleProxyWrapper(legacy)
        return trainer

    recorder, eager = Rerun(), make()
    expected = updates(eager)
    monkeypatch.setattr(translation, "CudaRecorder", lambda: recorder)
    claim_gpu(monkeypatch)
    ours = make("--cuda-graphs")
    recorder.parameters = list(ours.model.parameters())
    assert_same((ours, updates(ours)), (eager, expected))
    assert recorder.replayed > recorder.recorded > 2


class ActsInBackward(nn.Module):
    """As torch's wrapper of data-parallel models does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_data_parallel_training_within_backward_is_refused(padded: Path) -> None:
    trainer = make_trainer(padded)
    model = ModuleProxyWrapper(ActsInBackward(ActsInBackward(trainer.model)))
    with pytest.raises(SeqAttnError, match="ActsInBackward .* use --ddp-backend legacy_ddp"):
        check_training(model, trainer.criterion, trainer.optimizer)


def test_replays_are_signs_of_life(
    graphed: tuple[Trainer, Rerun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """fairseq ends a rank whose wrapped model is not called for --heartbeat-timeout."""
    trainer, recorder = graphed
    model = DistributedTimeoutWrapper(trainer.model, timeout=0)
    beats: list[int] = []
    model._heartbeat = type("Event", (), {"set": lambda self: beats.append(recorder.replayed)})()
    trainer._wrapped_model = model
    for _ in range(EAGER_PASSES + 3):
        trainer.train_step([batch_of(trainer, 4)])
    assert recorder.replayed == 3
    # each of the replays here calls the model, too
    assert len(beats) == EAGER_PASSES + 1 + 2 * 3
