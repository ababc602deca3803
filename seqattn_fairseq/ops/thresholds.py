"""Thresholds of rows of scores, found without sorting: simplex maps and the k-th largest.

Sparsemax and 1.5-entmax are relu((z - tau) / q)^q, with q = 1 and 2 and the tau at which a row sums
to one. The q-norm of relu(z - tau) is convex in tau and falls to q there: Newton's steps from the
left never pass the root, and a few of them meet it to rounding. For sparsemax they are the method
of Michelot 1986.

This is the form for CPUs. It looks at its numbers to know when to stop and works on blocks of rows
that stay in cache; a GPU would wait for the host, and torch.compile cannot follow.

Shapes: N rows of D scores, contiguous, float32 or float64, hidden by -inf; G groups of a row.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

# numbers in a block, for each thread: two such blocks of float32 fill an L2 cache of 1 MiB
_BLOCK = 1 << 17
# steps at most, where six are many
_MOST_STEPS = 64


def stepwise(z: Tensor) -> bool:
    """Return whether this file's forms are the ones to take."""
    return z.device.type == "cpu" and not torch.compiler.is_compiling()


def _blocks(rows: int, width: int) -> Iterator[slice]:
    size = max(1, _BLOCK * torch.get_num_threads() // max(1, width))
    for start in range(0, rows, size):
        yield slice(start, min(rows, start + size))


# ---- simplex maps ------------------------------------------------------------------------------


def simplex_map(z_ND: Tensor, q: int) -> Tensor:
    """Return sparsemax (q = 1) or 1.5-entmax (q = 2) of each row; a row that hides all is zero."""
    out = torch.empty_like(z_ND)
    for rows in _blocks(*z_ND.shape):
        p = out[rows]
        top = z_ND[rows].amax(dim=-1, keepdim=True)
        z = z_ND[rows] - top.masked_fill_(top.isneginf(), 0.0)
        tau = torch.full_like(top, -float(q))
        _newton(z, tau, p, q)
        torch.sub(z, tau, out=p).relu_()
        if q == 2:
            p.mul_(0.5).square_()
    return out


def _newton(z: Tensor, tau: Tensor, gap: Tensor, q: int) -> None:
    """Move tau (N, 1) to the roots, from the left.

    Args:
        z: scores, with maximum 0.
        tau: where to start; changed in place.
        gap: a buffer of z's shape.
        q: 1 or 2.
    """
    precision = torch.finfo(z.dtype)
    # A step d of the convex 2-norm leaves at most D d^2 / 4. At q = 1 it is exact if no score lies
    # within it.
    enough = 2 * precision.eps if q == 1 else (precision.eps / z.size(-1)) ** 0.5
    moving = torch.ones_like(tau)
    for _ in range(_MOST_STEPS):
        torch.sub(z, tau, out=gap).relu_()
        total = gap.sum(dim=-1, keepdim=True)
        if q == 1:
            size = torch.sign(gap, out=gap).sum(dim=-1, keepdim=True)
            step = total.sub_(1).div_(size.clamp_(min=1)).clamp_(min=0)
        else:
            norm = torch.linalg.vector_norm(gap, dim=-1, keepdim=True)
            step = (norm - q).mul_(norm).div_(total.clamp_(min=precision.tiny))
        # a row stops by its own steps: its last bits must not tell of the rows beside it
        tau += step.mul_(moving)
        torch.gt(step, enough, out=moving)
        if float(step.max()) <= enough:
            return


def simplex_gradient(p_ND: Tensor, grad_ND: Tensor, q: float) -> Tensor:
    """Return the gradient of a map from its result p: s (grad - s . grad / sum s).

    s is p^(1 - 1 / q): the support of sparsemax (q = 1), the root of 1.5-entmax (q = 2), the
    weights themselves of softmax (q infinite).
    """
    out = torch.empty_like(p_ND)
    tiny = torch.finfo(p_ND.dtype).tiny
    for rows in _blocks(*p_ND.shape):
        s, d_z = p_ND[rows], out[rows]
        if q == 1:
            s = torch.sign(s)
        elif q == 2:
            # the root: torch's own takes ten times as long where a number is zero
            s = s.clamp(min=tiny).rsqrt_().mul_(s)
        torch.mul(s, grad_ND[rows], out=d_z)
        mean = d_z.sum(dim=-1, keepdim=True).div_(s.sum(dim=-1, keepdim=True).clamp_(min=tiny))
        d_z.sub_(s * mean)
    return out


# ---- top-k -------------------------------------------------------------------------------------

# Stepping down k values pays up to here, and while torch.topk does not keep a heap.
_FEW, _HEAP = 20, 64
# numbers that torch's maximum of a row takes at a time; what is left over it takes one by one
_AT_ONCE = 16


def topk_map(z_ND: Tensor, k_N1: Tensor) -> Tensor:
    """Return the softmax over the entries not below the k-th largest of their row.

    k is 1 or more; a row with fewer visible entries keeps all; one that hides all is zero.
    """
    lowest = torch.finfo(z_ND.dtype).min / 2
    out = torch.empty_like(z_ND)
    most = min(int(k_N1.max()), z_ND.size(-1)) if k_N1.numel() else 1
    for rows in _blocks(*z_ND.shape):
        z, k, p = z_ND[rows], k_N1[rows].clamp(max=most), out[rows]
        if most > _FEW or most * _HEAP < z.size(-1):
            largest = z.topk(most, dim=-1).values
            top, kth = largest[:, :1], largest.gather(-1, k - 1)
        else:
            top, kth = _step_down(z, k, most)
        # what is dropped becomes so low that its exponential is 0
        kept = torch.lt(z, kth, out=torch.empty_like(z)).mul_(lowest).add_(z)
        dead = top.isneginf()
        if dead.any():
            torch.softmax(kept.masked_fill_(dead, 0.0), dim=-1, out=p).masked_fill_(dead, 0.0)
        else:
            torch.softmax(kept, dim=-1, out=p)
    return out


def _step_down(z: Tensor, k: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return each row's largest value and its largest value that k entries reach, both (N, 1).

    From one value to the next lower one; ``most`` is the largest k.
    """
    lowest = torch.finfo(z.dtype).min / 2
    z = F.pad(z, (0, -z.size(-1) % _AT_ONCE), value=float("-inf"))
    top = kth = z.amax(dim=-1, keepdim=True)
    buffer = torch.empty_like(z)
    for _ in range(most - 1):
        reached = torch.ge(z, kth, out=buffer)  # as numbers: truth values take longer
        short = reached.sum(dim=-1, keepdim=True) < k
        lower = torch.add(z, reached, alpha=lowest, out=buffer).amax(dim=-1, keepdim=True)
        kth = torch.where(short, lower, kth)
    return top, kth
