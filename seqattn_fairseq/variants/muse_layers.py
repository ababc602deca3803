"""The layers of ``muse_simple`` and ``muse``: one residual connection around parallel branches.

As every branch reads one input and ends in one sum, a layer keeps its projections as two big
matrices, one on the way in and one on the way out. (The authors' code has that form for a quick
model of its own, without several kernels and trained as such.)

Shapes: B batch, R rows (hypotheses), T length, S source length, C width, F feed-forward width,
H heads, d = C / H, K taps, N kernels, n new positions of a step, m positions before them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from fairseq import utils
from torch import Tensor, nn

from seqattn_fairseq.ops.convolution import tap_softmax
from seqattn_fairseq.ops.linear import linear
from seqattn_fairseq.ops.muse import multiscale_convolution, multiscale_step, taps_before
from seqattn_fairseq.ops.softmax import softmax_attention, softmax_weights
from seqattn_fairseq.transformer.attention import AttentionLog, Site, by_hypothesis, join_heads
from seqattn_fairseq.transformer.cache import KeyValueCache, Memory, MemoryCache, TwoSidedCache
from seqattn_fairseq.transformer.config import (
    EncoderDecoderConfig,
    check_positive,
    check_probability,
    stack_config,
)
from seqattn_fairseq.transformer.dropout import Dropout, active_rate
from seqattn_fairseq.transformer.linear import Linear
from seqattn_fairseq.transformer.norms import make_norm
from seqattn_fairseq.transformer.padding import on_real_rows, put_back, real_rows, taken

# keys and values of the target, which the convolution reads, too, and those of the memory
MuseCache = TwoSidedCache[KeyValueCache, MemoryCache]


class MultiScaleConvolution(nn.Module):
    """Dynamic convolutions of several widths, whose taps the convolved values predict.

    Parameters: ``tap_proj.weight`` (H sum of K_i, C), kernel by kernel, head by head; ``gate`` (N,)
    if several kernels are gated.

    Args:
        dim: C.
        heads: H; the channels of a head share their taps.
        kernel_sizes: K_i, any from 1; an even one reaches one position further ahead than back.
        causal: no tap lies ahead.
        gated: add the kernels' outputs up, weighed by a softmax; else they stand side by side.
        dropout: DropConnect of the normalised taps.
        padding_leaks: the values at padding are convolved like any other, as in the authors' code.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        kernel_sizes: Sequence[int],
        causal: bool,
        gated: bool = True,
        dropout: float = 0.0,
        padding_leaks: bool = False,
    ) -> None:
        super().__init__()
        count = len(kernel_sizes)
        self.heads = heads
        self.kernel_sizes = tuple(kernel_sizes)
        self.lefts = tuple(taps_before(size, causal) for size in kernel_sizes)
        self.padding_leaks = padding_leaks
        self.dropout_module = Dropout(dropout, module_name=type(self).__name__)
        # torch's own initialisation, as in the release: uniform in +-C^-0.5
        self.tap_proj = Linear(dim, heads * sum(kernel_sizes), bias=False)
        several = gated and count > 1
        self.gate = nn.Parameter(torch.full((count,), 1 / count)) if several else None
        self.outputs = 1 if several else count
        self.reach = max(kernel_sizes) - 1

    def _taps(self, v_BTC: Tensor) -> list[Tensor]:
        # as a matrix: the values are columns of a wider one, which a product of matrices reads as
        # they are and one of batches would copy, or do row by row
        logits = self.tap_proj(v_BTC.flatten(0, 1)).unflatten(0, v_BTC.shape[:2])
        parts = logits.split([self.heads * size for size in self.kernel_sizes], dim=-1)
        taps = [tap_softmax(part.unflatten(-1, (self.heads, -1))) for part in parts]
        return [self.dropout_module(t) for t in taps]

    def forward(self, v_BTC: Tensor, padding_mask_BT: Tensor | None) -> Tensor:
        """Return (B, T, C), or (B, T, N C) side by side."""
        if padding_mask_BT is not None and not self.padding_leaks:
            v_BTC = v_BTC.masked_fill(padding_mask_BT.unsqueeze(-1), 0.0)
        return multiscale_convolution(v_BTC, self._taps(v_BTC), self.lefts, self.gate)

    def step(self, past_RmC: Tensor, v_RnC: Tensor) -> Tensor:
        """Return the next n positions; ``past_RmC`` holds ``reach`` of those before, or all."""
        return multiscale_step(past_RmC, v_RnC, self._taps(v_RnC), self.gate)


class BranchSum(nn.Module):
    """The output projections of all branches: one matrix, and their outputs added up.

    Parameters: ``weight`` (C, sum of widths), column by column what the branches hand in; ``bias``
    (branches, C). Where dropout is on, every branch has a mask of its own.

    Args:
        branches: for each branch the widths of what it hands in.
        dim: C.
        limits: half-width of each branch's uniform initialisation; biases start at zero.
        dropout: of each branch's output.
    """

    def __init__(
        self,
        branches: Sequence[int],
        dim: int,
        limits: Sequence[float],
        dropout: Dropout,
    ) -> None:
        super().__init__()
        self.widths = list(branches)
        self.dropout_module = dropout
        parts = [
            torch.empty(dim, width).uniform_(-limit, limit)
            for width, limit in zip(branches, limits, strict=True)
        ]
        self.weight = nn.Parameter(torch.cat(parts, dim=1))
        self.bias = nn.Parameter(torch.zeros(len(parts), dim))

    def forward(self, branches: Sequence[Sequence[Tensor]]) -> Tensor:
        """Return (B, T, C) of what each branch hands in, in one tensor (B, T, width) or several."""
        if not active_rate(self.dropout_module):
            joined = torch.cat([part for parts in branches for part in parts], dim=-1)
            return linear(joined, self.weight, self.bias.sum(0))
        weights = self.weight.split(self.widths, dim=1)
        outputs = [
            self.dropout_module(linear(torch.cat(tuple(parts), dim=-1), weight, bias))
            for parts, weight, bias in zip(branches, weights, self.bias.unbind(), strict=True)
        ]
        total: Tensor = sum(outputs[1:], outputs[0])
        return total


class ParallelLayer(nn.Module):
    """What both sides share: big matrices, self-attention, convolution, feed-forward, residual.

    Parameters: ``in_proj`` (C to 3 C + [C] + F: query, key, value, the decoder's query of the
    memory, feed-forward), ``out_proj`` (:class:`BranchSum`: attention and convolutions, the
    decoder's cross-attention, feed-forward), ``convolution``, ``layer_norm``. They start as in the
    release (its ``--init_method km``).

    Args:
        cfg: the shared options.
        side: "encoder" or "decoder".
        convolution: what stands beside the self-attention; None for muse_simple.
        input_dropout: dropout of the input of self-attention and convolutions alone.
    """

    def __init__(
        self,
        cfg: EncoderDecoderConfig,
        side: str,
        convolution: MultiScaleConvolution | None,
        input_dropout: float,
    ) -> None:
        super().__init__()
        stack, name = stack_config(cfg, side), type(self).__name__
        check_positive(stack, side, "ffn_embed_dim")
        check_probability("input_dropout", input_dropout)
        dim, ffn = stack.embed_dim, stack.ffn_embed_dim
        cross = [dim] if side == "decoder" else []
        self.heads = stack.attention_heads
        self.scaling = (dim // self.heads) ** -0.5
        self.normalize_before = stack.normalize_before
        self.site = Site.DECODER_SELF if cross else Site.ENCODER_SELF
        self.convolution = convolution
        self.input_dropout_module = Dropout(input_dropout, module_name=name)
        self.attention_dropout_module = Dropout(cfg.attention_dropout, module_name=name)
        self.activation_dropout_module = Dropout(cfg.activation_dropout, module_name=name)
        self.activation_fn: Callable[[Tensor], Tensor] = utils.get_activation_fn(cfg.activation_fn)
        self.widths = [dim, dim, dim, *cross, ffn]
        self.in_proj = _zero_bias(Linear(dim, sum(self.widths)))
        mixed = dim * (1 if convolution is None else 1 + convolution.outputs)
        limits = [math.sqrt(3 / width) for width in (mixed, *cross)] + [ffn**-0.5]
        dropout = Dropout(cfg.dropout, module_name=name)
        self.out_proj = BranchSum([mixed, *cross, ffn], dim, limits, dropout)
        self.layer_norm = make_norm(cfg, dim)

    def residual(self, x_BTC: Tensor, branches: Callable[[Tensor], Tensor]) -> Tensor:
        """Return x + branches(x), normalised before the branches or after the sum."""
        if self.normalize_before:
            return x_BTC + branches(self.layer_norm(x_BTC))
        out: Tensor = self.layer_norm(x_BTC + branches(x_BTC))
        return out

    def inputs(self, x_BTC: Tensor) -> Sequence[Tensor]:
        """Return what the branches start from: query, key, value, [memory's query], hidden."""
        dropped = self.input_dropout_module(x_BTC)
        if dropped is x_BTC:
            parts: tuple[Tensor, ...] = self.in_proj(x_BTC).split(self.widths, dim=-1)
            return parts
        mixed, other = self.widths[:3], self.widths[3:]
        weights = self.in_proj.weight.split([sum(mixed), sum(other)])
        biases = self.in_proj.bias.split([sum(mixed), sum(other)])
        first = linear(dropped, weights[0], biases[0]).split(mixed, dim=-1)
        return *first, *linear(x_BTC, weights[1], biases[1]).split(other, dim=-1)

    def real_rows(self, padding_mask_BT: Tensor | None) -> Tensor | None:
        """Return the real positions if nothing else is read; see :mod:`transformer.padding`."""
        if self.convolution is not None and self.convolution.padding_leaks:
            return None
        return real_rows(self, padding_mask_BT)

    def split_heads(self, x_BTC: Tensor) -> Tensor:
        """Return (B, H, T, d)."""
        heads: Tensor = x_BTC.unflatten(2, (self.heads, -1)).transpose(1, 2)
        return heads

    def attended(
        self,
        q_BTC: Tensor,
        keys: tuple[Tensor, Tensor],
        padding_mask_BS: Tensor | None,
        site: Site,
        log: AttentionLog | None,
    ) -> Tensor:
        """Return the joined heads (B, T, C) of attention to keys and values, (B, H, S, d) each."""
        q, causal = self.split_heads(q_BTC * self.scaling), site is Site.DECODER_SELF
        if log is not None:
            log.add(site, softmax_weights(q, keys[0], padding_mask_BS, causal))
        rate = active_rate(self.attention_dropout_module)
        return join_heads(softmax_attention(q, *keys, padding_mask_BS, causal, rate))

    def mixed(
        self,
        q_BTC: Tensor,
        k_BTC: Tensor,
        v_BTC: Tensor,
        padding_mask_BT: Tensor | None,
        log: AttentionLog | None,
    ) -> list[Tensor]:
        """Return self-attention and, beside it, the convolution of its values."""
        keys = (self.split_heads(k_BTC), self.split_heads(v_BTC))
        out = [self.attended(q_BTC, keys, padding_mask_BT, self.site, log)]
        if self.convolution is not None:
            out.append(self.convolution(v_BTC, padding_mask_BT))
        return out

    def feed_forward(self, hidden_BTF: Tensor) -> Tensor:
        """Return the feed-forward branch before its output projection."""
        out: Tensor = self.activation_dropout_module(self.activation_fn(hidden_BTF))
        return out


def _zero_bias(made: Linear) -> Linear:
    # weights as torch has them: uniform in +-(fan in)^-0.5
    nn.init.zeros_(made.bias)
    return made


class MuseEncoderLayer(ParallelLayer):
    """Self-attention, convolution and feed-forward in parallel."""

    def __init__(
        self,
        cfg: EncoderDecoderConfig,
        convolution: MultiScaleConvolution | None = None,
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__(cfg, "encoder", convolution, input_dropout)

    def branches(
        self, x_BTC: Tensor, padding_mask_BT: Tensor | None, log: AttentionLog | None = None
    ) -> Tensor:
        """Return the sum of all branches of one input."""
        rows = self.real_rows(padding_mask_BT)
        *parts, hidden = self.inputs(taken(x_BTC, rows))
        q, k, v = (put_back(part, rows, x_BTC) for part in parts)
        mixed = [taken(y, rows) for y in self.mixed(q, k, v, padding_mask_BT, log)]
        out = self.out_proj([mixed, [self.feed_forward(hidden)]])
        return put_back(out, rows, x_BTC)

    def forward(self, memory: Memory, log: AttentionLog | None = None) -> Memory:
        """See :class:`EncoderBlock`."""
        mask = memory.padding_mask_BS
        x_BSC = self.residual(memory.x_BSC, lambda x: self.branches(x, mask, log))
        return replace(memory, x_BSC=x_BSC)


class MuseDecoderLayer(ParallelLayer):
    """Causal self-attention and convolution, cross-attention and feed-forward in parallel.

    A further parameter is ``memory_proj``, the keys and values of the memory.
    """

    def __init__(
        self,
        cfg: EncoderDecoderConfig,
        convolution: MultiScaleConvolution | None = None,
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__(cfg, "decoder", convolution, input_dropout)
        dim = cfg.decoder_embed_dim
        self.memory_proj = _zero_bias(Linear(cfg.encoder_embed_dim, 2 * dim))

    def branches(
        self,
        x_BTC: Tensor,
        padding_mask_BT: Tensor | None,
        cross: MemoryCache,
        log: AttentionLog | None = None,
    ) -> Tensor:
        """Return the sum of all branches of one input."""
        rows = self.real_rows(padding_mask_BT)
        *parts, hidden = self.inputs(taken(x_BTC, rows))
        q, k, v, memory_q = (put_back(part, rows, x_BTC) for part in parts)
        mixed = self.mixed(q, k, v, padding_mask_BT, log)
        read = self._cross(memory_q, cross, log)
        mixed, read = [taken(y, rows) for y in mixed], taken(read, rows)
        out = self.out_proj([mixed, [read], [self.feed_forward(hidden)]])
        return put_back(out, rows, x_BTC)

    def branches_step(
        self, x_RnC: Tensor, cache: MuseCache, log: AttentionLog | None = None
    ) -> Tensor:
        """Return the sum of all branches at the next n positions, and append them to the cache."""
        q, k, v, memory_q, hidden = self.inputs(x_RnC)
        before = cache.target.length
        keys = cache.target.append(self.split_heads(k), self.split_heads(v))
        mixed = [self.attended(q, keys, None, self.site, log)]
        if self.convolution is not None:
            # what the convolution remembers is the end of the values that attention keeps anyway
            first = max(0, before - self.convolution.reach)
            mixed.append(self.convolution.step(join_heads(keys[1][:, :, first:before]), v))
        read = self._cross(memory_q, cache.cross, log)
        out: Tensor = self.out_proj([mixed, [read], [self.feed_forward(hidden)]])
        return out

    def _cross(self, q_RnC: Tensor, cache: MemoryCache, log: AttentionLog | None) -> Tensor:
        # positions do not see each other here: the beams of a sentence are just more queries
        q = q_RnC.reshape(cache.key_BHSd.size(0), -1, q_RnC.size(-1))
        keys = (cache.key_BHSd, cache.value_BHSd)
        log = log and log.through(lambda weights: by_hypothesis(weights, q_RnC.size(1)))
        out = self.attended(q, keys, cache.padding_mask_BS, Site.CROSS, log)
        return out.view(q_RnC.shape)

    def memory_cache(self, memory: Memory) -> MemoryCache:
        """Return keys and values of the memory."""
        mask = memory.padding_mask_BS
        projected = on_real_rows(self, self.memory_proj, memory.x_BSC, mask)
        k, v = projected.chunk(2, dim=-1)
        return MemoryCache(self.split_heads(k), self.split_heads(v), memory.padding_mask_BS)

    def forward(
        self,
        x_BTC: Tensor,
        padding_mask_BT: Tensor | None,
        memory: Memory,
        log: AttentionLog | None = None,
    ) -> tuple[Tensor, Memory]:
        """See :class:`DecoderBlock`; the memory is handed on as it is."""
        cross = self.memory_cache(memory)
        out = self.residual(x_BTC, lambda x: self.branches(x, padding_mask_BT, cross, log))
        return out, memory

    def new_cache(self, memory: Memory) -> tuple[MuseCache, Memory]:
        """See :class:`DecoderBlock`."""
        return TwoSidedCache(KeyValueCache(), self.memory_cache(memory)), memory

    def step(self, x_RnC: Tensor, cache: MuseCache, log: AttentionLog | None = None) -> Tensor:
        """Return the output (R, n, C) for the next n target positions."""
        return self.residual(x_RnC, lambda x: self.branches_step(x, cache, log))
