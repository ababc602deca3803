"""Comparing one attention with its official code: whole, step by step, and after reordering.

Shapes: B batch, T queries, S keys, C width, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from seqattn_fairseq.parity.comparison import Comparison
from seqattn_fairseq.parity.golden import Golden
from seqattn_fairseq.parity.modules import with_parameters
from seqattn_fairseq.transformer.attention import AttentionLog, MultiheadAttention, Site
from seqattn_fairseq.transformer.cache import BeamCache, Memory, MemoryCache


@dataclass(frozen=True)
class Layout:
    """How an official code lays out what its attention takes and gives; all maps are from ours.

    Attributes:
        sequence: of (B, T, C); its own inverse.
        weights: of (B, H, T, S).
        cache: of cached keys or values (B, H, S, d).
        caches: the names of the arrays of final keys and values.
    """

    sequence: Callable[[Tensor], Tensor]
    weights: Callable[[Tensor], Tensor]
    cache: Callable[[Tensor], Tensor]
    caches: tuple[str, str]


@dataclass(frozen=True)
class AttentionCase:
    """One attention of a file.

    Attributes:
        golden: the file.
        module: our module.
        leaves: the official parameters, which collect gradients.
        state: the same, in our terms.
        layout: the official layout.
        mask_BS: True at padding of the keys; None if there is none.
    """

    golden: Golden
    module: MultiheadAttention
    leaves: Mapping[str, Tensor]
    state: Mapping[str, Tensor]
    layout: Layout
    mask_BS: Tensor | None

    def compare(self, comparison: Comparison) -> None:
        """Compare everything in the file."""
        self._whole(comparison)
        if "output/incremental" in self.golden:
            with torch.no_grad():
                with_parameters(self.module, self.state, lambda m: self._steps(m, comparison))

    def _input(self, name: str) -> Tensor:
        return self.layout.sequence(self.golden[f"input/{name}"])

    def _whole(self, comparison: Comparison) -> None:
        names = [name for name in ("query", "memory") if f"input/{name}" in self.golden]
        inputs = {name: self.golden.leaf(f"input/{name}") for name in names}
        log = AttentionLog()

        def run(module: MultiheadAttention) -> Tensor:
            sequences = [self.layout.sequence(x) for x in inputs.values()]
            out: Tensor = module(sequences[0], sequences[-1], self.mask_BS, log)
            return self.layout.sequence(out)

        out = with_parameters(self.module, self.state, run)
        (out * self.golden["input/loss_weight"]).sum().backward()
        comparison.output("out", out)
        weights = log.weights[self.module.site.value][0]
        comparison.output("weights", self.layout.weights(weights))
        comparison.gradients({**self.leaves, **inputs})

    def _new_cache(self, module: MultiheadAttention) -> BeamCache | MemoryCache:
        if module.site is Site.CROSS:
            return module.memory_cache(Memory(self._input("memory"), self.mask_BS))
        return BeamCache()

    def _steps(self, module: MultiheadAttention, comparison: Comparison) -> None:
        query, cache = self._input("query"), self._new_cache(module)
        out = _stepped(module, cache, query)
        comparison.output("incremental", self.layout.sequence(out))
        heads = query.unflatten(2, (module.num_heads, -1)).transpose(1, 2)
        for name, rows in zip(self.layout.caches, _contents(cache, heads), strict=True):
            comparison.output(name, self.layout.cache(rows))
        if "output/incremental_after_reorder" in self.golden:
            before = int(self.golden["input/reorder_after_step"])
            cache = self._new_cache(module)
            if before:
                _stepped(module, cache, query[:, :before])
            _reorder(cache, self.golden["input/new_order"].long())
            out = _stepped(module, cache, query[:, before:])
            comparison.output("incremental_after_reorder", self.layout.sequence(out))


def _stepped(
    module: MultiheadAttention, cache: BeamCache | MemoryCache, query_BTC: Tensor
) -> Tensor:
    """Return the outputs of one step per position."""
    if isinstance(cache, MemoryCache):
        steps = [module.step_cross(x, cache) for x in query_BTC.split(1, dim=1)]
    else:
        steps = [module.step_self(x, cache) for x in query_BTC.split(1, dim=1)]
    return torch.cat(steps, dim=1)


def _contents(cache: BeamCache | MemoryCache, like_BHnd: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cached keys and values (B, H, S, d)."""
    if isinstance(cache, MemoryCache):
        return cache.key_BHSd, cache.value_BHSd
    nothing = like_BHnd[:, :, :0]
    keys, values, _ = cache.append(nothing, nothing)
    return keys, values


def _reorder(cache: BeamCache | MemoryCache, order: Tensor) -> None:
    if isinstance(cache, MemoryCache):
        cache.reorder_memory(order)
    else:
        cache.reorder(order)
