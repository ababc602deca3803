"""The batch of a recipe: the same number of tokens an update, whatever the number of GPUs.

A paper's batch is a number of tokens; fairseq's is ``max_tokens`` x GPUs x ``update_freq``. A
recipe says the former (``batch.tokens``) and how many tokens a device holds
(``dataset.max_tokens``); the rest is arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from seqattn_fairseq.errors import SeqAttnError


@dataclass(frozen=True)
class Batch:
    """How an update is cut.

    Attributes:
        tokens: what the recipe asks for, counted as fairseq counts ``max_tokens``: the longer of
            source and target, padding included.
        processes: how many share an update: one for each GPU.
        max_tokens: of one forward pass on one of them.
        update_freq: forward passes of each before an update.
    """

    tokens: int
    processes: int
    max_tokens: int
    update_freq: int

    @property
    def reached(self) -> int:
        """Most tokens an update can hold; never above ``tokens``."""
        return self.processes * self.max_tokens * self.update_freq

    def describe(self, device: str = "GPU") -> str:
        """Return the arithmetic as one line."""
        plural = "" if self.processes == 1 else "es" if device.endswith("s") else "s"
        devices = f"{self.processes} {device}{plural}"
        total = f" = {self.reached:,}" if self.reached != self.tokens else ""
        return (
            f"{self.tokens:,} tokens an update = {devices} x {self.max_tokens:,} x update_freq "
            f"{self.update_freq}{total}"
        )

    def warning(self, positions: int) -> str:
        """Return what becomes of sentences of up to ``positions`` tokens that fit into no pass."""
        if self.max_tokens >= positions:
            return ""
        return (
            f"sentences of more than {self.max_tokens:,} tokens fit into no pass and are left out "
            f"of the training; up to {max(1, self.tokens // positions):,} devices leave room for "
            f"the {positions:,} that the model takes"
        )


def cut(tokens: int, max_tokens: int, processes: int) -> Batch:
    """Return the fewest passes that hold ``tokens``, and passes that are as large as they may be.

    Args:
        tokens: of an update.
        max_tokens: what a device holds.
        processes: number of devices.

    Raises:
        SeqAttnError: there is less than a token for each device.
    """
    for name, value in (("batch.tokens", tokens), ("dataset.max_tokens", max_tokens)):
        if value < 1:
            raise SeqAttnError(f"{name} is {value}, but must be at least 1")
    if tokens < processes:
        raise SeqAttnError(
            f"batch.tokens={tokens} is less than a token for each of {processes} devices"
        )
    update_freq = -(-tokens // (max_tokens * processes))
    return Batch(tokens, processes, tokens // (processes * update_freq), update_freq)


def apply_batch(cfg: Any) -> Batch | None:
    """Set ``update_freq`` and ``max_tokens`` of a training as ``batch.tokens`` asks.

    Args:
        cfg: the configuration of the whole training, resolved, with the world size known. It keeps
            the tokens that a device may hold as ``batch.max_tokens``.

    Returns:
        None where no section ``batch`` asks for anything.

    Raises:
        SeqAttnError: ``update_freq`` is set, too, or no ``max_tokens``.
    """
    tokens = OmegaConf.select(cfg, "batch.tokens") if isinstance(cfg, DictConfig) else None
    if tokens is None:
        return None
    asked, limit = list(cfg.optimization.update_freq), cfg.dataset.max_tokens
    if asked != [1]:
        raise SeqAttnError(
            f"optimization.update_freq={asked} and batch.tokens={tokens} contradict each other; "
            "with batch.tokens=null the former holds"
        )
    if limit is None:
        raise SeqAttnError(
            f"batch.tokens={tokens} needs dataset.max_tokens, the tokens that a device holds; "
            "without it say batch.tokens=null"
        )
    batch = cut(int(tokens), int(limit), int(cfg.distributed_training.distributed_world_size))
    with open_dict(cfg):
        cfg.batch.max_tokens = limit
        cfg.dataset.max_tokens = batch.max_tokens
        cfg.optimization.update_freq = [batch.update_freq]
    return batch
