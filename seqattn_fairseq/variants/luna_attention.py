"""Luna's two attentions: pack the context into P, then let the queries read P.

Shapes: B sentences, R rows (hypotheses), R = B * group, T target or query length, n new positions,
S context length, L length of P, C width, H heads, P heads of the pack, d = C / H.
"""

from __future__ import annotations

import math

import torch
from fairseq.modules import FairseqDropout
from torch import Tensor, nn

from seqattn_fairseq.ops.luna import (
    ACTIVATIONS,
    accumulate,
    causal_attention,
    causal_mean,
    causal_mean_weights,
    compose_weights,
    counted,
    softmax_over_p,
)
from seqattn_fairseq.ops.softmax import softmax_attention, softmax_weights
from seqattn_fairseq.transformer.attention import AttentionLog, Site, by_hypothesis, join_heads
from seqattn_fairseq.transformer.dropout import active_rate
from seqattn_fairseq.transformer.linear import Linear


def _projections(names: str, dim: int, bias: bool) -> dict[str, nn.Linear]:
    """Return (C, C) projections: Glorot uniform with gain 1/sqrt(2), biases as torch has them."""
    made: dict[str, nn.Linear] = {name: Linear(dim, dim, bias=bias) for name in names.split()}
    for projection in made.values():
        nn.init.xavier_uniform_(projection.weight, gain=1 / math.sqrt(2))
    return made


def _output_projection(dim: int, bias: bool) -> nn.Linear:
    projection = Linear(dim, dim, bias=bias)
    nn.init.xavier_uniform_(projection.weight)
    if bias:
        nn.init.zeros_(projection.bias)
    return projection


class ProjectsHeads(nn.Module):
    """What both attentions share: projections by name, heads, the dropout of weights.

    Args:
        names: of the input projections, ``<name>_proj``.
        dim: C.
        num_heads: H.
        dropout: of attention weights.
        bias: whether projections have one.
    """

    def __init__(self, names: str, dim: int, num_heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout_module = FairseqDropout(dropout, module_name=type(self).__name__)
        for name, projection in _projections(names, dim, bias).items():
            self.add_module(f"{name}_proj", projection)
        self.out_proj = _output_projection(dim, bias)

    def heads_of(self, name: str, x_BTC: Tensor, heads: int | None = None) -> Tensor:
        """Return the (B, H, T, d) heads of one projection."""
        projected: Tensor = self.get_submodule(f"{name}_proj")(x_BTC)
        batch, length, width = projected.shape
        count = heads or self.num_heads
        return projected.view(batch, length, count, width // count).transpose(1, 2)

    def queries(self, name: str, x_BTC: Tensor, heads: int | None = None) -> Tensor:
        """Return the (B, H, T, d) heads of one projection, times d^-0.5."""
        q_BHTd = self.heads_of(name, x_BTC, heads)
        scale: float = q_BHTd.size(-1) ** -0.5
        return q_BHTd * scale

    def keys_and_values(
        self, names: tuple[str, str, str], x_BTC: Tensor, heads: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the heads of keys and values: of one projection if tied, else of two."""
        tied, key, value = names
        if hasattr(self, f"{tied}_proj"):
            both = self.heads_of(tied, x_BTC, heads)
            return both, both
        return self.heads_of(key, x_BTC, heads), self.heads_of(value, x_BTC, heads)

    def project_out(self, h_BHTd: Tensor) -> Tensor:
        """Return the (B, T, C) output of the heads."""
        joined = join_heads(h_BHTd).to(self.out_proj.weight.dtype)
        out: Tensor = self.out_proj(joined)
        return out


class LunaAttention(ProjectsHeads):
    """Softmax attention in two steps: P reads the context, then the queries read P.

    Args:
        site: where it stands.
        dim: C of queries, P and context.
        num_heads: H of the second step (unpack).
        pack_heads: heads of the first step (pack).
        dropout: of the weights of both steps.
        tie_kv: keys and values of a step are one projection.
        bias: whether projections have one.
    """

    def __init__(
        self,
        site: Site,
        dim: int,
        num_heads: int,
        pack_heads: int,
        dropout: float = 0.0,
        tie_kv: bool = True,
        bias: bool = True,
    ) -> None:
        names = "pq q pc c" if tie_kv else "pq q pk pv k v"
        super().__init__(names, dim, num_heads, dropout, bias)
        self.site = site
        self.pack_heads = pack_heads

    def pack(self, p_BLC: Tensor, context_BSC: Tensor, padding_mask_BS: Tensor | None) -> Tensor:
        """Return what P reads of the context, (B, L, C): joined heads, not projected."""
        q_BPLd = self.queries("pq", p_BLC, self.pack_heads)
        k, v = self.keys_and_values(("pc", "pk", "pv"), context_BSC, self.pack_heads)
        rate = active_rate(self.dropout_module)
        return join_heads(softmax_attention(q_BPLd, k, v, padding_mask_BS, False, rate))

    def pack_weights(
        self, p_BLC: Tensor, context_BSC: Tensor, padding_mask_BS: Tensor | None
    ) -> Tensor:
        """Return the pre-dropout weights of the pack, (B, P, L, S)."""
        q_BPLd = self.queries("pq", p_BLC, self.pack_heads)
        k, _ = self.keys_and_values(("pc", "pk", "pv"), context_BSC, self.pack_heads)
        return softmax_weights(q_BPLd, k, padding_mask_BS, False)

    def read(self, packed_BLC: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of the packed context, (B, H, L, d) each."""
        return self.keys_and_values(("c", "k", "v"), packed_BLC)

    def unpack(
        self, x_BTC: Tensor, key_BHLd: Tensor, value_BHLd: Tensor, padding_mask_BL: Tensor | None
    ) -> Tensor:
        """Return what the queries read of the packed context, (B, T, C)."""
        q, rate = self.queries("q", x_BTC), active_rate(self.dropout_module)
        h = softmax_attention(q, key_BHLd, value_BHLd, padding_mask_BL, False, rate)
        return self.project_out(h)

    def unpack_weights(
        self, x_BTC: Tensor, key_BHLd: Tensor, padding_mask_BL: Tensor | None
    ) -> Tensor:
        """Return the pre-dropout weights of the queries over P, (B, H, T, L)."""
        return softmax_weights(self.queries("q", x_BTC), key_BHLd, padding_mask_BL, False)

    def log_weights(self, log: AttentionLog, unpack_BHTL: Tensor, pack_BPLS: Tensor) -> None:
        """Append the weights of the queries over the context to the log."""
        log.add(self.site, compose_weights(unpack_BHTL, pack_BPLS))


class RunningSums:
    """What the causal attention remembers of the target: two sums and their number of terms.

    Args:
        exact: sums in at least float32 and an integer count; otherwise sums and count in the
            compute dtype, as in the official code, where a bfloat16 count sticks at 256.
    """

    def __init__(self, exact: bool = True) -> None:
        self.exact = exact
        self.key_RHdL: Tensor | None = None
        self.value_RHLd: Tensor | None = None
        self._length: int | Tensor = 0

    def count(self, like_RnC: Tensor) -> Tensor:
        """Count the new positions too; return the number up to each of them, (n, 1)."""
        if self.exact:
            assert isinstance(self._length, int)
            first = self._length
            count = counted(None, first + like_RnC.size(1), like_RnC)[first:]
            self._length += like_RnC.size(1)
            return count
        steps = [torch.as_tensor(self._length, dtype=like_RnC.dtype, device=like_RnC.device)]
        for _ in range(like_RnC.size(1)):
            steps.append(steps[-1] + 1)
        self._length = steps[-1]
        return torch.stack(steps[1:]).unsqueeze(-1)

    @property
    def length(self) -> float:
        """The number of positions in the sums, as far as the count can tell."""
        return float(self._length)

    def add(self, key_RHnd: Tensor, pack_RHnL: Tensor, value_RHnd: Tensor) -> None:
        """Add n positions to both sums."""
        self.key_RHdL = accumulate(self.key_RHdL, key_RHnd, pack_RHnL, self.exact)
        self.value_RHLd = accumulate(self.value_RHLd, pack_RHnL, value_RHnd, self.exact)

    def reorder(self, order_R: Tensor) -> None:
        """Let row r continue the old row ``order_R[r]``."""
        if self.key_RHdL is not None and self.value_RHLd is not None:
            self.key_RHdL = self.key_RHdL.index_select(0, order_R)
            self.value_RHLd = self.value_RHLd.index_select(0, order_R)


class LunaCausalAttention(ProjectsHeads):
    """Self-attention of the target through P, by running means instead of a softmax.

    Args:
        dim: C of target and P.
        num_heads: H.
        dropout: of the pack's and the unpack's weights.
        tie_kv: keys and values are one projection.
        bias: whether projections have one.
        activation: what makes the pack's weights positive, a name of ``ops.luna.ACTIVATIONS``.
        exact_sums: see :class:`RunningSums`.
    """

    site = Site.DECODER_SELF

    def __init__(
        self,
        dim: int,
        num_heads: int,
        dropout: float = 0.0,
        tie_kv: bool = True,
        bias: bool = True,
        activation: str = "softplus2",
        exact_sums: bool = True,
    ) -> None:
        names = "pq q pc c" if tie_kv else "pq q pc k v"
        super().__init__(names, dim, num_heads, dropout, bias)
        self.activation = activation
        self.exact_sums = exact_sums

    def pack_query(self, p_BLC: Tensor) -> Tensor:
        """Return the queries of P, (B, H, L, d): once a sentence in decoding."""
        return self.queries("pq", p_BLC)

    def pack_weights(self, x_RnC: Tensor, pquery_BHLd: Tensor) -> Tensor:
        """Return how much each position gives to each row of P, (R, H, n, L); no distribution."""
        # the hypotheses of a sentence share its P: here they are just more positions
        x_BTC = x_RnC.reshape(pquery_BHLd.size(0), -1, x_RnC.size(-1))
        scores = self.heads_of("pc", x_BTC) @ pquery_BHLd.transpose(-1, -2)
        return by_hypothesis(ACTIVATIONS[self.activation](scores), x_RnC.size(1))

    def forward(
        self,
        x_BTC: Tensor,
        pquery_BHLd: Tensor,
        padding_mask_BL: Tensor | None,
        padding_mask_BT: Tensor | None = None,
        log: AttentionLog | None = None,
    ) -> Tensor:
        """Return (B, T, C) for whole target sequences.

        Args:
            x_BTC: the target.
            pquery_BHLd: see ``pack_query``.
            padding_mask_BL: True at rows of P that the sentence does not use.
            padding_mask_BT: True at padding of the target, wherever it is.
            log: receives the weights of target positions over each other.
        """
        pack = self.pack_weights(x_BTC, pquery_BHLd)
        if padding_mask_BT is not None:
            pack = pack.masked_fill(padding_mask_BT[:, None, :, None], 0.0)
        count = counted(padding_mask_BT, x_BTC.size(1), x_BTC)
        return self._read(x_BTC, pack, padding_mask_BL, count, None, log)

    def step(
        self,
        x_RnC: Tensor,
        pquery_BHLd: Tensor,
        padding_mask_BL: Tensor | None,
        sums: RunningSums,
    ) -> Tensor:
        """Return (R, n, C) for the next n positions, and add them to the sums.

        Weights over the target cannot be told: of the positions before only sums are left.
        """
        if padding_mask_BL is not None:
            group = x_RnC.size(0) // pquery_BHLd.size(0)
            padding_mask_BL = padding_mask_BL.repeat_interleave(group, dim=0)
        pack = self.pack_weights(x_RnC, pquery_BHLd)
        return self._read(x_RnC, pack, padding_mask_BL, sums.count(x_RnC), sums, None)

    def _read(
        self,
        x: Tensor,
        pack: Tensor,
        padding_mask_BL: Tensor | None,
        count: Tensor,
        sums: RunningSums | None,
        log: AttentionLog | None,
    ) -> Tensor:
        dropped = self.dropout_module(pack)  # one mask for both means
        q, (k, v) = self.queries("q", x), self.keys_and_values(("c", "k", "v"), x)
        if sums is None and log is None:
            rate = active_rate(self.dropout_module)
            return self.project_out(
                causal_attention(q, k, v, dropped, count, padding_mask_BL, rate, self.exact_sums)
            )
        key_sum, value_sum = (sums.key_RHdL, sums.value_RHLd) if sums else (None, None)
        scores = causal_mean(q, k, dropped, count, key_sum, self.exact_sums)
        weights = softmax_over_p(scores, padding_mask_BL)
        if log is not None:
            log.add(self.site, causal_mean_weights(weights, pack, count))
        read = self.dropout_module(weights)
        out = causal_mean(read, dropped, v, count, value_sum, self.exact_sums)
        if sums is not None:
            sums.add(k, dropped, v)
        return self.project_out(out)
