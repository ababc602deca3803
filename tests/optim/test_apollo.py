"""Apollo: its first step by hand, its rule written plainly, resuming, fairseq's option."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.optim import FP16Optimizer, build_optimizer
from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.optim.apollo import DECAYS, REBOUNDS, Apollo, FairseqApollo, clip_each
from tests.support.toy_corpus import corpus, train


def plain_apollo(
    p: Tensor,
    grads: list[Tensor],
    lr: float,
    beta: float,
    eps: float,
    rebound: str,
    weight_decay: float,
    weight_decay_type: str,
) -> Tensor:
    """Return the parameter after all steps, by the published rule, one tensor."""
    m, b, d = (torch.zeros_like(p) for _ in range(3))
    for t, grad in enumerate(grads, 1):
        a = (1 - beta) / (1 - beta**t)
        g = grad + weight_decay * p if weight_decay_type == "L2" else grad
        delta = g - m
        m = m + a * delta
        r, e = (0.01, eps / 0.01) if rebound == "constant" else (float(delta.abs().max()), eps)
        s = d.pow(4).sum().pow(0.25) + e
        v = (d / s).square()
        b = b + v * (-a * (delta * d / s).sum() / s - (b * v).sum())
        h = b.abs().clamp(min=r) + (e / a if rebound == "belief" else 0)
        d = m / h
        if weight_decay_type == "decoupled":
            d = d + weight_decay * p
        elif weight_decay_type == "stable":
            d = d + weight_decay / h.mean() * p
        p = p - lr * d
    return p


def tensors(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.double) for shape in shapes]


def run(optimiser: Apollo, params: list[Tensor], grads: list[list[Tensor]]) -> None:
    for step in grads:
        for param, grad in zip(params, step, strict=True):
            param.grad = grad.clone()
        optimiser.step()


@pytest.mark.parametrize("rebound", REBOUNDS)
@pytest.mark.parametrize("decay", DECAYS)
def test_the_batched_rule_is_the_published_one(rebound: str, decay: str) -> None:
    shapes = ((3, 4), (5,))
    settings: dict[str, Any] = {
        "beta": 0.8, "eps": 1e-3, "rebound": rebound, "weight_decay": 0.02,
        "weight_decay_type": decay,
    }  # fmt: skip
    start = tensors(*shapes)
    grads = [tensors(*shapes, seed=step + 1) for step in range(7)]
    params = [p.clone().requires_grad_() for p in start]
    run(Apollo(params, lr=0.003, **settings), params, grads)
    for index, param in enumerate(params):
        expected = plain_apollo(start[index], [g[index] for g in grads], lr=0.003, **settings)
        torch.testing.assert_close(param.detach(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("rebound", "expected"), [("constant", [0.8, 1.4]), ("belief", [1 - 0.1 / 3, 1 + 0.2 / 3])]
)
def test_first_step_by_hand(rebound: str, expected: list[float]) -> None:
    """Without a curvature yet the mean gradient is divided by 0.01, or by its largest entry."""
    p = torch.ones(2, requires_grad=True)
    lr, grad = (0.001, [2.0, -4.0]) if rebound == "constant" else (0.1, [1.0, -2.0])
    p.grad = torch.tensor(grad)
    Apollo([p], lr=lr, eps=1.0 if rebound == "belief" else 1e-4, rebound=rebound).step()
    torch.testing.assert_close(p.detach(), torch.tensor(expected))


def test_resuming_continues_the_run() -> None:
    start, grads = tensors((3, 4), (5,)), [tensors((3, 4), (5,), seed=s) for s in range(6)]
    straight = [p.clone().requires_grad_() for p in start]
    run(Apollo(straight, lr=0.01), straight, grads)
    params = [p.clone().requires_grad_() for p in start]
    first = Apollo(params, lr=0.01)
    run(first, params, grads[:3])
    second = Apollo(params, lr=0.5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(second, params, grads[3:])
    for actual, expected in zip(params, straight, strict=True):
        assert torch.equal(actual, expected)


def test_parameters_without_gradient_stay_and_count_no_step() -> None:
    used, unused = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    optimiser = Apollo([used, unused], lr=0.1)
    used.grad = torch.ones(2)
    optimiser.step()
    assert unused.eq(1).all() and used.ne(1).all()
    assert unused not in optimiser.state
    Apollo([unused], lr=0.1).step()


def test_closure_gives_the_loss() -> None:
    p = torch.ones(2, requires_grad=True)

    def closure() -> Tensor:
        loss = p.square().sum()
        loss.backward()
        return loss

    assert float(Apollo([p], lr=0.01).step(closure)) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "--lr is -1.0, but must be at least 0"),
        ({"beta": 1.0}, "--apollo-beta is 1.0, but must be from 0 to less than 1"),
        ({"eps": -1e-4}, "--apollo-eps is -0.0001, but must be at least 0"),
        ({"rebound": "hope"}, "--rebound is hope, but must be one of constant, belief"),
        ({"weight_decay": -0.1}, "--weight-decay is -0.1, but must be at least 0"),
        ({"weight_decay_type": "L1"}, "--weight-decay-type is L1, but must be one of L2, decou"),
    ],
)
def test_wrong_values_are_one_clear_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SeqAttnError, match=message):
        Apollo([torch.ones(2, requires_grad=True)], **{"lr": 0.1, **settings})


def from_command_line(*arguments: str) -> Any:
    parser = options.get_training_parser()
    chosen = ("--arch", "seqattn_softmax_tiny", "--optimizer", "apollo", "--lr", "0.1")
    args = options.parse_args_and_arch(parser, ["unused", *chosen, *arguments])
    return convert_namespace_to_omegaconf(args)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), {"rebound": "constant", "weight_decay_type": "L2", "beta": 0.9, "eps": 1e-4}),
        (("--rebound", "belief"), {"rebound": "belief", "weight_decay_type": "decoupled"}),
        (
            ("--weight-decay", "1e-8", "--weight-decay-type", "stable", "--apollo-beta", "0.8"),
            {"weight_decay": 1e-8, "weight_decay_type": "stable", "beta": 0.8},
        ),
    ],
)
def test_fairseq_builds_it_from_its_options(
    arguments: tuple[str, ...], expected: dict[str, Any]
) -> None:
    optimiser = build_optimizer(
        from_command_line(*arguments).optimizer, [torch.ones(2, requires_grad=True)]
    )
    assert isinstance(optimiser, FairseqApollo)
    group = optimiser.optimizer.param_groups[0]
    assert expected.items() <= group.items()
    assert group["lr"] == 0.1
    assert expected.items() <= optimiser.optimizer_config.items()


def test_flattened_parameters_are_refused_with_the_remedy(monkeypatch) -> None:
    params = [torch.ones(2, requires_grad=True)]
    cfg = from_command_line("--fp16", "--fp16-no-flatten-grads", "--distributed-world-size", "1")
    built = FP16Optimizer.build_optimizer(cfg, params)
    assert isinstance(built.fp32_optimizer, FairseqApollo)
    # what fairseq flattens on a GPU alone
    monkeypatch.setattr(FP16Optimizer, "build_fp32_params", lambda *_, **__: params[0])
    with pytest.raises(RuntimeError, match="please set --fp16-no-flatten-grads"):
        FP16Optimizer.build_optimizer(from_command_line("--fp16"), params)


def clipped(bound: float, *flags: str) -> tuple[Tensor, list[Tensor]]:
    """Take two steps with gradients of norm 10 and 0.1; return the norm logged, and the result."""
    dtype = {"--fp16": torch.half, "--bf16": torch.bfloat16}.get(flags[0] if flags else "")
    params = [torch.nn.Parameter(torch.ones(n, dtype=dtype)) for n in (4, 16)]
    options_ = (*flags, "--lr", "0.01", "--clip-each", str(bound), "--distributed-world-size", "1")
    cfg = from_command_line(*options_)
    mixed = dtype is not None
    built = FP16Optimizer.build_optimizer(cfg, params) if mixed else build_optimizer(
        cfg.optimizer, params
    )  # fmt: skip
    norm = torch.zeros(())
    for _ in range(2):
        built.zero_grad()
        built.backward(sum(8 * w * p.sum() for w, p in zip((5, 0.025), params, strict=True)))
        built.multiply_grads(1 / 8)  # as fairseq divides by the number of tokens
        norm = built.clip_grad_norm(0.0)
        built.step()
    return norm, [p.detach().float() for p in params]


@pytest.mark.parametrize(
    ("flags", "tolerance"),
    [((), 1e-6), (("--fp16", "--fp16-no-flatten-grads"), 1e-3), (("--bf16",), 8e-3)],
)
def test_each_tensor_is_clipped_by_itself(flags: tuple[str, ...], tolerance: float) -> None:
    norm, params = clipped(0.5, *flags)
    assert float(norm) == pytest.approx(10, rel=tolerance)  # the largest, before clipping
    settings: dict[str, Any] = {
        "lr": 0.01, "beta": 0.9, "eps": 1e-4, "rebound": "constant", "weight_decay": 0.0,
        "weight_decay_type": "L2",
    }  # fmt: skip
    for param, shape, gradient in zip(params, (4, 16), (0.25, 0.025), strict=True):
        expected = plain_apollo(torch.ones(shape), [torch.full((shape,), gradient)] * 2, **settings)
        torch.testing.assert_close(param, expected, rtol=tolerance, atol=tolerance)


def test_clipping_by_the_definition() -> None:
    grads = tensors((3, 4), (5,), (1,))
    expected = [g * min(1.0, 1.5 / float(g.norm())) for g in grads]
    assert any(g.norm() > 1.5 for g in grads) and any(g.norm() < 1.5 for g in grads)
    clip_each(grads, 1.5)
    torch.testing.assert_close(grads, expected)
    zero = [torch.zeros(3)]
    clip_each(zero, 0.1)
    assert zero[0].eq(0).all()
    clip_each([], 0.1)


def test_two_kinds_of_clipping_are_refused() -> None:
    params = [torch.ones(2, requires_grad=True)]
    for flags, message in (
        (("--clip-each", "-1"), "--clip-each is -1.0, but must be at least 0"),
        (("--clip-each", "0.1", "--clip-norm", "1"), "--clip-each 0.1 and --clip-norm 1.0 exclude"),
    ):
        with pytest.raises(SeqAttnError, match=message):
            build_optimizer(from_command_line(*flags).optimizer, params)


def test_fairseq_trains_with_it(tmp_path) -> None:
    _, data_bin = corpus()
    result = train(
        data_bin, tmp_path, "--optimizer", "apollo", "--lr", "0.01", "--max-epoch", "1",
        "--clip-each", "0.1", arch="seqattn_luna",
    )  # fmt: skip
    assert result.status == 0, result.stderr
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=False)
    assert state["optimizer_history"][-1]["optimizer_name"] == "FairseqApollo"
