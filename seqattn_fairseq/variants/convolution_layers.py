"""The convolutions of Wu et al. 2019 as modules, and the layers around them.

Shapes: B batch, R rows (hypotheses), T length, n new positions, C width, c convolved channels, H
heads, K taps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqattn_fairseq.ops.convolution import (
    band_matrix,
    convolution_step,
    dynamic_convolution,
    lightweight_convolution,
    tap_softmax,
    taps_outside,
)
from seqattn_fairseq.transformer.attention import AttentionLog, Site
from seqattn_fairseq.transformer.cache import Memory, MemoryCache, TwoSidedCache
from seqattn_fairseq.transformer.config import EncoderDecoderConfig
from seqattn_fairseq.transformer.dropout import Dropout, active_rate
from seqattn_fairseq.transformer.layers import ResidualLayer
from seqattn_fairseq.transformer.linear import Linear
from seqattn_fairseq.transformer.norms import make_norm
from seqattn_fairseq.transformer.padding import on_real_rows
from seqattn_fairseq.variants.softmax import make_softmax


@dataclass(frozen=True)
class TapRules:
    """What becomes of the weights that a convolution learns or predicts.

    Attributes:
        softmax: softmax over the K taps; without it they are used as they are.
        dropout: DropConnect: probability of dropping a tap, after the softmax, once for each
            sentence, position and head.
        shared_dropout: draw once for all sentences and positions (LightConv only).
        renormalise: softmax over those taps only that fall on real positions.
        short_softmax: with fewer positions than taps, a causal whole pass softmaxes over the last
            T taps only (DynamicConv only); a step does not.
    """

    softmax: bool = True
    dropout: float = 0.0
    shared_dropout: bool = False
    renormalise: bool = False
    short_softmax: bool = False


@dataclass
class ConvolutionState:
    """What the convolution of the next position reads of each hypothesis.

    Attributes:
        window_RmC: the last K - 1 positions, zeros before the first; None before any.
        length: positions so far.
    """

    window_RmC: Tensor | None = None
    length: int = 0

    def reorder(self, order_R: Tensor) -> None:
        """Let row r continue the old row ``order_R[r]``."""
        if self.window_RmC is not None:
            self.window_RmC = self.window_RmC.index_select(0, order_R)


class Convolution(nn.Module):
    """Depthwise convolution with taps per head; the subclasses say where the taps come from.

    Args:
        num_heads: H; divides the channels.
        kernel_size: K.
        left: taps before the current position; K - 1 makes it causal.
        rules: what becomes of the weights.
    """

    conv_bias: nn.Parameter | None

    def __init__(self, num_heads: int, kernel_size: int, left: int, rules: TapRules) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.left = left
        self.rules = rules
        self.dropout_module = Dropout(rules.dropout, module_name=type(self).__name__)

    def logits(self, x_BTC: Tensor) -> Tensor:
        """Return the weights before the softmax, (B, T, H, K), or (H, K) for all positions."""
        raise NotImplementedError(f"{type(self).__name__} does not define logits()")

    def forward(self, x_BTC: Tensor, padding_mask_BT: Tensor | None = None) -> Tensor:
        """Return (B, T, c) for whole sequences, zero at padding."""
        return self.convolve(x_BTC, *self.taps(x_BTC, padding_mask_BT))

    def taps(self, x_BTC: Tensor, padding_mask_BT: Tensor | None = None) -> tuple[Tensor, int]:
        """Return the taps before dropout, (B or 1, T, H, K) or (H, K), and how many are left."""
        logits, left, length = self.logits(x_BTC), self.left, x_BTC.size(1)
        if self.rules.short_softmax and length <= left == self.kernel_size - 1:
            logits, left = logits[..., -length:], length - 1
        hidden = None
        if self.rules.renormalise:
            size = logits.size(-1)
            hidden = taps_outside(length, size, left, padding_mask_BT, x_BTC.device)
        return self._normalised(logits, hidden), left

    def convolve(self, x_BTC: Tensor, taps: Tensor, left: int) -> Tensor:
        """Return the convolution of x with the taps, of which some are dropped in training."""
        taps = self._dropped(taps, x_BTC)
        convolution = lightweight_convolution if taps.dim() == 2 else dynamic_convolution
        return self._biased(convolution(x_BTC, taps, left))

    def step(
        self,
        x_RnC: Tensor,
        state: ConvolutionState,
        record: Callable[[Tensor, Tensor], None] | None = None,
        query_RnC: Tensor | None = None,
    ) -> Tensor:
        """Return (R, n, c) for the next n positions and advance the state; causal only.

        Args:
            x_RnC: what is convolved.
            state: the positions before.
            record: receives the (R, H, n, length) weights of all positions so far, and which of
                them the kernel reaches.
            query_RnC: what the taps are predicted from, if not x.
        """
        size, end = self.kernel_size, state.length + x_RnC.size(1)
        hidden = None
        if self.rules.renormalise:
            hidden = taps_outside(end, size, size - 1, None, x_RnC.device)[:, state.length :]
        logits = self.logits(x_RnC if query_RnC is None else query_RnC)
        taps = self._normalised(logits, hidden)
        if record is not None:
            reach = self._stepped_weights(torch.ones_like(taps), x_RnC, end).bool()
            record(self._stepped_weights(taps, x_RnC, end), reach)
        window = x_RnC[:, :0] if state.window_RmC is None else state.window_RmC
        out, state.window_RmC = convolution_step(window, x_RnC, self._dropped(taps, x_RnC))
        state.length = end
        return self._biased(out)

    def weights(self, x_BTC: Tensor, taps: Tensor, left: int, mask_BT: Tensor | None) -> Tensor:
        """Return the taps as (B, H, T, T) weights of positions; padding weighs nothing."""
        band = band_matrix(self._everywhere(taps, x_BTC), left)
        return band if mask_BT is None else band.masked_fill(mask_BT[:, None, None], 0.0)

    def reach(self, x_BTC: Tensor, taps: Tensor, left: int) -> Tensor:
        """Return (1, H, T, T), True where a tap meets a position."""
        return self.weights(x_BTC[:1], torch.ones_like(taps[:1]), left, None).bool()

    def _stepped_weights(self, taps: Tensor, x_RnC: Tensor, end: int) -> Tensor:
        around = F.pad(self._everywhere(taps, x_RnC), (0, 0, 0, 0, self.kernel_size - 1, 0))
        band = band_matrix(around, self.kernel_size - 1)[:, :, self.kernel_size - 1 :]
        return F.pad(band, (end - band.size(-1), 0))

    def _everywhere(self, taps: Tensor, x_BTC: Tensor) -> Tensor:
        return taps.expand(*x_BTC.shape[:2], -1, -1)

    def _normalised(self, logits: Tensor, hidden_BTK: Tensor | None) -> Tensor:
        return tap_softmax(logits, hidden_BTK) if self.rules.softmax else logits

    def _dropped(self, taps: Tensor, x_BTC: Tensor) -> Tensor:
        if active_rate(self.dropout_module) > 0 and not self.rules.shared_dropout:
            taps = self._everywhere(taps, x_BTC)
        dropped: Tensor = self.dropout_module(taps)
        return dropped

    def _biased(self, out: Tensor) -> Tensor:
        return out if self.conv_bias is None else out + self.conv_bias


class LightweightConvolution(Convolution):
    """LightConv: the taps are learned, the same at every position.

    Parameters: ``weight`` (H, K), and ``conv_bias`` (c,) if asked for. The weights start uniform
    as Glorot's rule has it for the official (H, 1, K).
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        kernel_size: int,
        left: int,
        rules: TapRules,
        conv_bias: bool = False,
    ) -> None:
        super().__init__(num_heads, kernel_size, left, rules)
        self.weight = nn.Parameter(torch.empty(num_heads, kernel_size))
        nn.init.xavier_uniform_(self.weight.data.unsqueeze(1))
        self.conv_bias = nn.Parameter(torch.zeros(channels)) if conv_bias else None

    def logits(self, x_BTC: Tensor) -> Tensor:
        """Return the weights (H, K)."""
        return self.weight


class DynamicConvolution(Convolution):
    """DynamicConv: the taps of a position are a linear map of it.

    Parameters: ``weight_linear``, rows h K + k for tap k of head h, initialised as torch's Linear,
    and ``conv_bias`` (c,) if asked for.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        kernel_size: int,
        left: int,
        rules: TapRules,
        bias: bool = False,
        conv_bias: bool = False,
        query_dim: int | None = None,
    ) -> None:
        super().__init__(num_heads, kernel_size, left, rules)
        query_dim = channels if query_dim is None else query_dim
        self.weight_linear = Linear(query_dim, num_heads * kernel_size, bias)
        self.conv_bias = nn.Parameter(torch.zeros(channels)) if conv_bias else None

    def logits(self, x_BTC: Tensor) -> Tensor:
        """Return the predicted weights (B, T, H, K)."""
        predicted = self.weight_linear(x_BTC)
        logits: Tensor = predicted.unflatten(-1, (self.num_heads, self.kernel_size))
        return logits


def _linear(inputs: int, outputs: int) -> nn.Linear:
    linear = Linear(inputs, outputs)
    _reset(linear)
    return linear


def _reset(linear: nn.Linear) -> None:
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)


class ConvolutionMixer(nn.Module):
    """Linear map (gated or not), convolution, linear map; what replaces self-attention.

    Args:
        site: which self-attention it replaces.
        embed_dim: C.
        channels: c.
        glu: the first map makes 2 c channels, of which half gate the others.
        input_dropout: dropout of what comes in.
        conv: the convolution of c channels.
    """

    def __init__(
        self,
        site: Site,
        embed_dim: int,
        channels: int,
        glu: bool,
        input_dropout: float,
        conv: Convolution,
    ) -> None:
        super().__init__()
        self.site = site
        self.glu = glu
        self.input_dropout_module = Dropout(input_dropout, module_name=type(self).__name__)
        self.linear1 = _linear(embed_dim, 2 * channels if glu else channels)
        self.conv = conv
        self.linear2 = _linear(channels, embed_dim)

    def forward(
        self, x_BTC: Tensor, padding_mask_BT: Tensor | None, log: AttentionLog | None = None
    ) -> Tensor:
        """Return (B, T, C); padding is hidden from the convolution. ``log`` receives its bands."""
        x = on_real_rows(self, self._entered, x_BTC, padding_mask_BT)
        if padding_mask_BT is not None:
            # after the linear map, whose bias would fill it again
            x = x.masked_fill(padding_mask_BT.unsqueeze(-1), 0.0)
        taps, left = self.conv.taps(x, padding_mask_BT)
        if log is not None:
            weights = self.conv.weights(x, taps, left, padding_mask_BT)
            log.add(self.site, weights, self.conv.reach(x, taps, left))
        convolved = self.conv.convolve(x, taps, left)
        return on_real_rows(self, self.linear2, convolved, padding_mask_BT)

    def step(
        self, x_RnC: Tensor, state: ConvolutionState, log: AttentionLog | None = None
    ) -> Tensor:
        """Return (R, n, C) for the next n positions and advance the state."""
        record = None if log is None else partial(log.add, self.site)
        out: Tensor = self.linear2(self.conv.step(self._entered(x_RnC), state, record))
        return out

    def _entered(self, x: Tensor) -> Tensor:
        x = self.linear1(self.input_dropout_module(x))
        return F.glu(x, dim=-1) if self.glu else x


class ConvolutionLayer(ResidualLayer):
    """The convolution block and the feed-forward block of either side, Glorot-initialised."""

    def __init__(self, cfg: EncoderDecoderConfig, side: str, self_conv: ConvolutionMixer) -> None:
        super().__init__(cfg, side)
        self.self_conv = self_conv
        self.self_conv_layer_norm = make_norm(cfg, self.embed_dim)
        _reset(self.fc1)
        _reset(self.fc2)


class ConvolutionEncoderLayer(ConvolutionLayer):
    """Convolution, then feed-forward."""

    def forward(self, memory: Memory, log: AttentionLog | None = None) -> Memory:
        """See :class:`EncoderBlock`."""
        x_BSC = self.residual(
            memory.x_BSC,
            self.self_conv_layer_norm,
            lambda x: self.self_conv(x, memory.padding_mask_BS, log),
        )
        return replace(memory, x_BSC=self.feed_forward(x_BSC, memory.padding_mask_BS))


# the convolution's window, and keys and values of the memory
ConvolutionLayerCache = TwoSidedCache[ConvolutionState, MemoryCache]


class ConvolutionDecoderLayer(ConvolutionLayer):
    """Causal convolution, softmax cross-attention, then feed-forward."""

    def __init__(self, cfg: EncoderDecoderConfig, side: str, self_conv: ConvolutionMixer) -> None:
        super().__init__(cfg, side, self_conv)
        self.encoder_attn = make_softmax(cfg, Site.CROSS)
        self.encoder_attn_layer_norm = make_norm(cfg, self.embed_dim)

    def forward(
        self,
        x_BTC: Tensor,
        padding_mask_BT: Tensor | None,
        memory: Memory,
        log: AttentionLog | None = None,
    ) -> tuple[Tensor, Memory]:
        """See :class:`DecoderBlock`; the memory is handed on as it is."""
        x_BTC = self.residual(
            x_BTC, self.self_conv_layer_norm, lambda x: self.self_conv(x, padding_mask_BT, log)
        )
        x_BTC = self.residual(
            x_BTC,
            self.encoder_attn_layer_norm,
            lambda x: self.encoder_attn(
                x, memory.x_BSC, memory.padding_mask_BS, log, padding_mask_BT
            ),
        )
        return self.feed_forward(x_BTC, padding_mask_BT), memory

    def new_cache(self, memory: Memory) -> tuple[ConvolutionLayerCache, Memory]:
        """See :class:`DecoderBlock`."""
        return TwoSidedCache(ConvolutionState(), self.encoder_attn.memory_cache(memory)), memory

    def step(
        self, x_RnC: Tensor, cache: ConvolutionLayerCache, log: AttentionLog | None = None
    ) -> Tensor:
        """Return the output (R, n, C) for the next n target positions."""
        x_RnC = self.residual(
            x_RnC, self.self_conv_layer_norm, lambda x: self.self_conv.step(x, cache.target, log)
        )
        x_RnC = self.residual(
            x_RnC,
            self.encoder_attn_layer_norm,
            lambda x: self.encoder_attn.step_cross(x, cache.cross, log),
        )
        return self.feed_forward(x_RnC)
