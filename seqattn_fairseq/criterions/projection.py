"""Projection and loss inside the model's own forward pass.

Whoever wraps a model for data-parallel training must see every parameter used within ``forward``;
a criterion that projected afterwards would use the output projection behind the wrapper's back.
For the time of one call the decoder's ``output_layer`` therefore goes on to the loss.

Shapes: K copies of the batch, B batch, T target length, C width.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fairseq.models.transformer import TransformerDecoderBase
from torch import Tensor, nn

from seqattn_fairseq.criterions.attention_metrics import unwrapped
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.ops.cross_entropy import (
    LossOptions,
    LossSums,
    log_prob_sums,
    projected_cross_entropy,
)
from seqattn_fairseq.transformer.decoder import Decoder
from seqattn_fairseq.transformer.linear import Linear

logger = logging.getLogger(__name__)

# Decoders whose last step is output_layer, and whose output_layer is a product with one matrix.
_PLAIN = tuple((cls.forward, cls.output_layer) for cls in (Decoder, TransformerDecoderBase))
_PRODUCTS = (Linear.forward, nn.Linear.forward)


def score(
    model: nn.Module,
    net_input: Mapping[str, Any],
    target_BT: Tensor,
    options: LossOptions,
    copies: int = 1,
    prefix: int = 0,
) -> tuple[LossSums, dict[str, Any]]:
    """Run a model on a batch; return the sums of its loss and what else the model returned.

    Args:
        model: any of fairseq's models of a target sentence, maybe wrapped.
        net_input: its arguments.
        target_BT: target ids.
        options: what is computed.
        copies: the batch goes through the model that many times, in one pass; the copies of a
            sentence are rows that follow one another.
        prefix: number of target positions at the start that do not count.

    Raises:
        SeqAttnError: the model has an adaptive softmax.
    """
    inputs = repeated(net_input, copies)
    target_N = target_BT[:, prefix:].flatten()

    def by_copy(values_MTX: Tensor) -> Tensor:
        values_KBTX: Tensor = values_MTX[:, prefix:].unflatten(0, (-1, copies)).transpose(0, 1)
        return values_KBTX.reshape(copies, -1, values_MTX.size(-1))

    decoder = _plain_decoder(unwrapped(model))
    if decoder is None:
        net_output = model(**inputs)
        lprobs = model.get_normalized_probs(net_output, log_probs=True)  # type: ignore[operator]
        return log_prob_sums(by_copy(lprobs), target_N, options), net_output[1]

    def loss(features: Tensor) -> tuple[Tensor, ...]:
        matrix = decoder.output_projection
        return tuple(
            projected_cross_entropy(
                by_copy(features), matrix.weight, matrix.bias, target_N, options
            )
        )

    with _output_layer(decoder, loss):
        sums, extra = model(**inputs)
    return LossSums(*sums), extra


def repeated(net_input: Mapping[str, Any], copies: int) -> dict[str, Any]:
    """Return a model's arguments with every row of its tensors repeated.

    Row by row, so that sources stay sorted by length, as fairseq's LSTM needs them.
    """
    if copies == 1:
        return dict(net_input)
    return {
        name: value.repeat_interleave(copies, dim=0) if isinstance(value, Tensor) else value
        for name, value in net_input.items()
    }


@contextmanager
def _output_layer(decoder: nn.Module, function: Callable[[Tensor], Any]) -> Iterator[None]:
    """Let a decoder end with ``function`` within a ``with`` block."""
    vars(decoder)["output_layer"] = function
    try:
        yield
    finally:
        del vars(decoder)["output_layer"]


def _plain_decoder(model: nn.Module) -> Any:
    """Return the decoder if its output is a product with one matrix, else None."""
    decoder = getattr(model, "decoder", None)
    if getattr(decoder, "adaptive_softmax", None) is not None:
        raise SeqAttnError(
            "this criterion cannot score an adaptive softmax; leave out --adaptive-softmax-cutoff, "
            "or train with --criterion adaptive_loss"
        )
    last_steps = (
        getattr(type(decoder), "forward", None),
        getattr(type(decoder), "output_layer", 0),
    )
    projection = getattr(decoder, "output_projection", None)
    plain = last_steps in _PLAIN and "output_layer" not in vars(decoder)
    if plain and getattr(type(projection), "forward", None) in _PRODUCTS:
        return decoder
    _say_that_logits_are_made(type(model).__name__)
    return None


@functools.cache
def _say_that_logits_are_made(name: str) -> None:
    logger.info(f"{name} projects in its own way: all logits of a batch are held in memory")
