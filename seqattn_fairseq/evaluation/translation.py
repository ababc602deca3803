"""Translating a binarised test set with fairseq's own search, losing no sentence.

This is what fairseq-generate does, without its detour over a log: the same task, batches and
generator, so the same hypotheses and scores; but the result comes in corpus order, and a missing
sentence is an error.
"""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, tasks, utils
from fairseq.dataclass.configs import DatasetConfig, GenerationConfig
from omegaconf import open_dict
from tqdm import tqdm  # type: ignore[import-untyped]

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.launch.quietness import quiet

_TASK = "seqattn_translation"


@dataclass(frozen=True)
class Search:
    """Options of the beam search, with the defaults of fairseq-generate.

    Attributes:
        beam: beam size.
        length_penalty: exponent of the length by which a hypothesis' score is divided.
        max_len_a: a hypothesis has at most ``max_len_a * source length + max_len_b`` tokens.
        max_len_b: see ``max_len_a``.
        max_tokens: source tokens, padding included, of a batch.
        fp16: compute in half precision.
    """

    beam: int = 5
    length_penalty: float = 1.0
    max_len_a: float = 0.0
    max_len_b: int = 200
    max_tokens: int = 12000
    fp16: bool = False

    def __post_init__(self) -> None:
        for name in ("beam", "max_len_b", "max_tokens"):
            if getattr(self, name) < 1:
                raise SeqAttnError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True)
class Sentence:
    """One sentence and its best hypothesis, as tokens without subwords.

    ``target`` is None when the test set has no target side; ``score`` is fairseq's, the mean log2
    probability of a token under length penalty 1.
    """

    ident: int
    source: str
    target: str | None
    hypothesis: str
    score: float


@dataclass(frozen=True)
class Job:
    """A test set to translate; a plain value that travels to other processes.

    Attributes:
        checkpoint: file with the model.
        data_bin: folder of fairseq-preprocess.
        subset: name of the test set.
        remove_bpe: fairseq's name of the subword kind to undo.
        search: options of the search.
        cpu: stay off the GPU.
    """

    checkpoint: Path
    data_bin: Path
    subset: str
    remove_bpe: str
    search: Search
    cpu: bool = False


@dataclass(frozen=True)
class Translation:
    """A translated test set.

    Attributes:
        sentences: in corpus order.
        seconds: spent in the search, without loading and batching; of several processes, those
            of the one that searched longest.
    """

    sentences: list[Sentence]
    seconds: float


@dataclass(frozen=True)
class _Share:
    """What one process translated of a set of so many sentences."""

    size_of_set: int
    sentences: list[Sentence]
    seconds: float


def translate(job: Job, processes: int = 1) -> Translation:
    """Translate a test set.

    Several processes take turns at the batches, each on a GPU of its own where there are any.

    Raises:
        SeqAttnError: model, data and dictionaries do not fit together, or a sentence is missing.
    """
    if processes == 1:
        return _complete([_translate_share(job, 0, 1)], job)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        shares = [pool.submit(_translate_share, job, i, processes) for i in range(processes)]
        return _complete([share.result() for share in shares], job)


def _complete(shares: Sequence[_Share], job: Job) -> Translation:
    found = [sentence for share in shares for sentence in share.sentences]
    ordered = sorted(found, key=lambda sentence: sentence.ident)
    count = shares[0].size_of_set
    if [sentence.ident for sentence in ordered] != list(range(count)):
        raise SeqAttnError(f"{job.subset}: {count} sentences in, {len(ordered)} out")
    return Translation(ordered, max(share.seconds for share in shares))


def _translate_share(job: Job, share: int, shares: int) -> _Share:
    with quiet("fairseq"):
        translator = Translator.open(job, share)
        translator.warm_up()
        found: list[Sentence] = []
        seconds = 0.0
        total = math.ceil(len(translator.dataset) / shares)
        name = f"translate {job.subset}"
        with tqdm(total=total, desc=name, unit="line", position=share) as bar:
            for sample in translator.batches((share, shares)):
                best, spent = translator.timed_search(sample)
                seconds += spent
                found += translator.sentences(sample, best)
                bar.update(len(sample["id"]))
    return _Share(len(translator.dataset), found, seconds)


@dataclass(frozen=True)
class Translator:
    """A model, its search and a test set, in memory and ready.

    Attributes:
        job: what was opened.
        device: where the model is.
        model: in evaluation mode, prepared for inference.
        task: fairseq's, which knows the dictionaries.
        dataset: fairseq's, of the test set.
    """

    job: Job
    device: torch.device
    model: Any
    task: Any
    dataset: Any

    @classmethod
    def open(cls, job: Job, share: int = 0) -> Translator:
        """Load model and test set; ``share`` chooses among several GPUs.

        Raises:
            SeqAttnError: as :func:`load`, or the test set is missing.
        """
        device = _device(job, share)
        model, task, cfg = load(job.checkpoint, job.data_bin, job.search)
        model = (model.half() if job.search.fp16 else model).to(device)
        task.load_dataset(job.subset, task_cfg=cfg.task)
        return cls(job, device, model, task, task.dataset(job.subset))

    def max_positions(self) -> tuple[float, float]:
        """Return the longest source and target, in tokens, that task and model allow."""
        limits = utils.resolve_max_positions(self.task.max_positions(), self.model.max_positions())
        return limits[0], limits[1]

    def batches(
        self, share: tuple[int, int] = (0, 1), lines: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Return fairseq's batches of the test set, or the i-th of n shares of them.

        They hold so many tokens as the search says, or else so many ``lines``, a multiple of 8.
        """
        iterator = self.task.get_batch_iterator(
            self.dataset,
            max_tokens=None if lines else self.job.search.max_tokens,
            max_sentences=lines,
            max_positions=self.max_positions(),
            required_batch_size_multiple=8,
            shard_id=share[0],
            num_shards=share[1],
        ).next_epoch_itr(shuffle=False)
        # a share that has run out of batches gets empty ones
        return (sample for sample in iterator if "net_input" in sample)

    @cached_property
    def generator(self) -> Any:
        """The generator of fairseq with the options of the search."""
        return self.task.build_generator([self.model], generation(self.job.search))

    def search(self, sample: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the best hypothesis of every sentence of a batch, as fairseq gives it."""
        batch = utils.move_to_cuda(sample, self.device) if self.device.type == "cuda" else sample
        found = self.task.inference_step(self.generator, [self.model], batch)
        return [hypotheses[0] for hypotheses in found]

    def timed_search(self, sample: dict[str, Any]) -> tuple[list[dict[str, Any]], float]:
        """Return what :meth:`search` does, and the seconds that it took."""
        self._wait()
        start = time.perf_counter()
        best = self.search(sample)
        self._wait()
        return best, time.perf_counter() - start

    def warm_up(self, lines: int | None = None) -> None:
        """Translate the first batch where kernels are compiled and loaded at their first use."""
        if self.device.type == "cuda":
            for sample in islice(self.batches(lines=lines), 1):
                self.search(sample)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def sentences(
        self, sample: dict[str, Any], hypotheses: Sequence[dict[str, Any]]
    ) -> list[Sentence]:
        """Return the sentences of a batch with their best hypotheses."""
        bpe = self.job.remove_bpe
        return [
            _sentence(self.task, sample, row, best, self.generator, bpe)
            for row, best in enumerate(hypotheses)
        ]


def _device(job: Job, share: int) -> torch.device:
    if job.cpu or not torch.cuda.is_available():
        if job.search.fp16:
            raise SeqAttnError("--fp16 needs a GPU; leave it out")
        return torch.device("cpu")
    return torch.device("cuda", share % torch.cuda.device_count())


def load(checkpoint: Path, data_bin: Path, search: Search) -> tuple[Any, Any, Any]:
    """Return (model, task, configuration) of a checkpoint, ready to translate, on the CPU.

    Raises:
        SeqAttnError: a file is missing or damaged, or the dictionaries are not the checkpoint's.
    """
    if not checkpoint.is_file():
        raise SeqAttnError(f"{checkpoint}: no such checkpoint")
    overrides = {"data": str(data_bin)}
    state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint), overrides)
    _add_dataset_options(state["cfg"])
    task = tasks.setup_task(_our_task(state["cfg"].task), from_checkpoint=True)
    models, cfg, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(checkpoint)], overrides, task, state=state
    )
    model = models[0].eval()
    model.prepare_for_inference_(Namespace(generation=generation(search)))
    return model, task, cfg


def _add_dataset_options(cfg: Any) -> None:
    """Add a missing section that the task's options refer to: imported checkpoints lack it."""
    if cfg.get("dataset") is None:
        with open_dict(cfg):
            cfg.dataset = DatasetConfig()


def _our_task(cfg: Any) -> Any:
    """Turn the stock translation task, which loses sentences, into ours."""
    if isinstance(cfg, Namespace):
        if cfg.task == "translation":
            cfg.task = _TASK
    elif cfg.get("_name") == "translation":
        with open_dict(cfg):
            cfg._name = _TASK
    return cfg


def generation(search: Search) -> GenerationConfig:
    """Return fairseq's configuration of a search."""
    return GenerationConfig(
        beam=search.beam,
        lenpen=search.length_penalty,
        max_len_a=search.max_len_a,
        max_len_b=search.max_len_b,
    )


def _sentence(
    task: Any, sample: dict[str, Any], row: int, best: dict[str, Any], generator: Any, bpe: str
) -> Sentence:
    """Turn ids into tokens as fairseq-generate does; unknown words of a reference match none."""
    target_dictionary = task.target_dictionary
    ignored = getattr(generator, "symbols_to_strip_from_output", {generator.eos})
    pad = target_dictionary.pad()
    # lists: the dictionary looks at every id by itself, which is slow on tensors
    source = utils.strip_pad(sample["net_input"]["src_tokens"][row], pad).tolist()
    target = None
    if sample.get("target") is not None:
        ids = utils.strip_pad(sample["target"][row], pad).tolist()
        target = target_dictionary.string(ids, bpe, True, extra_symbols_to_ignore=ignored)
    tokens = best["tokens"].tolist()
    return Sentence(
        ident=int(sample["id"][row]),
        source=task.source_dictionary.string(source, bpe),
        target=target,
        hypothesis=target_dictionary.string(tokens, bpe, extra_symbols_to_ignore=ignored),
        score=float(best["score"] / math.log(2)),  # in float32, as fairseq prints it
    )
