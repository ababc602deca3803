"""fairseq's Adam in torch's fused kernel, as ``--optimizer seqattn_adam``.

The same numbers to rounding, and the same checkpoints. fairseq adds epsilon to the root of the
second moment before it corrects the bias, torch after that. With c2 = 1 - beta2^t,

    lr sqrt(c2) / c1 * m / (sqrt(v) + eps)  =  lr / c1 * m / (sqrt(v) / sqrt(c2) + eps / sqrt(c2)),

so that torch's rule with eps / sqrt(c2) in step t is fairseq's. Weights decay by the share
lr * weight_decay before that (AdamW), here and not in the kernel: in float32 its factor
1 - lr * weight_decay is 1 for a share below 3e-8, and a sixth off at 5e-8, a usual one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from torch import Tensor
from torch.optim import Optimizer

from seqattn_fairseq.errors import SeqAttnError

_HALF = (torch.float16, torch.bfloat16)
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Adam(Optimizer):
    """Adam with decoupled weight decay, as fairseq defines it.

    A parameter's state is fairseq's: ``step`` (int), ``exp_avg`` and ``exp_avg_sq``, in float32
    where the parameter is in half precision.

    Args:
        params: tensors or groups of them.
        lr: learning rate.
        betas: decay of the means of gradients and of their squares.
        eps: added to the root of the mean of squares, before the bias is corrected.
        weight_decay: share of a weight that a step with lr = 1 takes off.

    Raises:
        SeqAttnError: a value out of range.
    """

    # what fairseq asks before it hands over half-precision or flattened parameters
    supports_memory_efficient_fp16 = True
    supports_flat_params = True

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        _check(lr, betas, eps, weight_decay)
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for (step, *_), params in self._together(group["params"]).items():
                self._update(params, step, group)
        return loss

    def _together(self, params: list[Tensor]) -> dict[tuple[Any, ...], list[Tensor]]:
        """Count a step of every parameter with a gradient; return those that can go together."""
        found = defaultdict(list)
        for p in params:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                dtype = torch.float32 if p.dtype in _HALF else p.dtype
                state["step"] = 0
                for name in _MOMENTS:
                    state[name] = torch.zeros_like(p, dtype=dtype)
            state["step"] = int(state["step"]) + 1
            found[state["step"], p.device, p.dtype].append(p)
        return found

    def _update(self, params: list[Tensor], step: int, group: dict[str, Any]) -> None:
        if params[0].dtype not in _HALF:
            self._fused(params, params, step, group)
            return
        for some in _portions(params):
            wide = [torch.empty_like(p, dtype=torch.float32) for p in some]
            torch._foreach_copy_(wide, some)
            self._fused(some, wide, step, group)
            torch._foreach_copy_(some, wide)

    def _fused(
        self, params: list[Tensor], values: list[Tensor], step: int, group: dict[str, Any]
    ) -> None:
        """Take a step of ``values``, which are the parameters or copies of them in float32."""
        (beta1, beta2), decay = group["betas"], group["lr"] * group["weight_decay"]
        gradients = _alike([p.grad for p in params], values)
        means, squares = (self._moments(name, params, values) for name in _MOMENTS)
        # on the device, where the kernel reads it
        steps = [torch.full((), float(step), device=values[0].device)] * len(values)
        if decay != 0:
            torch._foreach_add_(values, values, alpha=-decay)
        torch._fused_adamw_(
            values,
            gradients,
            means,
            squares,
            [],
            steps,
            lr=float(group["lr"]),
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=group["eps"] / math.sqrt(1 - beta2**step),
            amsgrad=False,
            maximize=False,
        )

    def _moments(self, name: str, params: list[Tensor], values: list[Tensor]) -> list[Tensor]:
        # Loading makes the moments of a half-precision parameter half, too, and fairseq puts those
        # of the checkpoint in place as they are: on the CPU.
        moments = _alike([self.state[p][name] for p in params], values)
        for p, moment in zip(params, moments, strict=True):
            self.state[p][name] = moment
        return moments


def _portions(params: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yield parameters in portions no larger than the largest of them.

    A float32 copy of all of them at once is what users of half-precision parameters avoid.
    """
    most, size = max(p.numel() for p in params), 0
    portion: list[Tensor] = []
    for p in params:
        if size + p.numel() > most:
            yield portion
            portion, size = [], 0
        portion.append(p)
        size += p.numel()
    yield portion


def _alike(tensors: Sequence[Tensor | None], values: list[Tensor]) -> list[Tensor]:
    """Return tensors with type, device and strides of the values; the kernel looks at none."""
    found, copies = [], []
    for x, value in zip(tensors, values, strict=True):
        assert x is not None
        if x.is_sparse:
            raise SeqAttnError("seqattn_adam has no rule for sparse gradients")
        same = x.dtype == value.dtype and x.device == value.device and x.stride() == value.stride()
        found.append(x if same else torch.empty_like(value))
        if not same:
            copies.append((found[-1], x))
    if copies:
        torch._foreach_copy_([new for new, _ in copies], [x for _, x in copies])
    return found


def _check(lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
    for flag, value, good, allowed in (
        ("--lr", lr, lr >= 0, "at least 0"),
        (
            "--adam-betas",
            betas,
            len(betas) == 2 and all(0 <= beta < 1 for beta in betas),
            "two numbers from 0 to less than 1",
        ),
        ("--adam-eps", eps, eps >= 0, "at least 0"),
        ("--weight-decay", weight_decay, weight_decay >= 0, "at least 0"),
    ):
        if not good:
            raise SeqAttnError(f"{flag} is {value}, but must be {allowed}")


@register_optimizer("seqattn_adam", dataclass=FairseqAdamConfig)
class SeqAttnAdam(FairseqAdam):
    """fairseq's ``adam`` with another kernel: same options, same checkpoints.

    Raises:
        SeqAttnError: an option of fairseq's that needs a kernel of its own.
    """

    def __init__(self, cfg: FairseqAdamConfig, params: Any) -> None:
        FairseqOptimizer.__init__(self, cfg)  # FairseqAdam's makes an optimiser of its own
        for option in ("fp16_adam_stats", "use_old_adam", "tpu"):
            if getattr(cfg, option, False):
                flag = option.replace("_", "-")
                raise SeqAttnError(f"seqattn_adam has no --{flag}; use it with --optimizer adam")
        self._optimizer = Adam(params, **self.optimizer_config)

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: Any = None) -> Tensor:
        """Clip the norm of all gradients and return it: fairseq's numbers, in few operations."""
        gradients = [p.grad for p in self.params if p.grad is not None]
        # fairseq leaves the norm of experts' gradients out
        if len(gradients) < 2 or any(hasattr(p, "expert") for p in self.params):
            found: Tensor = super().clip_grad_norm(max_norm, aggregate_norm_fn)
            return found
        norms = torch._foreach_norm(gradients, 2, dtype=torch.float32)
        norm: Tensor = torch.stack(list(norms)).norm()
        if aggregate_norm_fn is not None:
            norm = aggregate_norm_fn(norm)
        if max_norm > 0:
            torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp_(max=1))
        return norm


# A checkpoint holds this name, and fairseq resumes only what has the name of its own optimiser;
# registered under it, the class would be taken for a duplicate.
SeqAttnAdam.__name__ = FairseqAdam.__name__
