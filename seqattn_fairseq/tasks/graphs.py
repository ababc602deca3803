"""Training steps recorded once per batch shape and replayed: CUDA graphs.

A small model's step is thousands of kernels, and starting them takes a CPU longer than a GPU needs
to run them. A graph starts them all at once. It reads and writes the memory that it was recorded
with, so a recorded step gets

* inputs of its own, into which a batch is copied;
* gradients that stay where they are: a recorded backward pass adds to them. fairseq's optimisers
  drop gradients (``grad = None``) before an update; here they come back as they were, zeroed;
* copies of what it returns, because the next replay overwrites it.

Nothing in this file is about CUDA but :class:`CudaRecorder`; tests bring another recorder.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, NoReturn, Protocol, TypeVar

import torch
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.distributed import (
    DistributedTimeoutWrapper,
    LegacyDistributedDataParallel,
    ModuleProxyWrapper,
)
from fairseq.modules import LayerDropModuleList
from fairseq.optim import AMPOptimizer, FairseqBMUF
from torch import Tensor, nn

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.transformer.model import SeqAttnModel

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Sample = dict[str, Any]
Key = tuple[tuple[str, torch.Size, torch.dtype], ...]
Outputs = tuple[Any, Any, dict[str, Any]]  # loss, sample size, logging output

# passes of a shape before it is recorded: they build what is built lazily (kernels, plans, buffers)
EAGER_PASSES = 2

# graphs kept at least; each holds its inputs and outputs and some megabytes of the driver's
MOST_GRAPHS = 64

# Criterions whose result depends on the batch's tensors alone.
_CRITERIONS = ("seqattn_label_smoothed_cross_entropy", "seqattn_rdrop")
_WRAPPERS = (DistributedTimeoutWrapper, LegacyDistributedDataParallel, ModuleProxyWrapper)


class Recorder(Protocol):
    """Runs functions, and records them for replays."""

    def run(self, function: Callable[[], Result]) -> Result:
        """Return ``function()``, having prepared what recording it later needs."""

    def record(self, function: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        """Record what ``function`` does to tensors, without doing it.

        Returns:
            what the function returned, whose tensors hold nothing yet; and a function that does
            what was recorded, on the same memory.
        """


class CudaRecorder:
    """Records on the current GPU; all graphs share the memory of their intermediate results.

    They may, because none runs beside another, and none reads what another has left.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, function: Callable[[], Result]) -> Result:
        """Run on the stream that records: parameters remember where their gradients are added."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = function()
        current.wait_stream(self._stream)
        return result

    def record(self, function: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        """Capture a graph (see :class:`Recorder`)."""
        graph = torch.cuda.CUDAGraph()
        # "thread_local": the threads that load and pin batches may go on
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            result = function()
        return result, graph.replay


class _FromBatch:
    """Stands for a number of the batch that is no tensor.

    A criterion may hand it on; if it computes with it, Python raises TypeError, because a replay
    would compute with the number of the batch that was recorded.
    """

    def __init__(self, name: str) -> None:
        self.name = name


def _tensors(sample: Sample) -> Iterator[tuple[str, Tensor]]:
    for name, value in sample.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", tensor) for inner, tensor in _tensors(value))
        elif isinstance(value, Tensor):
            yield name, value


def _fixed(sample: Sample) -> Sample:
    """Return a copy of the batch for recording: tensors of its own, no other values."""
    fixed: Sample = {}
    for name, value in sample.items():
        if isinstance(value, dict):
            fixed[name] = _fixed(value)
        else:
            fixed[name] = value.clone() if isinstance(value, Tensor) else _FromBatch(name)
    return fixed


def _out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if "out of memory" in str(error):
            return True
        error = error.__context__
    return False


class _RecordedStep:
    """Forward and backward pass of one batch shape.

    Args:
        recorder: records and replays.
        model: maybe wrapped.
        criterion: the loss.
        sample: a batch of the shape.
    """

    def __init__(
        self, recorder: Recorder, model: nn.Module, criterion: nn.Module, sample: Sample
    ) -> None:
        self._inputs = _fixed(sample)
        # a table of positions that grows is another tensor; the graph goes on reading this one
        self._buffers = list(model.buffers())

        def step() -> tuple[Any, dict[str, Any]]:
            loss, sample_size, logging_output = criterion(model, self._inputs)
            loss.backward()
            return sample_size, logging_output

        (self._sample_size, self._logging_output), self._replay = recorder.record(step)

    def load(self, sample: Sample) -> None:
        """Put a batch into the recorded inputs."""
        pairs = zip(_tensors(self._inputs), _tensors(sample), strict=True)
        for (_, fixed), (_, value) in pairs:
            fixed.copy_(value, non_blocking=True)

    def backward(self) -> None:
        """Replay. An optimiser is handed this object as the loss whose backward pass it starts."""
        self._replay()

    def outputs(self, sample: Sample) -> Outputs:
        """Return what the criterion returns for the batch, in memory that later replays leave."""

        def of_batch(value: Any) -> Any:
            if isinstance(value, _FromBatch):
                return sample[value.name]
            return value.clone() if isinstance(value, Tensor) else value

        output = {name: of_batch(value) for name, value in self._logging_output.items()}
        return output["loss"], of_batch(self._sample_size), output


class _Gradients:
    """Gradients that keep their memory from update to update."""

    def __init__(self, *modules: nn.Module) -> None:
        parameters = chain.from_iterable(module.parameters() for module in modules)
        self._without = [p for p in parameters if p.requires_grad]
        self._kept: list[tuple[nn.Parameter, Tensor]] = []

    def restore(self) -> None:
        """Give parameters whose gradient was dropped a zeroed one, in the memory of the first."""
        dropped = []
        for parameter, gradient in self._kept:
            if parameter.grad is None:
                dropped.append(gradient)
            elif parameter.grad is not gradient:
                gradient.copy_(parameter.grad)
            parameter.grad = gradient
        if dropped:
            torch._foreach_zero_(dropped)

    def keep(self) -> None:
        """Keep the gradients that have come into being."""
        self._kept += [(p, p.grad) for p in self._without if p.grad is not None]
        self._without = [p for p in self._without if p.grad is None]


class GraphedSteps:
    """Does the task's training steps: the first ones of a batch shape as ever, later ones replayed.

    Args:
        recorder: records and replays.
        model: one of this package's, maybe wrapped for data-parallel training.
        criterion: the loss.
        optimizer: fairseq's.
        most: graphs that are kept; then the one that was used longest ago goes.

    Raises:
        SeqAttnError: what is to be trained cannot be recorded; the message names the remedy.
    """

    def __init__(
        self,
        recorder: Recorder,
        model: nn.Module,
        criterion: nn.Module,
        optimizer: Any,
        most: int,
    ) -> None:
        check_training(model, criterion, optimizer)
        self._recorder, self._most = recorder, most
        self._model, self._criterion, self._optimizer = model, criterion, optimizer
        self._watched = _unwrapped(model)
        self._gradients = _Gradients(model, criterion)
        self._seen: Counter[Key] = Counter()
        self._steps: OrderedDict[Key, _RecordedStep] = OrderedDict()
        self._unrecordable: set[Key] = set()

    def serves(self, model: nn.Module, optimizer: Any) -> bool:
        """Tell whether these are the model and the optimiser that steps are recorded of."""
        return model is self._model and optimizer is self._optimizer

    def train_step(
        self, eager: Callable[[], Outputs], sample: Sample, ignore_grad: bool
    ) -> Outputs:
        """Do forward and backward pass of a batch; return loss, sample size, logging output.

        Args:
            eager: does the same without a graph.
            sample: fairseq's batch.
            ignore_grad: the batch stands for none, and its gradient does not count.
        """
        self._gradients.restore()
        step = None if ignore_grad or self._watched._forward_hooks else self._step(sample)
        if step is None:
            outputs = self._recorder.run(eager)
            self._gradients.keep()
            return outputs
        if isinstance(self._model, DistributedTimeoutWrapper):  # its forward does not run
            self._model._heartbeat.set()
        step.load(sample)
        self._optimizer.backward(step)
        return step.outputs(sample)

    def _step(self, sample: Sample) -> _RecordedStep | None:
        key = tuple((name, x.shape, x.dtype) for name, x in _tensors(sample))
        step = self._steps.get(key)
        if step is None and key not in self._unrecordable:
            self._seen[key] += 1
            step = self._record(key, sample) if self._seen[key] > EAGER_PASSES else None
        if step is not None:
            self._steps.move_to_end(key)
        return step

    def _record(self, key: Key, sample: Sample) -> _RecordedStep | None:
        try:
            step = _RecordedStep(self._recorder, self._model, self._criterion, sample)
        except RuntimeError as error:
            if not _out_of_memory(error):
                first = str(error).strip().splitlines()[0]
                raise SeqAttnError(
                    f"--cuda-graphs: the step cannot be recorded ({first}); train without it"
                ) from error
            shape = " x ".join(map(str, sample["net_input"]["src_tokens"].shape))
            logger.warning(
                f"no memory to record the step of sources of shape {shape}: batches of this shape "
                "run without a graph; lower --max-tokens"
            )
            self._unrecordable.add(key)
            return None
        self._steps[key] = step
        if len(self._steps) > self._most:
            dropped, _ = self._steps.popitem(last=False)
            del self._seen[dropped]
        return step


def _device(model: nn.Module) -> str:
    return next(model.parameters()).device.type


def check_model(model: nn.Module) -> None:
    """Make sure that the steps of a model can be recorded.

    Args:
        model: where it will be trained, not wrapped.

    Raises:
        SeqAttnError: they cannot; the message names the remedy.
    """
    if (device := _device(model)) != "cuda":
        _refuse(f"a graph needs a GPU, but the model is on the {device}; train on a GPU")
    if not isinstance(model, SeqAttnModel):
        _refuse(f"{type(model).__name__} is no model of this package; train one of them")
    if any(isinstance(module, LayerDropModuleList) for module in model.modules()):
        _refuse(
            "LayerDrop chooses other layers in every step; train without --encoder-layerdrop and "
            "--decoder-layerdrop"
        )


def check_training(model: nn.Module, criterion: nn.Module, optimizer: Any) -> None:
    """Make sure that what surrounds a model lets its steps be recorded.

    Args:
        model: maybe wrapped.
        criterion: the loss.
        optimizer: fairseq's.

    Raises:
        SeqAttnError: it does not; the message names the remedy.
    """
    inner = _unwrapped(model)
    if "module" in inner._modules:
        _refuse(
            f"{type(inner).__name__} works within the backward pass; use --ddp-backend legacy_ddp"
        )
    if type(criterion) not in {CRITERION_REGISTRY[name] for name in _CRITERIONS}:
        _refuse(
            f"{type(criterion).__name__} may do what a graph does not repeat; use --criterion "
            f"{' or '.join(_CRITERIONS)}"
        )
    if isinstance(optimizer, FairseqBMUF):
        _refuse("BMUF has not been tried with graphs; train without --use-bmuf")
    if isinstance(optimizer, AMPOptimizer) or getattr(optimizer, "scaler", None) is not None:
        _refuse(
            "the loss scale of --fp16 and --amp is a number that a graph would keep; use --bf16"
        )


def _refuse(problem: str) -> NoReturn:
    raise SeqAttnError(f"--cuda-graphs: {problem}, or leave --cuda-graphs out")


def _unwrapped(model: nn.Module) -> nn.Module:
    while isinstance(model, _WRAPPERS):
        model = model.module
    return model
