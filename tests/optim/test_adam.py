"""``seqattn_adam`` is fairseq's ``adam``: steps, half precision, checkpoints, interruptions."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.optim import FP16Optimizer, MemoryEfficientFP16Optimizer, build_optimizer
from fairseq.optim.adam import Adam as Stock
from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.optim.adam import Adam, SeqAttnAdam, _portions
from tests.support.interruption import differences, train_and_kill, training_state
from tests.support.toy_corpus import TINY, TRAINING, USER_DIR, corpus, run, train

SHAPES = ((37, 20), (20,), (5, 3, 2), (1,))
NAMES = ("adam", "seqattn_adam")


def gradients(steps: int, seed: int = 0) -> list[list[Tensor]]:
    """Return gradients of all magnitudes, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def one(shape: tuple[int, ...]) -> Tensor:
        size = torch.empty(shape, dtype=torch.double).uniform_(-9, 1, generator=generator)
        return torch.randn(shape, dtype=torch.double, generator=generator) * 10**size

    return [[one(shape) for shape in SHAPES] for _ in range(steps)]


def stepped(
    optimiser_class: type[torch.optim.Optimizer],
    grads: list[list[Tensor]],
    dtype: torch.dtype,
    **settings: Any,
) -> tuple[list[Tensor], dict[str, Any]]:
    """Return the parameters after all steps, and the optimiser's state; the rate changes."""
    torch.manual_seed(1)
    params = [torch.randn(shape).to(dtype).requires_grad_() for shape in SHAPES]
    groups: list[dict[str, Any]] = [
        {"params": params[:2]},
        {"params": params[2:], "weight_decay": 0.1, "eps": 1e-4},
    ]
    optimiser = optimiser_class(groups, **settings)
    for number, step in enumerate(grads):
        for group in optimiser.param_groups:
            group["lr"] = 0.01 / (1 + number) ** 0.5
        for index, (param, grad) in enumerate(zip(params, step, strict=True)):
            skipped = index == 1 and number % 3 == 0
            param.grad = None if skipped else grad.to(dtype)
        optimiser.step()
    return [p.detach() for p in params], optimiser.state_dict()


SETTINGS: list[dict[str, Any]] = [
    {},
    {"betas": (0.9, 0.98), "eps": 1e-9, "weight_decay": 1e-2},
    {"betas": [0.0, 0.5], "eps": 1e-2},
    {"betas": (0.5, 0.9), "weight_decay": 1e-4},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_steps_are_fairseqs(settings: dict[str, Any]) -> None:
    grads = gradients(300)
    ours, state = stepped(Adam, grads, torch.double, **settings)
    stock, stock_state = stepped(Stock, grads, torch.double, **settings)
    torch.testing.assert_close(ours, stock, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(state["state"], stock_state["state"], rtol=1e-12, atol=1e-18)
    steps = [state["state"][index]["step"] for index in range(4)]
    assert steps == [300, 200, 300, 300]
    assert {type(step) for step in steps} == {int}


@pytest.mark.parametrize("settings", SETTINGS)
def test_in_float32_it_is_as_near_to_the_truth_as_fairseqs(settings: dict[str, Any]) -> None:
    grads = gradients(300)
    truth, _ = stepped(Stock, grads, torch.double, **settings)
    found = {cls: stepped(cls, grads, torch.float, **settings)[0] for cls in (Adam, Stock)}

    def error(values: list[Tensor]) -> float:
        return max(float((a - b).abs().max()) for a, b in zip(values, truth, strict=True))

    assert error(found[Adam]) < 1.5 * error(found[Stock]) < 1e-4
    torch.testing.assert_close(found[Adam], found[Stock], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_half_precision_is_stepped_in_float32(dtype: torch.dtype) -> None:
    grads = gradients(20)
    ours, state = stepped(Adam, grads, dtype, weight_decay=1e-2)
    stock, _ = stepped(Stock, grads, dtype, weight_decay=1e-2)
    ulp = torch.finfo(dtype).eps
    torch.testing.assert_close(ours, stock, rtol=ulp, atol=ulp)
    assert {entry["exp_avg_sq"].dtype for entry in state["state"].values()} == {torch.float}


def test_weight_decay_of_the_least_share_is_not_lost() -> None:
    """What the kernel's own float32 factor of 1 - 2e-8 would be: nothing at all."""
    after = []
    for cls in (Adam, Stock):
        p = torch.full((5,), 1e-3, requires_grad=True)
        optimiser = cls([p], lr=1e-4, weight_decay=2e-4)
        for _ in range(1000):
            p.grad = torch.zeros(5)
            optimiser.step()
        after.append(p.detach())
    assert torch.equal(*after)


def test_gradients_with_other_strides() -> None:
    p = torch.zeros(2, 3, requires_grad=True)
    p.grad = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]).t()
    Adam([p], lr=0.5).step()
    torch.testing.assert_close(p.detach(), torch.tensor([[-0.5, 0, 0], [0, 0, 0]]))


def test_half_precision_is_widened_in_portions_of_the_largest_parameter() -> None:
    params = [torch.empty(n, dtype=torch.bfloat16) for n in (3, 4, 10, 2, 9, 1, 1)]
    portions = list(_portions(params))
    assert [[p.numel() for p in portion] for portion in portions] == [
        [3, 4],
        [10],
        [2],
        [9, 1],
        [1],
    ]


def test_sparse_gradients_are_refused() -> None:
    p = torch.zeros(3, requires_grad=True)
    p.grad = torch.eye(3)[0].to_sparse()
    with pytest.raises(SeqAttnError, match="no rule for sparse gradients"):
        Adam([p]).step()


def test_closure_gives_the_loss() -> None:
    p = torch.ones(2, requires_grad=True)

    def closure() -> Tensor:
        loss = p.square().sum()
        loss.backward()
        return loss

    assert float(Adam([p], lr=0.01).step(closure)) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "--lr is -1.0, but must be at least 0"),
        ({"betas": (0.9, 1.0)}, r"--adam-betas is \(0.9, 1.0\), but must be two numbers from 0"),
        ({"betas": (0.9,)}, r"--adam-betas is \(0.9,\), but must be two numbers from 0"),
        ({"eps": -1e-4}, "--adam-eps is -0.0001, but must be at least 0"),
        ({"weight_decay": -0.1}, "--weight-decay is -0.1, but must be at least 0"),
    ],
)
def test_wrong_values_are_one_clear_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SeqAttnError, match=message):
        Adam([torch.ones(2, requires_grad=True)], **settings)


def from_command_line(*arguments: str, name: str = "seqattn_adam") -> Any:
    parser = options.get_training_parser()
    chosen = ("--arch", "seqattn_softmax_tiny", "--optimizer", name, "--lr", "0.1")
    args = options.parse_args_and_arch(parser, ["unused", *chosen, *arguments])
    return convert_namespace_to_omegaconf(args)


def test_fairseq_builds_it_from_the_options_of_its_own() -> None:
    flags = ("--adam-betas", "(0.8, 0.98)", "--adam-eps", "1e-9", "--weight-decay", "0.01")
    built = {}
    for name in NAMES:
        params = [torch.ones(2, requires_grad=True)]
        built[name] = build_optimizer(from_command_line(*flags, name=name).optimizer, params)
    ours, stock = built["seqattn_adam"], built["adam"]
    assert isinstance(ours, SeqAttnAdam) and isinstance(ours.optimizer, Adam)
    assert ours.optimizer_config == ours.optimizer.defaults == stock.optimizer_config


@pytest.mark.parametrize("flag", ["--fp16-adam-stats", "--use-old-adam", "--tpu"])
def test_what_needs_another_kernel_is_refused(flag: str) -> None:
    message = f"seqattn_adam has no {flag}; use it with --optimizer adam"
    with pytest.raises(SeqAttnError, match=message):
        build_optimizer(from_command_line(flag).optimizer, [torch.ones(2, requires_grad=True)])


HALF: dict[str, tuple[Any, tuple[str, ...]]] = {
    "fp16": (FP16Optimizer, ("--fp16", "--fp16-no-flatten-grads")),
    "fp16 flat": (FP16Optimizer, ("--fp16",)),
    "bf16": (FP16Optimizer, ("--bf16",)),
    "memory-efficient fp16": (MemoryEfficientFP16Optimizer, ("--memory-efficient-fp16",)),
    "memory-efficient bf16": (MemoryEfficientFP16Optimizer, ("--memory-efficient-bf16",)),
}


def wrapped(kind: str, name: str) -> tuple[Any, list[Any], torch.dtype]:
    """Return fairseq's wrapper of an optimiser, and half-precision parameters of two sizes."""
    wrapper, flags = HALF[kind]
    dtype = torch.bfloat16 if "bf16" in kind else torch.half
    torch.manual_seed(3)
    params = [torch.nn.Parameter(torch.randn(n).to(dtype)) for n in (7, 16)]
    everywhere = ("--weight-decay", "0.01", "--distributed-world-size", "1")
    cfg = from_command_line(*flags, *everywhere, "--fp16-init-scale", "8", name=name)
    return wrapper.build_optimizer(cfg, params), params, dtype


def learn(optimiser: Any, params: list[Any], updates: range) -> None:
    """Take steps as fairseq's trainer does, of two passes each, with clipping."""
    for update in updates:
        optimiser.zero_grad()
        for _ in range(2):
            weights = torch.arange(1.0, 17) * (-1) ** update
            optimiser.backward(sum((p.float() * weights[: p.numel()]).sum() for p in params))
        optimiser.multiply_grads(0.5)
        optimiser.clip_grad_norm(1.0)
        optimiser.set_lr(0.1 / (1 + update))
        optimiser.step()


@pytest.mark.parametrize("kind", HALF)
def test_fairseqs_wrappers_of_half_precision(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # fairseq flattens on a GPU alone
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    found = {}
    for name in NAMES:
        optimiser, params, dtype = wrapped(kind, name)
        learn(optimiser, params, range(8))
        found[name] = [p.detach().float() for p in params]
    ulp = torch.finfo(dtype).eps
    torch.testing.assert_close(found["seqattn_adam"], found["adam"], rtol=ulp, atol=ulp)


@pytest.mark.parametrize("kind", ["memory-efficient fp16", "memory-efficient bf16"])
@pytest.mark.parametrize("writer", NAMES)
def test_memory_efficient_state_stays_in_float32(kind: str, writer: str) -> None:
    first, params, _ = wrapped(kind, writer)
    learn(first, params, range(4))
    second, others, _ = wrapped(kind, "seqattn_adam")
    for param, other in zip(params, others, strict=True):
        other.data.copy_(param.data)
    second.load_state_dict(copy.deepcopy(first.state_dict()), second.optimizer_config)
    third, thirds, _ = wrapped(kind, "seqattn_adam")
    learn(third, thirds, range(4))
    for optimiser, learner in ((first, params), (second, others), (third, thirds)):
        learn(optimiser, learner, range(4, 8))
    if writer == "seqattn_adam":
        assert all(torch.equal(a, b) for a, b in zip(others, thirds, strict=True))
    moments = [entry["exp_avg"] for entry in second.optimizer.state.values()]
    assert {m.dtype for m in moments} == {torch.float}
    torch.testing.assert_close(others, params, rtol=1e-2, atol=1e-2)


def trained(folder: Path, name: str, epochs: int, *extra: str) -> dict[str, Any]:
    """Train, or train on, a tiny model; return its last checkpoint."""
    flags = ("--weight-decay", "0.01", "--clip-norm", "1", "--update-freq", "2", "--seed", "7")
    result = train(
        corpus()[1], folder, "--optimizer", name, *flags, "--max-epoch", str(epochs), *extra,
        arch="seqattn_softmax",
    )  # fmt: skip
    assert result.status == 0, result.stderr
    loaded: dict[str, Any] = torch.load(folder / "checkpoint_last.pt", weights_only=False)
    return loaded


def weights(state: dict[str, Any]) -> dict[str, Tensor]:
    """Return a checkpoint's parameters but those that softmax ignores: their gradient is noise."""
    return {k: v.float() for k, v in state["model"].items() if not k.endswith("k_proj.bias")}


@pytest.mark.xdist_group("commands")
def test_trainings_may_change_between_fairseqs_adam_and_ours(tmp_path: Path) -> None:
    straight = trained(tmp_path / "straight", "adam", 4)
    for names in (NAMES, NAMES[::-1], NAMES[1:] * 2):
        folder = tmp_path / " then ".join(names)
        trained(folder, names[0], 2)
        state = trained(folder, names[1], 4)
        assert len(state["optimizer_history"]) == 2  # it did not begin anew
        assert state["optimizer_history"][-1]["optimizer_name"] == "FairseqAdam"
        torch.testing.assert_close(weights(state), weights(straight), rtol=1e-5, atol=1e-5)
        moments, expected = (s["last_optimizer_state"]["state"] for s in (state, straight))
        assert {type(entry["step"]) for entry in moments.values()} == {int}
        torch.testing.assert_close(moments, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.xdist_group("commands")
@pytest.mark.parametrize("flags", [(), ("--bf16",), ("--store-ema", "--ema-decay", "0.9")])
def test_fairseq_trains_with_it(flags: tuple[str, ...], tmp_path: Path) -> None:
    ours, stock = (trained(tmp_path / name, name, 2, *flags) for name in NAMES[::-1])
    tolerance = 2e-2 if flags == ("--bf16",) else 1e-5
    torch.testing.assert_close(weights(ours), weights(stock), rtol=tolerance, atol=tolerance)


@pytest.mark.xdist_group("commands")
def test_killed_trainings_end_bit_equal(tmp_path: Path) -> None:
    folders = {name: tmp_path / f"{name} run" for name in ("calm", "killed")}
    commands = {
        name: [
            str(corpus()[1]), "--user-dir", USER_DIR, "--arch", "seqattn_softmax", *TINY,
            *TRAINING, "--optimizer", "seqattn_adam", "--weight-decay", "0.01", "--max-epoch", "4",
            "--save-interval-updates", "2", "--dropout", "0.1", "--save-dir", str(folder),
        ]
        for name, folder in folders.items()
    }  # fmt: skip
    assert train_and_kill(commands["killed"], tmp_path, kills=3, seconds=0.3) > 0
    for arguments in commands.values():
        result = run("train", *arguments)
        assert result.status == 0, result.stderr
    calm, resumed = (training_state(f / "checkpoint_last.pt") for f in folders.values())
    assert differences(calm, resumed) == []
