"""Guided alignment: its loss by hand, beside fairseq's, and what attention learns from it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from fairseq.logging import metrics
from fairseq.models.transformer_align import TransformerAlignModel, transformer_align
from torch import Tensor, nn

from seqattn_fairseq.criterions import alignment
from seqattn_fairseq.criterions.alignment import alignment_loss
from seqattn_fairseq.criterions.projection import repeated
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.variants.rela import RelaAttention
from tests.criterions import guided
from tests.criterions.support import (
    OURS,
    RDROP,
    assert_same,
    criterion,
    gradients,
    keep_double,
    model,
    sample,
)
from tests.support.baseline import stock_arguments
from tests.support.models import EOS, PAD, build, small_config, small_model, toy_dictionary

GUIDED = "seqattn_alignment"
EXACT = 1e-10
LINKS = torch.tensor([[2, 0], [3, 0], [5, 1], [6, 6], [5, 13], [4, 14]])
SHARES = torch.tensor([0.5, 0.5, 1.0, 1.0, 1.0, 1.0])


def linked(**options: Any) -> dict[str, Any]:
    """Return a batch with alignments; sources of 7 columns, targets of 6."""
    return {**sample(**options), "alignments": LINKS, "align_weights": SHARES}


def naive(rows_BTS: Tensor, links: Tensor, weights: Tensor) -> tuple[Tensor, float]:
    """Return the loss link by link, and what it is divided by in the log."""
    loss, count = rows_BTS.new_zeros(()), 0.0
    for (column, place), weight in zip(links.tolist(), weights.tolist(), strict=True):
        row = rows_BTS[place // rows_BTS.size(1), place % rows_BTS.size(1)]
        total = sum(row)
        if total != 0:
            loss = loss - weight * torch.log(row[column] / total + 1e-8)
            count += weight
    return loss, count


# ---- the loss of rows ---------------------------------------------------------------------------


def random_scores(seed: int = 0) -> Tensor:
    """Return (3, 6, 7) scores; rectified, they are no distributions: many zeros, null rows."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(3, 6, 7, generator=generator, dtype=torch.double)
    scores[0, 1] = scores[2, 2] = -1.0
    return scores.requires_grad_()


def random_links(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    links = torch.stack([torch.randint(n, (40,), generator=generator) for n in (7, 18)], 1)
    return links, torch.rand(40, generator=generator)


@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_are_those_of_the_naive_form(seed: int) -> None:
    links, weights = random_links(seed)
    results = []
    for form in (alignment_loss, naive):
        scores = random_scores(seed)
        loss, count = form(scores.relu(), links, weights.double())
        (gradient,) = torch.autograd.grad(loss, scores)
        results.append({"loss": loss.detach(), "gradient": gradient})
        results[-1]["count"] = torch.as_tensor(count, dtype=torch.double)
    assert_same(results[0], results[1], EXACT)


def test_null_rows_and_missed_links_have_finite_gradients() -> None:
    rows = torch.zeros(1, 3, 2, requires_grad=True)
    with torch.no_grad():
        rows[0, 1, 0] = 2.0
    links = torch.tensor([[0, 0], [1, 1], [0, 2]])
    loss, count = alignment_loss(rows, links, torch.ones(3))
    loss.backward()
    assert float(loss) == pytest.approx(-math.log(1e-8), rel=1e-6) and float(count) == 1.0
    assert rows.grad is not None and rows.grad.isfinite().all()
    assert rows.grad[0, [0, 2]].eq(0).all()


def test_the_magnitude_of_negative_weights_counts() -> None:
    """Some activations of rectified attention give them."""
    rows, (links, weights) = random_scores().detach().relu(), random_links()
    signs = torch.where(torch.arange(7) % 2 == 0, 1.0, -1.0)
    loss, _ = alignment_loss(rows * signs, links, weights)
    assert float(loss) == pytest.approx(float(naive(rows, links, weights)[0]), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    links, weights = random_links()
    rows = random_scores().detach().relu().to(dtype)
    loss, _ = alignment_loss(rows, links, weights)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(naive(rows.double(), links, weights)[0]), rel=1e-5)


# ---- the loss of models -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["softmax", "rela_g", "topk", "luna", "mega", "muse_simple"])
@pytest.mark.parametrize("left", [True, False])
def test_the_row_that_predicts_a_token_learns_from_its_links(kind: str, left: bool) -> None:
    """Batches are fairseq's own, with padding and links at every place."""
    network = model(kind)
    links = [torch.tensor(pairs) for pairs in ([[0, 0], [1, 0], [1, 2]], [[2, 1]], [[0, 0]])]
    rows = [torch.arange(4, 4 + n) for n in (3, 4, 2)]
    rows = [torch.cat([row, torch.tensor([EOS])]) for row in rows]
    pairs = guided.pair_dataset(
        [rows, rows[:1] + rows[2:] + rows[1:2]], links, left_pad_source=left
    )
    pairs.tgt, pairs.tgt_sizes = pairs.src, pairs.src_sizes
    (batch,) = guided.batches(pairs)
    score = criterion(GUIDED, toy_dictionary(), alignment_lambda=1.0, alignment_heads=2)
    loss, _, output = score(network, batch)
    base, _, _ = criterion(OURS, toy_dictionary())(network, batch)

    attention = network.attention_weights(**batch["net_input"])["cross"][0][:, :2].mean(dim=1)
    expected = 0.0
    for row, index in enumerate(batch["id"].tolist()):
        source = batch["net_input"]["src_tokens"][row]
        begin = int(source.ne(PAD).nonzero()[0])
        for i, j in links[index].tolist():
            same = sum(1 for link in links[index].tolist() if link[1] == j)
            weights = attention[row, j]
            if weights.sum() > 0:
                share = weights[begin + i] / weights.sum()
                expected -= math.log(float(share) + 1e-8) / same
    assert float(output["alignment_loss"]) == pytest.approx(expected, rel=1e-12)
    assert float(loss.detach() - base.detach()) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("kind", ["stock", "softmax", "rela_g", "topk", "luna", "dynamicconv"])
def test_gradients_of_parameters_are_those_of_the_naive_form(kind: str) -> None:
    network, batch = model(kind), linked()
    # fairseq's own model hands its attention on in float32
    tolerance = 1e-7 if kind == "stock" else EXACT
    loss, _, _ = criterion(GUIDED, toy_dictionary(), alignment_lambda=0.7)(network, batch)
    found = gradients(network, loss)
    base, _, _ = criterion(OURS, toy_dictionary())(network, batch)
    _, extra = network(**batch["net_input"], alignment_layer=0, alignment_heads=1)
    expected = gradients(network, base + 0.7 * naive(extra["attn"][0], LINKS, SHARES)[0])
    assert_same(found, expected, tolerance)


def aligning_model() -> Any:
    """Return fairseq's own model of guided alignment, in double precision."""
    torch.manual_seed(1)
    args = stock_arguments(small_config("softmax"))
    args.alignment_layer, args.alignment_heads = 1, 3
    transformer_align(args)
    task = type("Task", (), {"source_dictionary": toy_dictionary()})()
    task.target_dictionary = task.source_dictionary
    return TransformerAlignModel.build_model(args, task).double().eval()


STOCK_GUIDED = "label_smoothed_cross_entropy_with_alignment"


def test_the_loss_of_a_softmax_is_fairseqs(monkeypatch: pytest.MonkeyPatch) -> None:
    """fairseq takes the logarithm of the weight itself, without our 1e-8."""
    monkeypatch.setattr(alignment, "_LEAST_SHARE", 0.0)
    stock, found = criterion(STOCK_GUIDED, toy_dictionary()), []
    for form in (
        lambda rows: alignment_loss(rows, LINKS, SHARES)[0],
        lambda rows: stock.compute_alignment_loss(linked(), (None, {"attn": [rows]})),
    ):
        scores = random_scores()
        loss = form(scores.softmax(-1))
        (gradient,) = torch.autograd.grad(loss, scores)
        found.append({"loss": loss.detach(), "gradient": gradient})
    assert_same(found[0], found[1], EXACT)


def test_training_is_fairseqs(monkeypatch: pytest.MonkeyPatch) -> None:
    """fairseq's model makes its attention in float32, whose rows sum to one up to 1e-7."""
    keep_double(monkeypatch)
    network, batch, found = aligning_model(), linked(), []
    for name in (STOCK_GUIDED, GUIDED):
        score = criterion(name, toy_dictionary(), alignment_lambda=0.3, label_smoothing=0.1)
        loss, size, output = score(network, batch)
        told = {key: float(output[key]) for key in ("nll_loss", "alignment_loss")}
        found.append({"size": size, **told, "loss": loss.detach(), **gradients(network, loss)})
    assert_same(found[1], found[0], 1e-6)


@pytest.mark.parametrize("kind", ["softmax", "rela_g", "stock"])
def test_r_drop_is_added_to(kind: str) -> None:
    network = model(kind, dropout=0.2).train()
    options = {"rdrop_alpha": 2.0, "label_smoothing": 0.1}
    batch, losses = linked(), {}
    for name in (RDROP, GUIDED):
        torch.manual_seed(3)
        score = criterion(name, toy_dictionary(), **options)
        loss, _, losses[name] = score(network, batch)
        losses[name]["own"] = loss.detach()
    torch.manual_seed(3)
    _, extra = network(**repeated(batch["net_input"], 2), alignment_layer=0, alignment_heads=1)
    attention = extra["attn"][0].detach()
    both = [naive(rows, LINKS, SHARES) for rows in (attention[::2], attention[1::2])]
    added = 0.05 * (both[0][0] + both[1][0])  # both passes, as of the other terms
    torch.testing.assert_close(losses[GUIDED]["alignment_loss"], (both[0][0] + both[1][0]) / 2)
    assert float(losses[GUIDED]["alignment_weight"]) == (both[0][1] + both[1][1]) / 2
    torch.testing.assert_close(losses[GUIDED]["own"], losses[RDROP]["own"] + added)
    for key in ("nll_loss", "rdrop_kl_loss"):
        torch.testing.assert_close(losses[GUIDED][key], losses[RDROP][key])
    network.eval()
    _, _, alone = score(network, batch)
    assert "rdrop_kl_loss" not in alone and float(alone["alignment_weight"]) <= 5.0


@pytest.mark.parametrize("options", [{}, {"rdrop_alpha": 1.0}])
def test_without_links_it_is_the_loss_beneath(options: dict[str, float]) -> None:
    network = model("rela_g", dropout=0.2).train()
    values = []
    for name in (RDROP if options else OURS, GUIDED):
        torch.manual_seed(3)
        loss, size, output = criterion(name, toy_dictionary(), **options)(network, sample())
        output = {k: v for k, v in output.items() if not k.startswith("alignment_")}
        values.append({"size": size, **output, **gradients(network, loss)})
    assert_same(values[1], values[0], 0.0)


def test_without_links_no_weights_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_model("rela_g")
    layers: Any = network.decoder.layers
    asked: list[Any] = []
    original = RelaAttention.weights

    def counted(self: Any, *args: Any) -> Tensor:
        asked.append(self)
        return original(self, *args)

    monkeypatch.setattr(RelaAttention, "weights", counted)
    score = criterion(GUIDED, toy_dictionary())
    score(network, sample())
    assert asked == []
    score(network, linked())  # self-attention of the layer has weights, too
    assert asked == [layers[0].self_attn, layers[0].encoder_attn]


def test_all_batches_log_the_same_keys_of_tensors() -> None:
    """fairseq adds the values of ranks by key and device, so they must not depend on the batch."""
    score = criterion(GUIDED, toy_dictionary())
    outputs = [score(small_model("topk"), batch)[2] for batch in (sample(), linked())]
    assert outputs[0].keys() == outputs[1].keys()
    for output in outputs:
        assert isinstance(output["alignment_loss"], Tensor)
        assert isinstance(output["alignment_weight"], Tensor)


def test_the_metric_is_bits_a_linked_token() -> None:
    score = criterion(GUIDED, toy_dictionary())
    outputs = [score(small_model("softmax"), batch)[2] for batch in (linked(), sample(), linked())]
    with metrics.aggregate(new_root=True) as meters:
        type(score).reduce_metrics(outputs)
    total, weight = float(outputs[0]["alignment_loss"]), float(SHARES.sum())
    value = meters.get_smoothed_values()["alignment_loss"]
    assert value == pytest.approx(total / weight / math.log(2), abs=1e-3)
    fewer = {**outputs[0], "alignment_loss": torch.tensor(7.0), "alignment_weight": weight / 4}
    with metrics.aggregate(new_root=True) as meters:
        for output in (outputs[0], fewer):
            type(score).reduce_metrics([output])
    assert meters["alignment_loss"].avg == pytest.approx(
        (total + 7.0) / (weight * 1.25) / math.log(2), rel=1e-5
    )
    with metrics.aggregate(new_root=True) as meters:
        type(score).reduce_metrics(outputs[1:2])
    assert "alignment_loss" not in meters and "nll_loss" in meters


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alignment_lambda": -1.0}, r"--alignment-lambda -1.0 .* must be >= 0"),
        ({"alignment_lambda": math.nan}, r"--alignment-lambda nan .* must be >= 0"),
        ({"alignment_heads": 0}, r"--alignment-heads 0 .* must be >= 1"),
        ({"rdrop_alpha": -1.0}, r"--rdrop-alpha -1.0 .* must be >= 0"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SeqAttnError, match=message):
        criterion(GUIDED, toy_dictionary(), **options)


@pytest.mark.parametrize("layer", [-1, 2])
@pytest.mark.parametrize("kind", ["softmax", "stock"])
def test_layers_that_are_not_there_are_refused(kind: str, layer: int) -> None:
    score = criterion(GUIDED, toy_dictionary(), alignment_layer=layer)
    with pytest.raises(SeqAttnError, match=rf"--alignment-layer {layer} .* the layers 0 to 1"):
        score(model(kind), linked())


@pytest.mark.parametrize("kind", ["softmax", "stock"])
def test_layers_that_are_dropped_are_refused(kind: str) -> None:
    network = model(kind, decoder_layerdrop=0.1)
    with pytest.raises(SeqAttnError, match="--decoder-layerdrop"):
        criterion(GUIDED, toy_dictionary())(network, linked())


class Silent(nn.Module):
    """Gives logits and no attention."""

    def forward(self, src_tokens: Tensor, prev_output_tokens: Tensor, **_: Any) -> Any:
        return torch.zeros(*prev_output_tokens.shape, 23), self.extra

    def get_normalized_probs(self, net_output: Any, log_probs: bool) -> Any:
        return net_output[0].log_softmax(-1)


@pytest.mark.parametrize("extra", [None, {"attn": [None]}, {}, torch.zeros(3, 6, 7)])
def test_models_without_cross_attention_are_named(extra: Any) -> None:
    silent = Silent()
    silent.extra = extra
    score = criterion(GUIDED, toy_dictionary())
    score(silent, sample())
    with pytest.raises(SeqAttnError, match=r"seqattn_alignment: Silent returns no weights"):
        score(silent, linked())


# ---- what is learnt -----------------------------------------------------------------------------


def learner(variant: str) -> Any:
    torch.manual_seed(1)
    return build(variant, small_config(variant, dropout=0.0), guided.dictionary())


@pytest.mark.parametrize("variant", ["softmax", "rela_g", "topk", "luna"])
def test_the_alignment_error_falls(variant: str) -> None:
    network = learner(variant)
    before = guided.alignment_error(network)
    guided.train(network, 150, alignment_lambda=1.0)
    assert before > 0.75
    assert guided.alignment_error(network) < 0.55


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["softmax", "rela_g", "topk", "luna"])
def test_the_alignment_error_falls_because_of_the_loss(variant: str) -> None:
    """Reversing words; the same training without the loss leaves the head as good as unaligned."""
    errors = []
    for weight in (0.0, 3.0):
        network = learner(variant)
        guided.train(network, 600, reverse=True, alignment_lambda=weight)
        errors.append(guided.alignment_error(network, reverse=True))
    assert errors[1] < 0.35 and errors[1] < errors[0] - 0.2
