"""One definition, several entrances: fast form, reference, steps, precisions all agree."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.transformer.cache import Memory
from seqattn_fairseq.transformer.registry import get_variant
from tests.support.models import batch, named, place, shifted, small_config, small_model

SOURCE, TARGET = [7, 5, 1, 3], [6, 3, 5, 1]


def loss_and_gradients(model, source, target):
    model.zero_grad()
    torch.manual_seed(5)
    logits, _ = model(source, None, target)
    (logits * torch.randn_like(logits)).sum().backward()
    return logits, {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@pytest.mark.parametrize("pre_norm", [True, False], ids=["pre", "post"])
def test_fast_form_equals_reference(variant, left, pre_norm):
    norm = {"encoder_normalize_before": pre_norm, "decoder_normalize_before": pre_norm}
    model = small_model(variant, **norm).double()
    source, target = batch(SOURCE, left), shifted(TARGET)
    fast, fast_grads = loss_and_gradients(model, source, target)
    with backend("reference"):
        slow, slow_grads = loss_and_gradients(model, source, target)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
    for name, grad in slow_grads.items():
        torch.testing.assert_close(fast_grads[name], grad, rtol=1e-8, atol=1e-8, msg=name)


def layers(variant, **options):
    sizes = {"embed_dim": 4, "ffn_embed_dim": 6, "attention_heads": 2}
    small = {f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in sizes.items()}
    cfg = small_config(variant, **{**small, "dropout": 0.0, **options})
    torch.manual_seed(3)
    found = get_variant(named(variant)[0])
    sides = found.encoder_and_decoder(cfg)
    make_companion = sides[0].companion or sides[1].companion
    companion = None if make_companion is None else make_companion(cfg, True).eval().double()
    made = (found.encoder_layer(cfg, place()), found.decoder_layer(cfg, place()))
    return *(layer.eval().double() for layer in made), companion


def memory_of(x, mask, companion):
    memory = Memory(x, mask)
    if companion is None:
        return memory
    return replace(memory, companion=companion.start(memory))


def tensors_of(memory):
    companion = memory.companion
    return memory.x_BSC if companion is None else (memory.x_BSC, companion.x_BSC)


def test_gradcheck(variant):
    encoder_layer, decoder_layer, companion = layers(variant)
    torch.manual_seed(4)
    x = torch.randn(2, 3, 4, dtype=torch.double, requires_grad=True)
    memory = torch.randn(2, 5, 4, dtype=torch.double, requires_grad=True)
    mask = torch.tensor([[False, False, True], [False, False, False]])
    hidden = torch.zeros(2, 5, dtype=torch.bool)
    hidden[0, :2] = True

    def encoded(x):
        return tensors_of(encoder_layer(memory_of(x, mask, companion)))

    def decoded(x, m):
        out, after = decoder_layer(x, None, memory_of(m, hidden, companion))
        return (out, tensors_of(after)[1]) if after.companion else out

    assert torch.autograd.gradcheck(encoded, (x,), atol=1e-5)
    assert torch.autograd.gradcheck(decoded, (x, memory), atol=1e-5)


def step_features(decoder, tokens, state, sizes):
    steps = [decoder.step(chunk, state) for chunk in tokens.split(sizes, dim=1)]
    return torch.cat(steps, dim=1)


@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_steps_equal_full_pass(variant, size, left):
    model = small_model(variant).double()
    with torch.no_grad():
        memory = model.encoder.encode(batch(SOURCE, left))
        tokens = shifted([40] * 4)  # longer than the first buffers of a cache
        full, _ = model.decoder.decode(tokens, memory)
        stepped = step_features(model.decoder, tokens, model.decoder.start(memory), size)
    torch.testing.assert_close(stepped, full, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "order",
    [
        pytest.param([1, 1, 0, 5, 3, 4], id="within sentences"),
        pytest.param([3, 4, 5], id="a sentence finished"),
        pytest.param([5, 0, 3, 3, 1, 2], id="across sentences"),
        pytest.param([4, 0, 2, 1], id="ragged"),
        pytest.param([0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5], id="more beams"),
    ],
)
def test_reordered_steps_equal_full_pass(variant, order):
    """Three hypotheses a sentence share its memory, whatever becomes of them."""
    model = small_model(variant).double()
    decoder, order = model.decoder, torch.tensor(order)
    sentence = torch.tensor([0, 0, 0, 1, 1, 1])
    with torch.no_grad():
        memory = model.encoder.encode(batch([7, 4]))
        before, after = shifted([4] * 6), shifted([3] * len(order), seed=9)
        state = decoder.start(memory, sentence)
        decoder.step(before, state)
        state.reorder(order)
        after_steps = step_features(decoder, after, state, 1)

        tokens = torch.cat([before[order], after], dim=1)
        full, _ = decoder.decode(tokens, memory.select(sentence[order]))
    torch.testing.assert_close(after_steps, full[:, 4:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_low_precision_errs_at_most_twice_plain_torch(variant, dtype):
    exact = small_model(variant).double()
    low = copy.deepcopy(exact).to(dtype)
    source, target = batch(SOURCE), shifted(TARGET)
    real = target.ne(1)
    with torch.no_grad():
        truth = exact(source, None, target)[0][real]
        error = (low(source, None, target)[0][real].double() - truth).abs().max()
        with backend("reference"):
            plain = (low(source, None, target)[0][real].double() - truth).abs().max()
    assert 0 < error <= 2 * plain


@pytest.mark.parametrize(
    ("training", "padded"),
    [(True, False), (True, True), (False, False)],
    ids=["train", "train padded", "eval"],
)
def test_layers_compile_whole(variant, training, padded):
    encoder_layer, decoder_layer, companion = layers(variant)
    torch.manual_seed(1)
    x, context = torch.randn(2, 2, 5, 4, dtype=torch.double).unbind(0)
    mask = torch.tensor([[False] * 5, [True] * 2 + [False] * 3]) if padded else None
    memory = memory_of(context, mask, companion)

    def read(memory):
        # nobody reads what training makes of padding: eager layers leave it out, compiled ones not
        return tensors_of(
            replace(memory, x_BSC=memory.x_BSC if mask is None else memory.x_BSC[~mask])
        )

    def encoded(layer):
        return read(layer(memory))

    def decoded(layer):
        out, after = layer(x, mask, memory)
        return out if mask is None else out[~mask], read(after)

    torch.compiler.reset()  # torch compiles shared code for a few variants only, then gives up
    for layer, run in ((encoder_layer, encoded), (decoder_layer, decoded)):
        layer.train(training)
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(run(compiled), run(layer))
