"""What an operator has to do: bytes to move, and multiplications where there are many.

Shapes: G products of (M, K) and (K, N) matrices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from seqattn_fairseq.ops.linear import onednn_is_faster

_PRODUCT, _PRODUCTS = ("mm", "addmm"), ("bmm", "baddbmm")
# multiplications at which a CPU changes the library, see ops/linear.py
_LARGE = 2**24
_FACTORIES = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


class Work(NamedTuple):
    """One call of an operator.

    Attributes:
        name: of the operator; ``product`` or ``small product`` of two matrices, ``products`` for a
            batch of them, ``view`` for what moves nothing.
        bytes: read and written.
        flops: floating-point operations of products, convolutions and attention; 0 of others.
    """

    name: str
    bytes: int
    flops: int


def product(batch: int, m: int, k: int, n: int, itemsize: int) -> Work:
    """Return the work of G products of (M, K) and (K, N)."""
    moved = batch * (m * k + k * n + m * n) * itemsize
    return Work(_product_name(batch > 1, m * k * n), moved, 2 * batch * m * k * n)


def scratch(func: Any, args: Any) -> int:
    """Return the bytes that a product takes while it runs: oneDNN's copy of a transposed matrix."""
    name = func.overloadpacket.__name__
    if name not in _PRODUCT or not onednn_is_faster():
        return 0
    a, b = args[_PRODUCT.index(name) :][:2]
    large = a.size(0) * a.size(1) * b.size(1) >= _LARGE
    return _bytes(a) if large and a.dtype == torch.float32 and not a.is_contiguous() else 0


def work(func: Any, args: Any, kwargs: Any, out: Any) -> Work:
    """Return the work of a call that a dispatch mode saw."""
    packet = func.overloadpacket
    name = packet.__name__
    if _moves_nothing(func):
        return Work("view", 0, 0)
    moved = sum(_bytes(leaf) for leaf in tree_leaves((args, kwargs, out)))
    count = flop_registry.get(packet)
    flops = int(count(*args, **kwargs, out_val=out)) if count else 0
    if name in _PRODUCT or name in _PRODUCTS:
        name = _product_name(name in _PRODUCTS, flops // 2)
    return Work(name, moved, flops)


def _product_name(many: bool, multiplications: int) -> str:
    if many:
        return "products"
    return "product" if multiplications >= _LARGE else "small product"


def _moves_nothing(func: Any) -> bool:
    if func.overloadpacket.__name__ in _FACTORIES:
        return True
    returned = [result.alias_info for result in func._schema.returns]
    return bool(returned) and all(alias and not alias.is_write for alias in returned)


def _bytes(leaf: Any) -> int:
    if not isinstance(leaf, Tensor):
        return 0
    # expanded tensors have more numbers than memory
    return min(leaf.numel() * leaf.element_size(), leaf.untyped_storage().nbytes())
