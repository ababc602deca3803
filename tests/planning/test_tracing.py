"""Memory that is predicted is memory that is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.plan import Case, allocated_peak, subject
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.planning.fakes import ROUNDS, Fakes
from seqattn_fairseq.planning.step import Shape, Step
from seqattn_fairseq.planning.tracing import Memory, Tracer
from seqattn_fairseq.transformer.registry import VARIANTS

CPU = torch.device("cpu")
TYPES = 2000
ONE_LAYER = ("model.encoder_layers=1", "model.decoder_layers=1")
HYBRID = ("model.encoder_variant=luna", "model.decoder_variant=topk")
SHAPE = Shape(8, 17, 15)


def case(variant: str, shape: Shape = SHAPE, *words: str) -> Case:
    pair = HYBRID if variant == "hybrid" else ()
    return Case(variant, "tiny", shape, (*pair, *ONE_LAYER, *words))


def traced(of: Case, dtype: torch.dtype = torch.float32) -> Memory:
    return Tracer(subject(of, TYPES), dtype, CPU).trace(of.shape).memory


@pytest.mark.parametrize(
    "held_out",
    [
        case("rela_g", Shape(24, 30, 34)),
        case("muse_simple", Shape(40, 12, 20)),
        case("hybrid", Shape(12, 50, 40)),
    ],
    ids=lambda held_out: held_out.variant,
)
def test_the_peak_is_that_of_a_real_training(held_out: Case) -> None:
    predicted = traced(held_out).peak
    assert predicted == pytest.approx(allocated_peak(held_out, TYPES), rel=0.2)


FAST = ("softmax", "dynamicconv", "mega")


@pytest.mark.parametrize(
    "variant",
    [v if v in FAST else pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS],
)
def test_every_variant_is_traced(variant: str) -> None:
    tracer = Tracer(subject(case(variant), TYPES), torch.float32, CPU)
    first = tracer.trace(SHAPE)
    memory = first.memory
    # Adam keeps two numbers of each
    assert memory.optimizer == pytest.approx(2 * 4 * tracer.parameters, rel=0.01)
    assert memory.gradients == 4 * tracer.parameters
    assert memory.peak >= memory.fixed - memory.gradients
    products = sum(w.flops * n for w, n in first.passes.items() if w.flops)
    # forward and backward multiply every weight of a layer three times with every position
    assert products > 3 * 2 * SHAPE.sentences * min(SHAPE.source, SHAPE.target) * TYPES * 128


def test_a_trace_repeats_and_counts_the_parameters() -> None:
    found = subject(case("mega"), TYPES)
    tracer = Tracer(found, torch.float32, CPU)
    assert tracer.trace(SHAPE) == tracer.trace(SHAPE)
    assert tracer.parameters == sum(p.numel() for p in Step(found, CPU, torch.float32).parameters)


def test_activations_grow_with_the_sentences() -> None:
    of = case("softmax")
    tracer = Tracer(subject(of, TYPES), torch.float32, CPU)
    small, large, larger = (
        tracer.trace(replace(SHAPE, sentences=n)).memory.peak for n in (100, 200, 300)
    )
    assert larger - large == pytest.approx(large - small, rel=0.05)
    assert large > small


def test_bf16_halves_weights_and_keeps_float32_copies() -> None:
    wide = traced(case("softmax"))
    narrow = traced(case("softmax", SHAPE, "common.bf16=true"), torch.bfloat16)
    assert narrow.parameters == pytest.approx(wide.parameters / 2, rel=0.02)
    assert narrow.gradients == pytest.approx(wide.gradients / 2, rel=0.02)
    assert narrow.optimizer > wide.optimizer + wide.parameters


def test_accumulation_keeps_gradients_through_the_passes() -> None:
    once = traced(case("softmax", Shape(60, 17, 15)))
    often = traced(case("softmax", Shape(60, 17, 15), "optimization.update_freq=[4]"))
    assert often.peak > once.peak
    assert often.peak <= once.peak + once.gradients


def test_the_memory_that_an_optimiser_needs_depends_on_it() -> None:
    apollo = ("budget=luna_transformer_apollo", "optimizer._name=apollo")
    three_numbers = traced(case("softmax", SHAPE, *apollo)).optimizer
    two_numbers = traced(case("softmax")).optimizer
    assert three_numbers == pytest.approx(two_numbers * 3 / 2, rel=0.01)


def test_what_is_computed_from_ids_is_real_and_iterations_end() -> None:
    fakes = Fakes()
    aten = torch.ops.aten
    ids = torch.tensor([[3, 4, 1], [5, 1, 1]])
    padding = fakes(aten.eq.Scalar, (ids, 1), {})
    assert fakes(aten.sum.default, (padding,), {}).item() == 3
    number = fakes(aten.randn.default, ([3],), {"dtype": torch.float32})
    answers = [fakes(aten._local_scalar_dense.default, (number,), {}) for _ in range(2 * ROUNDS)]
    assert answers == [*[1.0] * (ROUNDS - 1), 0.0] * 2


def test_kernels_cannot_be_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQATTN_BACKEND", "triton")
    with pytest.raises(SeqAttnError, match="SEQATTN_BACKEND=torch"):
        Tracer(subject(case("softmax"), TYPES), torch.float32, CPU)


def test_a_criterion_that_needs_more_than_sentences_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def passes(step: Step, sample: dict[str, torch.Tensor]) -> None:
        sample["alignments"].sum()

    monkeypatch.setattr(Step, "passes", passes)
    with pytest.raises(SeqAttnError, match=r"'alignments'.*seqattn_label_smoothed"):
        Tracer(subject(case("softmax"), TYPES), torch.float32, CPU).trace(SHAPE)
