"""Label-smoothed cross entropy of a projection whose logits never exist as a whole.

Logits are made, scored and turned into gradients a chunk of tokens at a time, so that memory is
bounded whatever the batch. With eps_i = eps / (V - 1), fairseq's definition is

    loss = (1 - eps - eps_i) * (-log p_y) + eps_i * sum over v of (-log p_v)
    d loss / d logits = p - eps_i - (1 - eps - eps_i) onehot(y)

R-Drop (Liang et al. 2021, equation 4) scores two copies of the batch and adds the symmetric
Kullback-Leibler divergence of their distributions.

Shapes: K copies (1, or 2 for R-Drop), N target tokens, n tokens of a chunk, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.ops import backend
from seqattn_fairseq.ops.backend import VARIABLE, select
from seqattn_fairseq.ops.linear import product
from seqattn_fairseq.ops.precision import exact_sums

# Logits in memory at once. A CPU's caches like few; a GPU needs many for its products to be large.
_CHUNK = {"cpu": 2**24}
_CHUNK_ELSEWHERE = 2**27
# A smaller chunk would spend its time on adding up the gradient of the weight.
_LEAST_TOKENS = 64
_HALF = (torch.float16, torch.bfloat16)
# newer versions of torch have products of half precision that come out in float32, on GPUs
_WIDE_PRODUCTS = "dtype" in torch.ops.aten.mm.overloads()


@dataclass(frozen=True)
class LossOptions:
    """What is computed.

    Attributes:
        smoothing: eps, 0 for none.
        padding_idx: targets that do not count.
        divergence_weight: of the symmetric divergence of two copies; unused for one.
        accuracy: count the tokens that the model ranks first.
        reduce: sum over the tokens; else ``loss`` and ``nll`` have an entry for each.
    """

    smoothing: float
    padding_idx: int
    divergence_weight: float = 0.0
    accuracy: bool = False
    reduce: bool = True

    def shares(self, vocabulary: int) -> tuple[float, float]:
        """Return the weights of -log p_y and of the sum of all -log p_v."""
        every = self.smoothing / (vocabulary - 1)
        return 1.0 - self.smoothing - every, every


class LossSums(NamedTuple):
    """Sums over the tokens that are no padding, in at least float32.

    Attributes:
        loss: smoothed cross entropy of all copies plus the weighted divergence; () or (N,).
        nll: -log p_y without smoothing, the mean of the copies; () or (N,), for logs only.
        divergence: (KL(p||q) + KL(q||p)) / 2 of two copies, not weighted; (), for logs only.
        correct: number of tokens that the model ranks first, in all copies; 0 if not asked for.
        total: number of tokens that could be correct.
    """

    loss: Tensor
    nll: Tensor
    divergence: Tensor
    correct: Tensor
    total: Tensor


def log_prob_sums(lprobs_KNV: Tensor, target_N: Tensor, options: LossOptions) -> LossSums:
    """Return the sums from log-probabilities that exist, differentiable as often as they are."""
    counts = target_N.ne(options.padding_idx)
    on_label, on_every = options.shares(lprobs_KNV.size(-1))
    labels = target_N.expand(lprobs_KNV.shape[:-1]).unsqueeze(-1)
    nll_KN = -lprobs_KNV.gather(-1, labels).squeeze(-1).masked_fill(~counts, 0.0)
    smooth_KN = -lprobs_KNV.sum(-1).masked_fill(~counts, 0.0)
    loss_N = (on_label * nll_KN + on_every * smooth_KN).sum(0)
    divergence_N = torch.zeros_like(loss_N)
    if len(lprobs_KNV) > 1:
        p, q = lprobs_KNV
        divergence_N = ((p.exp() - q.exp()) * (p - q)).sum(-1).masked_fill(~counts, 0.0) / 2
        loss_N = loss_N + options.divergence_weight * divergence_N
    correct = target_N.new_zeros(())
    if options.accuracy:
        correct = (lprobs_KNV.argmax(-1).eq(target_N) & counts).sum()
    nll_N = nll_KN.detach().mean(0)
    return LossSums(
        loss_N.sum() if options.reduce else loss_N,
        nll_N.sum() if options.reduce else nll_N,
        divergence_N.detach().sum(),
        correct,
        counts.sum() * len(lprobs_KNV),
    )


def projected_cross_entropy_reference(
    features_KNC: Tensor,
    weight_VC: Tensor,
    bias_V: Tensor | None,
    target_N: Tensor,
    options: LossOptions,
) -> LossSums:
    """Return the sums by way of all logits: obvious, large, exact in float64."""
    logits = F.linear(features_KNC, weight_VC, bias_V)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return log_prob_sums(F.log_softmax(logits, -1, dtype=dtype), target_N, options)


# ---- chunk by chunk ----------------------------------------------------------------------------


def _operand_dtype(features: Tensor, weight: Tensor) -> torch.dtype:
    """Return the dtype of the products' arguments: half only where they come out in float32."""
    device = features.device.type
    dtype = torch.promote_types(features.dtype, weight.dtype)
    if dtype != torch.float64 and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    narrow = device == "cuda" and _WIDE_PRODUCTS
    return torch.float32 if dtype in _HALF and not narrow else dtype


def _product(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype in _HALF:
        return torch.mm(a, b, out_dtype=torch.float32)
    return product(a, b)


def _narrowed(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return values in half precision, multiplied by a power of two, and one over it.

    The largest comes to lie at the upper end of float16, so that as few as can be are lost at its
    lower end.
    """
    exponent = torch.frexp(values.abs().amax()).exponent
    scale = torch.ldexp(torch.ones_like(values[0, 0]), (15 - exponent).clamp(max=100))
    return (values * scale).to(dtype), 1 / scale


def _unscaled(values: Tensor, by: Tensor | None) -> Tensor:
    return values if by is None else values.mul_(by)


class _Chunks:
    """One pass over the tokens: sums and, as far as wanted, gradients of their loss.

    Args:
        features_KNC: of all tokens that are visited.
        weight_VC: of the projection.
        bias_V: of the projection.
        target_N: of all tokens that are visited.
        counts_N: False for those that do not count; None if all do.
        options: what is computed.
        wanted: whether features, weight and bias need a gradient.
        by_kernel: score by a Triton kernel, unless the copies are two or the logits float64.
    """

    def __init__(
        self,
        features_KNC: Tensor,
        weight_VC: Tensor,
        bias_V: Tensor | None,
        target_N: Tensor,
        counts_N: Tensor | None,
        options: LossOptions,
        wanted: Sequence[bool],
        by_kernel: bool,
    ) -> None:
        dtype = _operand_dtype(features_KNC, weight_VC)
        self.sum_dtype = torch.promote_types(dtype, torch.float32)
        self.features, self.weight = features_KNC.to(dtype), weight_VC.to(dtype)
        self.bias = None if bias_V is None else bias_V.to(self.sum_dtype)
        self.target, self.counts, self.options = target_N, counts_N, options
        self.copies, self.tokens, _ = features_KNC.shape
        self.vocabulary = len(weight_VC)
        self.on_label, self.on_every = options.shares(self.vocabulary)
        # the sum of all logits of a token is a product of its features with this one row
        self.row_C = self.weight.sum(0, dtype=self.sum_dtype)
        self.loss_N, self.nll_N, self.divergence_N = self.row_C.new_zeros(3, self.tokens)
        self.correct = target_N.new_zeros(())
        self.d_features = self.row_C.new_empty(features_KNC.shape) if wanted[0] else None
        self.d_weight: Tensor | None = None
        self.wants_weight = wanted[1]
        self.d_bias = self.row_C.new_zeros(self.vocabulary) if wanted[2] else None
        self.wanted = any(wanted)
        single = self.copies == 1 and self.sum_dtype == torch.float32
        self.by_kernel = by_kernel and single

    def run(self) -> None:
        """Visit every chunk."""
        most = _CHUNK.get(self.features.device.type, _CHUNK_ELSEWHERE)
        size = max(_LEAST_TOKENS, most // (self.vocabulary * self.copies))
        for start in range(0, self.tokens, size):
            self._visit(slice(start, start + size))
        self._subtract_what_every_logit_has()
        if self.counts is not None:
            for rows in (self.loss_N, self.nll_N, self.divergence_N):
                rows.masked_fill_(~self.counts, 0.0)

    def _visit(self, chunk: slice) -> None:
        x = self.features[:, chunk].flatten(0, 1)
        labels = self.target[chunk].repeat(self.copies)
        counts = None if self.counts is None else self.counts[chunk].repeat(self.copies)
        logits = self._logits(x)
        if self.by_kernel:
            nll, log_total, correct, d_logits = self._visited_by_kernel(logits, labels, counts)
        else:
            nll, log_total, correct, d_logits = self._visited(chunk, logits, labels, counts)
        self._score(chunk, x, nll, log_total)
        if correct is not None:
            self.correct += (correct if counts is None else correct & counts).sum()
        if self.wanted:
            self._propagate(chunk, x, d_logits)

    def _logits(self, x: Tensor) -> Tensor:
        logits = _product(x, self.weight.t())
        return logits if self.bias is None else logits.add_(self.bias)

    def _visited_by_kernel(
        self, logits: Tensor, labels: Tensor, counts: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Return what :meth:`_visited` does; the gradient may be narrower than the logits."""
        from seqattn_fairseq.ops.kernels.cross_entropy import score_rows

        backend.require_kernels(logits)
        gradient = None
        if self.wanted:
            narrow = self.features.dtype == torch.bfloat16  # its range is that of float32
            gradient = torch.empty_like(logits, dtype=torch.bfloat16) if narrow else logits
        nll, log_total, best = score_rows(logits, labels, counts, self.on_label, gradient)
        correct = best.eq(labels) if self.options.accuracy else None
        return nll, log_total, correct, logits if gradient is None else gradient

    def _visited(
        self, chunk: slice, logits: Tensor, labels: Tensor, counts: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Return -log p_y, the logarithm of the sum of exponentials, hits, and the gradient.

        The gradient comes in place of the logits, without the smoothing's equal shares.
        """
        column = labels.unsqueeze(1)
        label_logit = logits.gather(1, column)
        lprobs = torch.log_softmax(logits, -1, out=logits)
        nll = -lprobs.gather(1, column).squeeze(1)
        correct = lprobs.argmax(1).eq(labels) if self.options.accuracy else None
        if self.copies > 1:
            halves = lprobs.view(2, -1, self.vocabulary)
            self.divergence_N[chunk] = self._diverge(halves)
        elif self.wanted:
            lprobs.exp_()
        if self.wanted:
            label_share = lprobs.new_full((1, 1), -self.on_label).expand(column.shape)
            lprobs.scatter_add_(1, column, label_share)
            if counts is not None:
                lprobs.masked_fill_(~counts.unsqueeze(1), 0.0)
        return nll, label_logit.squeeze(1) + nll, correct, lprobs

    def _score(self, chunk: slice, x: Tensor, nll: Tensor, log_total: Tensor) -> None:
        loss = self.on_label * nll
        if self.on_every:
            logits_sum = x.to(self.sum_dtype) @ self.row_C
            if self.bias is not None:
                logits_sum = logits_sum + self.bias.sum()
            loss += self.on_every * (self.vocabulary * log_total - logits_sum)
        self.loss_N[chunk] = loss.view(self.copies, -1).sum(0)
        self.nll_N[chunk] = nll.view(self.copies, -1).mean(0)

    def _diverge(self, lprobs_2nV: Tensor) -> Tensor:
        """Return the divergence of each token (n,).

        In place of the log-probabilities come probabilities plus its part of the gradients.
        """
        gap = lprobs_2nV[0] - lprobs_2nV[1]
        p, q = lprobs_2nV.exp_()
        p_to_q = torch.linalg.vecdot(p, gap).unsqueeze(1)
        q_to_p = -torch.linalg.vecdot(q, gap).unsqueeze(1)
        if self.wanted:
            half = self.options.divergence_weight / 2
            apart = (p - q).mul_(half)
            p.mul_((gap - p_to_q).mul_(half).add_(1)).add_(apart)
            q.mul_(gap.add_(q_to_p).mul_(-half).add_(1)).sub_(apart)
        divergence: Tensor = (p_to_q + q_to_p).squeeze(1) / 2
        return divergence

    def _propagate(self, chunk: slice, x: Tensor, d_logits: Tensor) -> None:
        """Add what a chunk gives to the gradients, except for the smoothing's equal shares."""
        if self.d_bias is not None:
            self.d_bias += d_logits.sum(0, dtype=self.sum_dtype)
        d, unscale = d_logits, None
        if d.dtype != x.dtype:
            d, unscale = _narrowed(d_logits, x.dtype)
        if self.d_features is not None:
            d_x = _unscaled(_product(d, self.weight), unscale)
            self.d_features[:, chunk] = d_x.view(self.copies, -1, x.size(1))
        if self.wants_weight:
            d_weight = _unscaled(_product(d.t(), x), unscale)
            self.d_weight = d_weight if self.d_weight is None else self.d_weight.add_(d_weight)

    def _subtract_what_every_logit_has(self) -> None:
        features = self.features
        share_N1: float | Tensor = self.on_every
        tokens: int | Tensor = self.tokens
        if self.counts is not None:
            share_N1 = self.on_every * self.counts.to(self.sum_dtype).unsqueeze(1)
            features = features.masked_fill(~self.counts.unsqueeze(1), 0.0)
            tokens = self.counts.sum()
        if self.d_features is not None:
            self.d_features -= share_N1 * self.row_C
        if self.wants_weight:
            if self.d_weight is None:  # no token counts
                self.d_weight = self.row_C.new_zeros(self.weight.shape)
            self.d_weight -= self.on_every * features.sum((0, 1), dtype=self.sum_dtype)
        if self.d_bias is not None:
            self.d_bias -= self.on_every * self.copies * tokens


def _can_look_at(tensor: Tensor) -> bool:
    """Return whether the host need not wait for what it decides by the values of a tensor."""
    return tensor.device.type == "cpu"


def _spread(values: Tensor, dim: int, kept: Tensor | None, tokens: int) -> Tensor:
    """Return values with those of the dropped tokens, zero, between them."""
    if kept is None:
        return values
    shape = [*values.shape[:dim], tokens, *values.shape[dim + 1 :]]
    return values.new_zeros(shape).index_copy_(dim, kept, values)


class _ProjectedCrossEntropy(torch.autograd.Function):
    """Makes the gradients together with the loss, so that no logit is computed twice."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        options: LossOptions,
        with_gradients: bool,
        by_kernel: bool,
    ) -> tuple[Tensor, ...]:
        counts, kept = target.ne(options.padding_idx), None
        needed = [with_gradients and needs for needs in ctx.needs_input_grad[:3]]
        visited: tuple[Tensor, Tensor, Tensor | None] = features, target, counts
        if _can_look_at(target):
            kept = counts.nonzero().squeeze(1)
            visited = features.index_select(1, kept), target[kept], None
        chunks = _Chunks(visited[0], weight, bias, *visited[1:], options, needed, by_kernel)
        with exact_sums(features):
            chunks.run()
        loss, nll = chunks.loss_N, chunks.nll_N
        if options.divergence_weight:
            loss = loss + options.divergence_weight * chunks.divergence_N
        if options.reduce:
            loss, nll = loss.sum(), nll.sum()
        else:
            loss, nll = (_spread(rows, 0, kept, len(target)) for rows in (loss, nll))
        ctx.save_for_backward(kept, chunks.d_features, chunks.d_weight, chunks.d_bias)
        ctx.tokens, ctx.dtypes = len(target), (features.dtype, weight.dtype)
        rest = (nll, chunks.divergence_N.sum(), chunks.correct)
        ctx.mark_non_differentiable(*rest)
        return loss, *rest

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # within a pass that is to be differentiated itself
            raise SeqAttnError(
                "the fast cross entropy can be differentiated once; for create_graph=True, set "
                f"{VARIABLE}=reference"
            )
        kept, d_features, d_weight, d_bias = ctx.saved_tensors
        dtype, weight_dtype = ctx.dtypes
        # multiplied before they are narrowed: the loss scale is what keeps float16 from underflow
        if d_features is not None:
            d_features = _spread((d_features * d_loss).to(dtype), 1, kept, ctx.tokens)
        if d_weight is not None:
            d_weight = (d_weight * d_loss).to(weight_dtype)
        if d_bias is not None:
            d_bias = (d_bias * d_loss).to(weight_dtype)
        return d_features, d_weight, d_bias, None, None, None, None


def _chunked(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    options: LossOptions,
    by_kernel: bool = False,
) -> LossSums:
    leaves = (features, weight) if bias is None else (features, weight, bias)
    with_gradients = torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves)
    if with_gradients and not options.reduce:
        # every token may come back with a gradient of its own, which one sum cannot serve
        return projected_cross_entropy_reference(features, weight, bias, target, options)
    loss, nll, divergence, correct = _ProjectedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        features, weight, bias, target, options, with_gradients, by_kernel
    )
    total = target.ne(options.padding_idx).sum() * len(features)
    return LossSums(loss, nll, divergence, correct, total)


_FORMS: dict[str, Callable[..., LossSums]] = {
    "reference": projected_cross_entropy_reference,
    "torch": _chunked,
    "triton": partial(_chunked, by_kernel=True),
}


def projected_cross_entropy(
    features_KNC: Tensor,
    weight_VC: Tensor,
    bias_V: Tensor | None,
    target_N: Tensor,
    options: LossOptions,
) -> LossSums:
    """Return loss and statistics of ``features @ weight.T + bias`` against the targets.

    Gradients reach features, weight and bias from ``loss`` alone. The fast form refuses to be
    differentiated twice.

    Args:
        features_KNC: K = 1, or 2 copies of the batch whose divergence is added.
        weight_VC: of the projection.
        bias_V: of the projection; None for none.
        target_N: ids of the targets, the same for both copies.
        options: what is computed.
    """
    form = select("label-smoothed cross entropy", _FORMS)
    sums: LossSums = form(features_KNC, weight_VC, bias_V, target_N, options)
    return sums
