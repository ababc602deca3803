"""Training steps on the device: stock fairseq, ours, with kernels, with CUDA graphs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from fairseq.dataclass.configs import FairseqConfig
from fairseq.optim.fp16_optimizer import FP16Optimizer
from omegaconf import OmegaConf

from benchmarks import steps
from benchmarks.batches import Corpus, Sample, batch, dictionary, shape_of
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.record import Record
from benchmarks.measure import OURS
from benchmarks.steps import Part
from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.optim.adam import SeqAttnAdam
from seqattn_fairseq.tasks.graphs import CudaRecorder, GraphedSteps
from seqattn_fairseq.transformer.registry import VARIANTS

KERNELS, GRAPHS, BOTH = "ours, kernels", "ours, graphs", "ours, kernels, graphs"
STOCK, NAIVE = "stock_transformer", "naive"
Step = Callable[[], Any]


class Training(NamedTuple):
    """One setting.

    Attributes:
        variant: whose model.
        corpus: what the batches look like.
        sentences: of a batch.
        dtype: float32, or bfloat16 with fairseq's optimiser for it.
        contenders: who takes part.
    """

    variant: str
    corpus: Corpus
    sentences: int
    dtype: torch.dtype
    contenders: tuple[str, ...]

    @property
    def name(self) -> str:
        """What it is called in the record."""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"training {self.variant} {self.corpus.size} x{self.sentences} {dtype}"


# 32 tokens as in the record of stock fairseq that docs/performance.md compares with
_IWSLT = Corpus("wmt", "iwslt_de_en", 10_000, 32, 1.0, 128)
_BIG = Corpus("wmt", "wmt_en_de_big", 32_768, 32, 1.0, 512)
_ALL = (STOCK, NAIVE, OURS, KERNELS, GRAPHS, BOTH)
FULL = (
    Training("softmax", _IWSLT, 128, torch.bfloat16, _ALL),
    Training("softmax", _IWSLT, 512, torch.bfloat16, _ALL),
    Training("softmax", _BIG, 512, torch.bfloat16, (STOCK, OURS, BOTH)),
    Training("softmax", _IWSLT, 128, torch.float32, (STOCK, OURS, BOTH)),
    *(
        Training(variant, _IWSLT, 128, torch.bfloat16, (NAIVE, OURS, BOTH))
        for variant in VARIANTS
        if variant not in {"softmax", "hybrid"}
    ),
)
_SHORT = Corpus("short", "tiny", 30, 6, 1.0, 2)
TINY = (
    Training("softmax", _SHORT, 2, torch.float32, (STOCK, OURS)),
    Training("rela_g", _SHORT, 2, torch.bfloat16, (NAIVE, OURS)),
)


def optimiser(part: Part, dtype: torch.dtype) -> Any:
    """Return the part's optimiser, for bfloat16 within fairseq's own for it."""
    parameters = [p for p in part.model.parameters() if p.requires_grad]
    settings = steps.adam_settings()
    if dtype == torch.float32:
        return part.adam(settings, parameters)
    cfg = OmegaConf.structured(FairseqConfig)
    name = "seqattn_adam" if part.adam is SeqAttnAdam else "adam"
    cfg.optimizer = OmegaConf.create({**vars(settings), "_name": name})
    cfg.common.bf16 = True
    return FP16Optimizer.build_optimizer(cfg, parameters)


def moved(sample: Sample, device: str) -> Sample:
    """Return a batch on the device."""
    return {
        key: moved(value, device)
        if isinstance(value, dict)
        else (value.to(device) if isinstance(value, torch.Tensor) else value)
        for key, value in sample.items()
    }


def make_step(part: Part, sample: Sample, dtype: torch.dtype, graphs: bool) -> Step:
    """Return what fairseq's trainer does with a batch, but for what it logs."""
    model, criterion = part.model, cast(Any, part.criterion)
    adam = optimiser(part, dtype)

    def eager() -> tuple[Any, Any, dict[str, Any]]:
        loss, size, output = criterion(model, sample)
        adam.backward(loss)
        return loss, size, output

    recorded = GraphedSteps(CudaRecorder(), model, criterion, adam, 4) if graphs else None

    def run() -> None:
        adam.zero_grad()
        if recorded is None:
            eager()
        else:
            recorded.train_step(eager, sample, False)
        adam.multiply_grads(1 / sample["ntokens"])
        adam.clip_grad_norm(steps.CLIP_NORM)
        adam.step()

    return run


def _part(training: Training, contender: str, symbols: Any) -> Part:
    model = steps.our_model(training.variant, training.corpus.size, symbols)
    if contender == STOCK:
        return steps.stock_transformer(model, training.corpus.size, symbols)
    return steps.naive(model, symbols) if contender == NAIVE else steps.ours(model, symbols)


def measured(training: Training, contender: str, clock: Clock, seconds: float) -> dict[str, Any]:
    """Return seconds and tokens per second of one contender, and the loss it starts with."""
    symbols = dictionary(training.corpus.vocabulary)
    given = batch(training.corpus, symbols, training.sentences)
    sample = moved(given, clock.device)
    part = _part(training, contender, symbols)
    part = part._replace(model=part.model.to(clock.device, training.dtype))
    kernels = backend("triton") if contender in {KERNELS, BOTH} else nullcontext()
    with kernels, part.within():
        with torch.no_grad():
            loss = part.criterion(copy.deepcopy(part.model).eval(), sample)[0]
        run = make_step(part, sample, training.dtype, contender in {GRAPHS, BOTH})
        with clock.peak_mib() as peak:
            run()
        took, calls = clock.per_call(run, seconds)
    found = {"loss": float(loss) / sample["ntokens"], "steps": calls, **peak}
    return {"seconds": took, "tokens_per_second": sample["ntokens"] / took, **found}


def measure_all(training: Training, record: Record, clock: Clock, seconds: float) -> None:
    """Measure the contenders of one setting, and note their rows."""
    found: dict[str, dict[str, Any]] = {}
    for contender in training.contenders:
        if record.left <= 0:
            break
        with record.attempt(f"{training.name}: {contender}"):
            found[contender] = measured(training, contender, clock, seconds)
            print(f"  {contender}: {found[contender]}", flush=True)
        if clock.device == "cuda":
            torch.cuda.empty_cache()
    sample = batch(training.corpus, dictionary(training.corpus.vocabulary), training.sentences)
    shape = {
        "benchmark": f"training_step_{training.corpus.name}_{training.sentences}",
        "mechanism": f"training step, {training.variant}",
        "size": training.corpus.size,
        **shape_of(sample),
        "V": training.corpus.vocabulary,
        "dtype": str(training.dtype).removeprefix("torch."),
    }
    ours = found.get(OURS, {}).get("seconds")
    ratio = (lambda row: row["seconds"] / ours) if ours else (lambda row: "")
    record.add([{**shape, "contender": c, **r, "ratio": ratio(r)} for c, r in found.items()])


def parts(tiny: bool) -> dict[str, Callable[[Record, Clock], None]]:
    """Return what is to be done, by name."""
    settings, seconds = (TINY, 0.0) if tiny else (FULL, 1.0)
    return {t.name: partial(_run, t, seconds) for t in settings}


def _run(training: Training, seconds: float, record: Record, clock: Clock) -> None:
    measure_all(training, record, clock, seconds)
