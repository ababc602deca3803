"""The parts of Mega's layers: moving average, distance biases, gated attention, feed-forward.

Parameters are named as in the released code, whose norms are one level deeper (``norm.norm``).

Nothing is kept on a module between two calls. The released code caches kernels and coefficients
there while evaluating, where they outlive changes of the weights; here the cache of one search
holds them.

Shapes: B batch, R rows (hypotheses), T target length, S source length, n new positions, D width,
Z width of queries and keys, V width of values, N states of a channel's average, C chunk size,
K chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from fairseq import utils
from fairseq.modules import FairseqDropout
from torch import Tensor, nn
from torch.nn import functional as F

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.ops.ema import Coefficients, ema, ema_coefficients, ema_start, ema_step
from seqattn_fairseq.ops.mega import (
    by_pairs,
    distance_line,
    gated_attention,
    gated_weights,
    rotary_distances,
)
from seqattn_fairseq.ops.precision import exact_sums
from seqattn_fairseq.transformer.dropout import Dropout, active_rate
from seqattn_fairseq.transformer.linear import Linear
from seqattn_fairseq.transformer.norms import make_norm
from seqattn_fairseq.transformer.padding import on_real_rows
from seqattn_fairseq.transformer.residual import added

_DEVIATION = 0.02  # of the initial weights that are no projections


@dataclass(frozen=True)
class MegaSide:
    """The options of one side (encoder or decoder) with defaults filled in, checked.

    Attributes:
        name: "encoder" or "decoder".
        embed_dim: D.
        memory_dim: width of the encoder.
        hidden_dim: V.
        z_dim: Z.
        n_dim: N.
        ffn_embed_dim: width of the feed-forward network; 0 or less for none.
        chunk_size: C; -1 for attention over the whole sequence.
        max_positions: longest sequence, in tokens.
        normalize_before: whether the norms come first.
        init_std: deviation of initial projections.
    """

    name: str
    embed_dim: int
    memory_dim: int
    hidden_dim: int
    z_dim: int
    n_dim: int
    ffn_embed_dim: int
    chunk_size: int
    max_positions: int
    normalize_before: bool
    init_std: float


def linear(side: MegaSide, inputs: int, outputs: int) -> nn.Linear:
    """Return a projection with normal weights of the side's deviation and a bias of zero."""
    made = Linear(inputs, outputs)
    nn.init.normal_(made.weight, std=side.init_std)
    nn.init.zeros_(made.bias)
    return made


def activation_function(name: str) -> Callable[[Tensor], Tensor]:
    """Return an activation; fairseq 0.12 does not know silu."""
    found: Callable[[Tensor], Tensor] = F.silu if name == "silu" else utils.get_activation_fn(name)
    return found


class FeatureDropout(FairseqDropout):
    """Dropout of whole features: one draw for each sentence and channel, for all its positions.

    Args:
        p: probability.
        module_name: see fairseq's FairseqDropout.
        whole: one draw for each sentence (or chunk) alone, so that all its channels go at once:
            what the released code does to the values of self-attention.
    """

    def __init__(self, p: float, module_name: str, whole: bool = False) -> None:
        super().__init__(p, module_name)
        self.whole = whole

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Return (B, T, D), or (B, K, C, D) cut into chunks, with features dropped."""
        rate = active_rate(self)
        if rate == 0:
            return x
        between = [1] * (x.dim() - 2)
        shape = (*x.shape[:-2], 1, 1) if self.whole else (x.size(0), *between, x.size(-1))
        return x * F.dropout(x.new_ones(shape), rate)


def make_dropout(cfg: Any, rate: float, module: nn.Module, whole: bool = False) -> FairseqDropout:
    """Return ordinary dropout, or that of features if the configuration says so."""
    name = type(module).__name__
    if cfg.feature_dropout:
        return FeatureDropout(rate, name, whole)
    return Dropout(rate, module_name=name)


class MovingAverage(nn.Module):
    """The damped average of every channel, see :mod:`seqattn_fairseq.ops.ema`.

    Parameters: ``delta``, ``alpha``, ``beta`` (E, N, 1), ``gamma`` (E, N), ``omega`` (D,), with
    E = 2 D if bidirectional, else D; initialised as released.
    """

    def __init__(self, dim: int, states: int, bidirectional: bool, truncation: int) -> None:
        super().__init__()
        self.truncation = truncation
        rows = 2 * dim if bidirectional else dim
        self.delta = nn.Parameter(torch.empty(rows, states, 1).normal_(std=0.2))
        self.alpha = nn.Parameter(torch.empty(rows, states, 1).normal_(std=0.2))
        signs = 1.0 - 2.0 * (torch.arange(states) % 2).unsqueeze(-1)
        self.beta = nn.Parameter(torch.empty(rows, states, 1).normal_(std=_DEVIATION) + signs)
        self.gamma = nn.Parameter(torch.empty(rows, states).normal_())
        self.omega = nn.Parameter(torch.empty(dim).normal_())

    def coefficients(self) -> Coefficients:
        """Return what the recurrence multiplies with."""
        return ema_coefficients(self.delta, self.alpha, self.beta, self.gamma)

    def forward(self, x_BTD: Tensor, padding_mask_BT: Tensor | None) -> Tensor:
        """Return (B, T, D) for whole sequences."""
        c = self.coefficients()
        return ema(x_BTD, c, self.omega, padding_mask_BT, self.truncation)


class AverageCache:
    """The state of one moving average, and its coefficients for the length of a search."""

    def __init__(self, average: MovingAverage) -> None:
        self._average = average
        self._coefficients = average.coefficients()
        self.state_RDN: Tensor | None = None

    def step(self, x_RnD: Tensor) -> Tensor:
        """Return (R, n, D) for the next n positions."""
        c, state = self._coefficients, self.state_RDN
        state = ema_start(x_RnD.size(0), c) if state is None else state
        y, self.state_RDN = ema_step(x_RnD, state, c, self._average.omega)
        return y

    def reorder(self, order_R: Tensor) -> None:
        """Let row r continue the old row ``order_R[r]``."""
        if self.state_RDN is not None:
            self.state_RDN = self.state_RDN.index_select(0, order_R)


class DistanceBias(nn.Module):
    """What is added to the scores of a query and a key, by their distance alone.

    Attributes:
        longest: the longest sequence whose distances it has; None if it has any.
    """

    longest: int | None = None

    def line(self, queries: int, keys: int, first: int = 0) -> Tensor:
        """Return (T + S - 1,) for queries from position ``first`` on.

        In the order of ``ops.mega.distance_line``.
        """
        raise NotImplementedError

    def forward(self, queries: int, keys: int, first: int = 0) -> Tensor:
        """Return the same as a matrix (T, S)."""
        return by_pairs(self.line(queries, keys, first), queries, keys)


class SimpleBias(DistanceBias):
    """One learned number for each distance up to P - 1: ``rel_pos_bias`` (2 P - 1,)."""

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.longest = longest
        self.rel_pos_bias = nn.Parameter(torch.empty(2 * longest - 1).normal_(std=_DEVIATION))

    def line(self, queries: int, keys: int, first: int = 0) -> Tensor:
        """Return (T + S - 1,) for queries from position ``first`` on; 0 where it has no number."""
        assert self.longest is not None
        return distance_line(self.rel_pos_bias, queries, keys, first, self.longest - 1)


class RotaryBias(DistanceBias):
    """<R_i alpha, R_j beta> of two learned vectors (1, Z), whatever the content.

    The released code's "rotary": not rotary embeddings of queries and keys.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(1, dim).normal_(std=_DEVIATION))
        self.beta = nn.Parameter(torch.empty(1, dim).normal_(std=_DEVIATION))

    def line(self, queries: int, keys: int, first: int = 0) -> Tensor:
        """Return (T + S - 1,) for queries from position ``first`` on, in at least float32."""
        wide = torch.promote_types(self.alpha.dtype, torch.float32)
        alpha, beta = self.alpha[0].to(wide), self.beta[0].to(wide)
        with exact_sums(alpha):
            return rotary_distances(alpha, beta, 1 - first - queries, keys - 1 - first)


def make_bias(cfg: Any, z_dim: int, longest: int) -> DistanceBias:
    """Return the configured bias for sequences of up to ``longest`` positions."""
    return RotaryBias(z_dim) if str(cfg.rel_pos_bias) == "rotary" else SimpleBias(longest)


def check_length(bias: DistanceBias, length: int, real: Callable[[], int] | None = None) -> None:
    """Make sure that a bias has all distances of a sequence.

    Args:
        bias: a bias.
        length: columns of the sequence, padding included.
        real: tells how many of them matter; asked only if ``length`` is too many.

    Raises:
        SeqAttnError: the sequence is too long.
    """
    longest = bias.longest
    if longest is None or length <= longest:
        return
    needed = length if real is None else real()
    if needed > longest:
        raise SeqAttnError(
            f"a sequence of {needed} tokens exceeds the {longest} positions of the simple bias; "
            "raise --max-source-positions / --max-target-positions and retrain, or truncate"
        )


def columns_used(mask_BT: Tensor | None, length: int) -> int:
    """Return the number of columns up to the last real one of any row."""
    if mask_BT is None:
        return length
    columns = torch.arange(1, length + 1, device=mask_BT.device)
    return int((columns * ~mask_BT).amax())


def shifted(x: Tensor, by_B: Tensor, dim: int = 1) -> Tensor:
    """Return ``x`` with row b moved ``by_B[b]`` to the left along ``dim``, around the end."""
    length = x.size(dim)
    columns = torch.arange(length, device=x.device)
    source_BT = (columns + by_B.unsqueeze(1)) % max(length, 1)
    shape = [x.size(0)] + [1] * (x.dim() - 1)
    shape[dim] = length
    return x.gather(dim, source_BT.view(shape).expand_as(x))


def leading_padding(mask_BT: Tensor) -> Tensor:
    """Return (B,) the number of padded positions before the first real one."""
    return mask_BT.long().cumprod(dim=1).sum(dim=1)


class GatedUnit(nn.Module):
    """What both gated units share: norm, dropouts, distance bias, the gate of the residual.

    Parameters: ``norm`` and ``rel_pos_bias``.
    """

    def __init__(self, cfg: Any, side: MegaSide, longest: int, whole_values: bool) -> None:
        super().__init__()
        self.attention = str(cfg.attention_activation_fn)
        self.activation = activation_function(str(cfg.mega_activation_fn))
        self.normalize_before = side.normalize_before
        name = type(self).__name__
        self.dropout = make_dropout(cfg, cfg.dropout, self)
        self.hidden_dropout = make_dropout(cfg, cfg.hidden_dropout, self, whole_values)
        self.attention_dropout = Dropout(cfg.attention_dropout, module_name=name)
        self.norm = make_norm(cfg, side.embed_dim)
        self.rel_pos_bias = make_bias(cfg, side.z_dim, longest)

    def before(self, x_BTD: Tensor) -> Tensor:
        """Return what the unit reads of its input."""
        y: Tensor = self.norm(x_BTD) if self.normalize_before else x_BTD
        return y

    def gated(self, x_BTD: Tensor, candidate_BTD: Tensor, update_BTD: Tensor) -> Tensor:
        """Return x + sigmoid(update) (act(candidate) - x), normalised after if not before."""
        h = self.dropout(self.activation(candidate_BTD))
        y: Tensor = x_BTD + torch.sigmoid(update_BTD) * (h - x_BTD)
        return y if self.normalize_before else self.norm(y)

    def attended(
        self,
        query_MTZ: Tensor,
        key_MSZ: Tensor,
        value_MSV: Tensor,
        line_L: Tensor,
        padding_mask_MS: Tensor | None,
        causal: bool,
        record: Callable[[Tensor], None] | None,
        positions: int = 0,
    ) -> Tensor:
        """Return the weighted sums of the values, (M, T, V).

        Args:
            query_MTZ: queries.
            key_MSZ: keys.
            value_MSV: values.
            line_L: the bias, as ``rel_pos_bias.line`` gives it.
            padding_mask_MS: True at keys nobody may see.
            causal: query t sees the keys up to S - T + t only.
            record: receives the (M, T, S) weights before dropout, if anybody asks for them.
            positions: how many queries the line is for, by default T; the T are such positions,
                again and again.
        """
        rest, queries = (padding_mask_MS, causal, self.attention), query_MTZ.size(1)
        positions = positions or max(queries, 1)
        if record is None and queries == positions:
            rate = active_rate(self.attention_dropout)
            return gated_attention(query_MTZ, key_MSZ, value_MSV, line_L, *rest, rate)
        bias_TS = by_pairs(line_L, positions, key_MSZ.size(1)).repeat(queries // positions, 1)
        weights = gated_weights(query_MTZ, key_MSZ, bias_TS, *rest)
        if record is not None:
            record(weights)
        y: Tensor = self.attention_dropout(weights.to(value_MSV.dtype)) @ value_MSV
        return y


class NormalizedFeedForward(nn.Module):
    """x + fc2(act(fc1(x))), the norm before or after. Parameters: ``fc1``, ``fc2``, ``norm``."""

    def __init__(self, cfg: Any, side: MegaSide) -> None:
        super().__init__()
        self.activation = activation_function(str(cfg.mega_activation_fn))
        self.normalize_before = side.normalize_before
        self.dropout = make_dropout(cfg, cfg.dropout, self)
        self.hidden_dropout = make_dropout(cfg, cfg.activation_dropout, self)
        self.norm = make_norm(cfg, side.embed_dim)
        self.fc1 = linear(side, side.embed_dim, side.ffn_embed_dim)
        self.fc2 = linear(side, side.ffn_embed_dim, side.embed_dim)

    def forward(self, x_BTD: Tensor, padding_mask_BT: Tensor | None = None) -> Tensor:
        """Return (B, T, D); padding may be left as it is."""
        if isinstance(self.hidden_dropout, FeatureDropout):
            padding_mask_BT = None  # its draws are for whole sentences, not for rows
        source = self.norm(x_BTD) if self.normalize_before else x_BTD
        y = on_real_rows(self, self._fc, source, padding_mask_BT)
        return added(x_BTD, y, self.dropout, None if self.normalize_before else self.norm)

    def _fc(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(self.hidden_dropout(self.activation(self.fc1(x))))
        return y
