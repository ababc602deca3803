"""Apollo, a diagonal quasi-Newton optimiser (Ma 2020), as ``--optimizer apollo``.

It is the optimiser of Luna's published runs. Every tensor has reductions of its own (norms and
inner products), so parameters cannot be flattened into one: under ``--fp16`` fairseq asks for
``--fp16-no-flatten-grads``. The same holds for the clipping of those runs, which bounds the norm of
each gradient tensor by itself (``--clip-each``; ``--clip-mode each`` there).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, List, Optional  # noqa: UP035

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II
from torch import Tensor
from torch.optim import Optimizer

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.transformer.config import option

REBOUNDS = ("constant", "belief")
DECAYS = ("L2", "decoupled", "stable")
# the least curvature that a constant rebound admits; the learning rate is in units of it
_REBOUND = 0.01


@dataclass(frozen=True)
class _Rule:
    """The options of a parameter group."""

    lr: float
    beta: float
    eps: float
    rebound: str
    weight_decay: float
    weight_decay_type: str

    def decays(self, how: str) -> bool:
        return self.weight_decay != 0 and self.weight_decay_type == how


class Apollo(Optimizer):
    """Adaptive parameter-wise diagonal quasi-Newton descent.

    For each tensor: a running mean of gradients, a running diagonal curvature (from the change of
    that mean along the last update), and the last update.

    Args:
        params: tensors or groups of them.
        lr: learning rate.
        beta: decay of the mean of gradients.
        eps: keeps divisions finite.
        rebound: curvature is at least 0.01 ("constant"), or the largest change of the gradient
            ("belief").
        weight_decay: its strength.
        weight_decay_type: "L2" adds it to the gradient, "decoupled" to the update, "stable" to the
            update divided by the mean curvature; default: L2 for the constant rebound, else
            decoupled.

    Raises:
        SeqAttnError: a value out of range.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        beta: float = 0.9,
        eps: float = 1e-4,
        rebound: str = "constant",
        weight_decay: float = 0.0,
        weight_decay_type: str | None = None,
    ) -> None:
        weight_decay_type = _decay_type(rebound, weight_decay_type)
        _check(lr, beta, eps, rebound, weight_decay, weight_decay_type)
        super().__init__(
            params,
            {
                "lr": lr,
                "beta": beta,
                "eps": eps,
                "rebound": rebound,
                "weight_decay": weight_decay,
                "weight_decay_type": weight_decay_type,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                rule = _Rule(**{name: group[name] for name in _Rule.__dataclass_fields__})
                _update(params, [self._state_of(p) for p in params], rule)
        return loss

    def _state_of(self, p: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[p]
        if not state:
            state["step"] = 0
            for name in ("exp_avg_grad", "approx_hessian", "update"):
                state[name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        state["step"] += 1
        return state


def _decay_type(rebound: str, chosen: str | None) -> str:
    if chosen is not None:
        return chosen
    return "L2" if rebound == "constant" else "decoupled"


def _check(
    lr: float, beta: float, eps: float, rebound: str, weight_decay: float, decay_type: str
) -> None:
    for flag, value, good, allowed in (
        ("--lr", lr, lr >= 0, "at least 0"),
        ("--apollo-beta", beta, 0 <= beta < 1, "from 0 to less than 1"),
        ("--apollo-eps", eps, eps >= 0, "at least 0"),
        ("--rebound", rebound, rebound in REBOUNDS, f"one of {', '.join(REBOUNDS)}"),
        ("--weight-decay", weight_decay, weight_decay >= 0, "at least 0"),
        ("--weight-decay-type", decay_type, decay_type in DECAYS, f"one of {', '.join(DECAYS)}"),
    ):
        if not good:
            raise SeqAttnError(f"{flag} is {value}, but must be {allowed}")


def _update(params: list[Tensor], states: list[dict[str, Any]], rule: _Rule) -> None:
    """Take one step; what is element-wise goes over all tensors at once, reductions one by one."""
    grads = [p.grad for p in params if p.grad is not None]
    means, hessians, updates = (
        [state[name] for state in states] for name in ("exp_avg_grad", "approx_hessian", "update")
    )
    if rule.decays("L2"):
        grads = list(torch._foreach_add(grads, params, alpha=rule.weight_decay))
    rates = [(1 - rule.beta) / (1 - rule.beta ** state["step"]) for state in states]
    changes = list(torch._foreach_sub(grads, means))
    for mean, change, rate in zip(means, changes, rates, strict=True):
        mean.add_(change, alpha=rate)

    least, eps = _least_curvature(changes, rule)
    _renew_hessians(hessians, updates, changes, rates, eps)
    curvatures = [h.abs().clamp_(min=m) for h, m in zip(hessians, least, strict=True)]
    if rule.rebound == "belief":
        torch._foreach_add_(curvatures, [eps / rate for rate in rates])

    torch._foreach_copy_(updates, means)
    torch._foreach_div_(updates, curvatures)
    if rule.decays("decoupled"):
        torch._foreach_add_(updates, params, alpha=rule.weight_decay)
    elif rule.decays("stable"):
        for update, p, curvature in zip(updates, params, curvatures, strict=True):
            update.add_(p * (rule.weight_decay / curvature.mean()))
    torch._foreach_add_(params, updates, alpha=-rule.lr)


def _least_curvature(changes: list[Tensor], rule: _Rule) -> tuple[list[Any], float]:
    """Return each tensor's least curvature, and epsilon in its units."""
    if rule.rebound == "constant":
        return [_REBOUND] * len(changes), rule.eps / _REBOUND
    return [change.abs().max() for change in changes], rule.eps


def _renew_hessians(
    hessians: list[Tensor],
    updates: list[Tensor],
    changes: list[Tensor],
    rates: list[float],
    eps: float,
) -> None:
    """Correct the curvatures so that along the last update they explain the gradient's change."""
    for hessian, update, change, rate in zip(hessians, updates, changes, rates, strict=True):
        scale = torch.linalg.vector_norm(update, 4) + eps
        direction = update / scale
        square = direction.square()
        observed = -rate * (change / scale * direction).sum()
        hessian.addcmul_(square, observed - (hessian * square).sum())


@torch.no_grad()
def clip_each(gradients: list[Tensor], bound: float) -> None:
    """Scale every tensor whose norm exceeds ``bound`` down to that norm, in place."""
    if gradients:
        scales = [(bound / norm).clamp(max=1) for norm in torch._foreach_norm(gradients)]
        torch._foreach_mul_(gradients, scales)


_DecayType: Any = ChoiceEnum(list(DECAYS))


@dataclass
class FairseqApolloConfig(FairseqDataclass):
    """The options of ``--optimizer apollo``, by their official names."""

    apollo_beta: float = option(0.9, "decay of the mean of gradients")
    apollo_eps: float = option(1e-4, "keeps divisions finite")
    rebound: ChoiceEnum(list(REBOUNDS)) = option(  # type: ignore[valid-type]
        "constant", "least curvature: 0.01, or the largest change of the gradient"
    )
    weight_decay: float = option(0.0, "weight decay")
    weight_decay_type: Optional[_DecayType] = option(  # noqa: UP045 fairseq's parser needs Optional
        None, "where weight decay acts; default: L2, with --rebound belief decoupled"
    )
    clip_each: float = option(
        0.0,
        "largest norm of each gradient tensor by itself, 0: no bound; --clip-norm bounds the norm "
        "of all of them together",
    )
    clip_norm: float = II("optimization.clip_norm")
    # fairseq's parser needs List
    lr: List[float] = II("optimization.lr")  # noqa: UP006, RUF009


@register_optimizer("apollo", dataclass=FairseqApolloConfig)
class FairseqApollo(FairseqOptimizer):
    """Apollo for fairseq; it does not offer flattened parameters, which it could not tell apart."""

    def __init__(self, cfg: FairseqApolloConfig, params: Any) -> None:
        super().__init__(cfg)
        if not cfg.clip_each >= 0:
            raise SeqAttnError(f"--clip-each is {cfg.clip_each}, but must be at least 0")
        if cfg.clip_each and cfg.clip_norm:
            raise SeqAttnError(
                f"--clip-each {cfg.clip_each} and --clip-norm {cfg.clip_norm} exclude each other; "
                "leave one at 0"
            )
        self._optimizer = Apollo(params, **self.optimizer_config)

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: Any = None) -> Tensor:
        """Return the norm of all gradients, with ``--clip-each`` the largest of a tensor.

        That option clips in :meth:`step`: only there are gradients under fp16 and bf16 in float32
        and freed of the loss scale.
        """
        if not self.cfg.clip_each:
            norm: Tensor = super().clip_grad_norm(max_norm, aggregate_norm_fn)
            return norm
        norms = torch._foreach_norm(self._gradients())
        return torch.stack(list(norms)).max() if norms else torch.tensor(0.0)

    def step(self, closure: Any = None, scale: float = 1.0, groups: Any = None) -> None:
        """Clip each gradient if asked to, then update."""
        if scale != 1.0:
            self.multiply_grads(1.0 / scale)
        if self.cfg.clip_each:
            clip_each(self._gradients(), self.cfg.clip_each)
        super().step(closure, groups=groups)

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.params if p.grad is not None]

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """What a resumed run takes from its own options and not from the checkpoint."""
        lr, rebound = self.cfg.lr, str(self.cfg.rebound)
        chosen = self.cfg.weight_decay_type
        return {
            "lr": lr[0] if isinstance(lr, Sequence) else lr,
            "beta": self.cfg.apollo_beta,
            "eps": self.cfg.apollo_eps,
            "rebound": rebound,
            "weight_decay": self.cfg.weight_decay,
            "weight_decay_type": _decay_type(rebound, None if chosen is None else str(chosen)),
        }
