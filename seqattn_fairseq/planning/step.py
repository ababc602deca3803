"""One update of a training on made-up sentences: what is planned, and what is timed.

Shapes: B sentences, S and T tokens of a source and a target.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from fairseq import criterions, models, optim
from fairseq.data import Dictionary
from fairseq.optim.fp16_optimizer import FP16Optimizer, MemoryEfficientFP16Optimizer
from torch import Tensor, nn

from seqattn_fairseq.errors import SeqAttnError

# tokens of a side of a sentence; the corpora here average 22 to 33
USUAL_LENGTH = 32

# what trains in another way than the update below
_UNPLANNED = {
    "common.amp": "automatic mixed precision",
    "common.tpu": "a TPU",
    "distributed_training.pipeline_model_parallel": "a pipeline of devices",
    "distributed_training.zero_sharding": "a sharded optimiser",
    "distributed_training.use_sharded_state": "a sharded optimiser",
}
_UNPLANNED_BACKENDS = ("fully_sharded", "slowmo")


@dataclass(frozen=True)
class Shape:
    """The batch of one forward pass.

    Attributes:
        sentences: number of pairs.
        source: tokens of each source, padding included.
        target: tokens of each target, padding included.
    """

    sentences: int
    source: int
    target: int

    @property
    def tokens(self) -> int:
        """Target tokens of the pass."""
        return self.sentences * self.target

    @classmethod
    def filling(cls, limits: Any, source: int, target: int) -> Shape:
        """Return the batch that fairseq fills with sentences of these lengths.

        Args:
            limits: fairseq's section ``dataset``: ``max_tokens``, ``batch_size`` and
                ``required_batch_size_multiple``.
            source: tokens of each source.
            target: tokens of each target.

        Raises:
            SeqAttnError: there is no limit, or not one sentence fits.
        """
        longest = max(source, target)
        if not limits.max_tokens and not limits.batch_size:
            raise SeqAttnError(
                "how large is a batch? say dataset.max_tokens=... (with --arch: --max-tokens ...)"
            )
        most = [limits.max_tokens // longest] if limits.max_tokens else []
        most += [limits.batch_size] if limits.batch_size else []
        if min(most) < 1:
            raise SeqAttnError(
                f"no sentence of {longest} tokens fits into dataset.max_tokens="
                f"{limits.max_tokens} (--max-tokens); raise it, or plan shorter sentences"
            )
        return cls(rounded(min(most), limits.required_batch_size_multiple), source, target)


def rounded(sentences: int, multiple: int) -> int:
    """Return how many of so many sentences fairseq takes: a multiple where there are enough."""
    return max(sentences // multiple * multiple, sentences % multiple)


@dataclass(frozen=True)
class Subject:
    """A training: its configuration, as fairseq composes it, and its two dictionaries."""

    cfg: Any
    source: Dictionary
    target: Dictionary

    def dtype(self) -> torch.dtype:
        """Return what the configuration says that the model computes in."""
        common = self.cfg.common
        if common.fp16 or common.memory_efficient_fp16:
            return torch.float16
        narrow = common.bf16 or common.memory_efficient_bf16
        return torch.bfloat16 if narrow else torch.float32


def stand_in(types: int) -> Dictionary:
    """Return a dictionary of so many made-up words beside fairseq's four symbols."""
    dictionary = Dictionary()
    for index in range(types):
        dictionary.add_symbol(f"w{index}")
    return dictionary


def refuse_unplanned(cfg: Any) -> None:
    """Refuse a training whose update is another one.

    Raises:
        SeqAttnError: with the option that makes it so.
    """
    for option, what in _UNPLANNED.items():
        section, _, name = option.partition(".")
        if getattr(getattr(cfg, section), name, None) not in (None, False, "none"):
            raise SeqAttnError(f"{option}: {what} cannot be planned; leave it out")
    backend = str(cfg.distributed_training.ddp_backend)
    if backend in _UNPLANNED_BACKENDS:
        raise SeqAttnError(
            f"distributed_training.ddp_backend={backend} cannot be planned; pytorch_ddp can"
        )


class Step:
    """A model with its criterion and optimiser, as fairseq's trainer makes them.

    Args:
        subject: the training.
        device: where it runs.
        dtype: what the model computes in.

    Raises:
        SeqAttnError: options of the model that contradict each other.
    """

    def __init__(self, subject: Subject, device: torch.device, dtype: torch.dtype) -> None:
        cfg = subject.cfg
        self.subject, self.device = subject, device
        task = SimpleNamespace(
            source_dictionary=subject.source, target_dictionary=subject.target, cfg=cfg.task
        )
        model = models.build_model(cfg.model, task).train()
        self.model: nn.Module = model
        self.criterion = criterions.build_criterion(cfg.criterion, task).train()
        modules = (self.model, self.criterion)
        for module in modules:
            _convert(module, device, dtype)
        self.parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
        self.optimizer = _optimizer(cfg, self.parameters, dtype)
        self.optimizer.set_lr(_RATE)

    def passes(self, sample: dict[str, Any]) -> None:
        """Run forward and backward; gradients add up."""
        loss, _, _ = self.criterion(self.model, sample)
        self.optimizer.backward(loss)

    def update(self, sample_size: int) -> None:
        """Divide the gradients, clip them, let the optimiser step, and drop them."""
        self.optimizer.multiply_grads(1 / sample_size)
        self.optimizer.clip_grad_norm(float(self.subject.cfg.optimization.clip_norm))
        self.optimizer.step()
        self.optimizer.zero_grad()

    def sample(self, shape: Shape) -> dict[str, Any]:
        """Return a batch in fairseq's form; the last sentence lacks a token of each side.

        So there is padding, as there nearly always is, and hardly any, so that tokens of the
        batch and tokens of a sentence are the same count.
        """
        source = _ids(shape.sentences, shape.source, self.subject.source, left=True)
        target = _ids(shape.sentences, shape.target, self.subject.target, left=False)
        previous = target.roll(1, 1)
        previous[:, 0] = self.subject.target.eos()
        counts = target.ne(self.subject.target.pad())
        lengths = source.ne(self.subject.source.pad()).sum(1)
        inputs = {
            "src_tokens": source,
            "src_lengths": lengths,
            "prev_output_tokens": previous,
        }
        return {
            "id": torch.arange(shape.sentences),
            "net_input": {name: ids.to(self.device) for name, ids in inputs.items()},
            "target": target.to(self.device),
            "ntokens": int(counts.sum()),
            "nsentences": shape.sentences,
        }

    def run(self, sample: dict[str, Any]) -> None:
        """Train on a batch, in as many passes as the configuration cuts an update into."""
        for _ in range(int(self.subject.cfg.optimization.update_freq[0])):
            self.passes(sample)
        self.update(sample["ntokens"])


# so low that made-up sentences leave the weights as they are
_RATE = 1e-9


def _convert(root: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Do what ``root.to(device, dtype)`` does, which refuses parameters without numbers."""
    made: dict[Tensor, Tensor] = {}  # tied parameters stay tied
    for module in root.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is None:
                    continue
                if old not in made:
                    wanted = dtype if old.is_floating_point() else old.dtype
                    new = old.detach().to(device, wanted)
                    is_parameter = isinstance(old, nn.Parameter)
                    made[old] = nn.Parameter(new, old.requires_grad) if is_parameter else new
                tensors[name] = made[old]  # type: ignore[assignment]


def _optimizer(cfg: Any, parameters: list[Tensor], dtype: torch.dtype) -> Any:
    common = cfg.common
    if dtype == torch.float32:
        return optim.build_optimizer(cfg.optimizer, parameters)
    frugal = common.memory_efficient_fp16 or common.memory_efficient_bf16
    kind = MemoryEfficientFP16Optimizer if frugal else FP16Optimizer
    return kind.build_optimizer(cfg, parameters)


def _ids(sentences: int, length: int, dictionary: Dictionary, left: bool) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    size = (sentences, length)
    ids = torch.randint(dictionary.nspecial, len(dictionary), size, generator=generator)
    ids[:, -1] = dictionary.eos()
    if length > 1:
        ids[-1] = ids[-1].roll(1)
        ids[-1, 0] = dictionary.pad()
        if not left:
            ids[-1] = ids[-1].roll(-1)
    return ids
