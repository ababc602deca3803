"""Task ``seqattn_translation``: fairseq's translation task that loses no sentence."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq import utils
from fairseq.data import FairseqDataset, data_utils
from fairseq.dataclass import ChoiceEnum
from fairseq.sequence_scorer import SequenceScorer
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from seqattn_fairseq.data.alignments import ALIGNMENT_FORMATS
from seqattn_fairseq.data.words import SUBWORD_KINDS
from seqattn_fairseq.errors import SeqAttnError, nearest
from seqattn_fairseq.generation.generator import AligningGenerator, BeamSearchGenerator
from seqattn_fairseq.tasks.batches import (
    Hypotheses,
    TranslatableDataset,
    empty_hypothesis,
    hard_alignment,
    is_empty,
    is_too_long,
    select_rows,
    source_limit,
)
from seqattn_fairseq.tasks.dictionaries import (
    STATE_KEY,
    describe,
    verify_direction,
    verify_task_state,
)
from seqattn_fairseq.tasks.graphs import MOST_GRAPHS, CudaRecorder, GraphedSteps, check_model
from seqattn_fairseq.tasks.shape_buckets import NO_PADDING, ShapeBuckets, log_padding
from seqattn_fairseq.tasks.word_alignments import add_word_alignments
from seqattn_fairseq.transformer.config import option

logger = logging.getLogger(__name__)

_BPE_FILES = ("bpe_codes", "sentencepiece_model")  # options of fairseq's --bpe subword_nmt, ...


@contextmanager
def explained_data_errors(cfg: Any) -> Iterator[None]:
    """Turn what fairseq raises while it looks for languages and dictionaries into one line.

    Raises:
        SeqAttnError: the data folder or a dictionary is missing.
    """
    remedy = (
        "the data must be a folder made by fairseq-preprocess for this --source-lang and "
        "--target-lang"
    )
    if not cfg.data:
        raise SeqAttnError(f"no data given (in Hydra task.data); {remedy}")
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SeqAttnError(f"{error.filename}: not found; {remedy}") from error
    except Exception as error:
        if "Could not infer language pair" not in str(error):
            raise
        raise SeqAttnError(
            f"{cfg.data}: holds no language pair (no file named SPLIT.SRC-TGT.*); name it with "
            f"-s SRC -t TGT; {remedy}"
        ) from error


def _explain_dead_beam(models: list[Any], error: AssertionError) -> SeqAttnError | None:
    """Explain fairseq's ``assert step < max_len``: no hypothesis of a sentence had a finite score.

    Return ``None`` for other assertions.
    """
    if not re.fullmatch(r"\d+ < \d+", str(error)):
        return None
    parameters = [named for model in models for named in model.named_parameters()]
    broken = [name for name, values in parameters if not values.isfinite().all()]
    reason = (
        f"parameter {broken[0]} of the checkpoint holds NaN or infinity; use an earlier checkpoint"
        if broken
        else "the parameters are finite, so NaN or infinity arises as they are used (--fp16?)"
    )
    return SeqAttnError(f"non-finite scores: no translation of a sentence can be ranked; {reason}")


_AlignmentFormat: Any = ChoiceEnum(list(ALIGNMENT_FORMATS))
_SubwordKind: Any = ChoiceEnum(list(SUBWORD_KINDS))


@dataclass
class SeqAttnTranslationConfig(TranslationConfig):
    """The options of fairseq's ``translation`` task, and our own for training."""

    word_alignments: Optional[str] = option(  # noqa: UP045 fairseq's parser needs Optional
        None,
        "file of links between the words of the training pairs, a line a pair, for criterions that "
        "learn from them; as many files, separated by colons, as there are data folders",
    )
    word_alignments_format: _AlignmentFormat = option("pharaoh", "how the links are written")
    word_alignments_subwords: Optional[_SubwordKind] = option(  # noqa: UP045
        None,
        "how the words are cut into subwords (default: what the data folder's corpus.json says)",
    )
    stock_generator: bool = option(
        False, "translate with the beam search of fairseq, which finds the same, more slowly"
    )
    shape_buckets: int = option(
        0,
        "most shapes (source length x target length) of training batches, apart from the last "
        "batch of each shape; 0: batches as fairseq makes them, each of its own shape",
    )
    cuda_graphs: bool = option(
        False,
        "record the training step of a batch shape as a CUDA graph and replay it; of use with "
        "--shape-buckets, where shapes recur",
    )


def _own_generator(args: Any) -> dict[str, Any]:
    """Return what makes fairseq build our generator."""
    if not getattr(args, "print_alignment", None):
        return {"seq_gen_cls": BeamSearchGenerator}
    extra = {"print_alignment": args.print_alignment}
    return {"seq_gen_cls": AligningGenerator, "extra_gen_cls_kwargs": extra}


@register_task("seqattn_translation", dataclass=SeqAttnTranslationConfig)
class SeqAttnTranslationTask(TranslationTask):
    """fairseq's translation task; as many lines come out as went in, and mistakes get one line.

    * an empty source line gives an empty output line;
    * a source longer than the model's positions is named in a warning, and its output line stays
      empty, while the others are translated;
    * languages and digests of both dictionaries are saved with a checkpoint and compared when it is
      loaded.

    The stock task turns into this class when it builds one of our models (see ``compat``), so no
    attribute may be created in the constructor.
    """

    _models: tuple[torch.nn.Module, ...] = ()
    _buckets: Optional[ShapeBuckets] = None  # noqa: UP045
    _steps: Optional[GraphedSteps] = None  # noqa: UP045
    _lines_before = 0  # lines of fairseq-interactive before the current buffer
    _lines_read = 0

    # ---- set-up --------------------------------------------------------------------------------

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build a model (fairseq's interface)."""
        model = super().build_model(cfg, from_checkpoint)
        self.remember_model(model)
        return model

    def remember_model(self, model: torch.nn.Module) -> None:
        """Note a model that this task has built."""
        self._models = (*self._models, model)

    def _is_translating(self) -> bool:
        """Tell translation from training and validation, whose filters stay fairseq's own.

        fairseq marks the models that fairseq-generate, -interactive and the hub have prepared.
        """
        return any(getattr(model, "_is_generation_fast", False) for model in self._models)

    # ---- state in checkpoints ------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return a checkpoint's task state: fairseq's, the languages, the dictionaries' digests."""
        return {**super().state_dict(), STATE_KEY: describe(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint's task state.

        Raises:
            SeqAttnError: the checkpoint was trained with other dictionaries or languages.
        """
        verify_direction(self, state_dict)
        super().load_state_dict(verify_task_state(self, state_dict))

    # ---- data ----------------------------------------------------------------------------------

    def load_dataset(
        self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any
    ) -> None:
        """Load a split (fairseq's interface).

        Raises:
            SeqAttnError: the split is missing or empty, its sides differ in length, or the word
                alignments do not fit it.
        """
        paths = utils.split_paths(self.cfg.data)
        folder = paths[(epoch - 1) % len(paths)] if split == self.cfg.train_subset else paths[0]
        try:
            super().load_dataset(split, epoch=epoch, combine=combine, **kwargs)
        except FileNotFoundError as error:
            raise self._missing_split(split, folder) from error
        except AssertionError:
            self._check_lengths(split, folder)
            raise
        if len(self.datasets[split]) == 0:
            raise SeqAttnError(f"{folder}: split '{split}' holds no sentence")
        # a stock task that serves one of our models lacks the option
        if split == self.cfg.train_subset and getattr(self.cfg, "word_alignments", None):
            add_word_alignments(self.cfg, self.datasets[split], epoch)

    def _missing_split(self, split: str, folder: str) -> SeqAttnError:
        source, target = self.cfg.source_lang, self.cfg.target_lang
        pairs = (f"{source}-{target}", f"{target}-{source}")
        files = [path for pair in pairs for path in Path(folder).glob(f"*.{pair}.*")]
        names = sorted({path.name.split(".")[0] for path in files})
        return SeqAttnError(
            f"{folder}: no split '{split}' for {pairs[0]}{nearest(split, names)}; "
            f"it holds {', '.join(names) or 'no split of this language pair'}"
        )

    def _check_lengths(self, split: str, folder: str) -> None:
        """Name the files of a split (or of its continuation split1, ...) that differ in length."""
        source, target = self.cfg.source_lang, self.cfg.target_lang
        names = [f"{split}*.{first}-{second}" for first, second in permutations((source, target))]
        for index in sorted(path for name in names for path in Path(folder).glob(f"{name}.*.idx")):
            files = [f"{index.with_suffix('').with_suffix('')}.{side}" for side in (source, target)]
            sides = [data_utils.load_indexed_dataset(f, None, self.cfg.dataset_impl) for f in files]
            counts = [0 if side is None else len(side) for side in sides]
            if counts[0] != counts[1]:
                raise SeqAttnError(
                    f"{files[0]} has {counts[0]:,} sentences but {files[1]} has {counts[1]:,}; "
                    "binarise again from files with the same number of lines"
                )

    # ---- batches -------------------------------------------------------------------------------

    def get_interactive_tokens_and_lengths(self, lines: list[str], encode_fn: Any) -> Any:
        """Encode a buffer of input lines (fairseq's interface), counting them."""
        self._lines_before = self._lines_read
        self._lines_read += len(lines)
        return super().get_interactive_tokens_and_lengths(lines, encode_fn)

    def get_batch_iterator(
        self,
        dataset: FairseqDataset,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        max_positions: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Return fairseq's batch iterator; for translation, one that holds every sentence.

        Raises:
            SeqAttnError: a sentence of a training or validation set fits into no batch.
        """
        if self._is_translating():
            self._warn_of_long_sources(dataset, source_limit(max_positions))
            dataset, max_positions = TranslatableDataset(dataset, max_tokens), None
        elif dataset is self.datasets.get(self.cfg.train_subset):
            dataset = self._in_shape_buckets(dataset)
        try:
            return super().get_batch_iterator(
                dataset, max_tokens, max_sentences, max_positions, **kwargs
            )
        except AssertionError as error:
            if "exceed max_tokens" not in str(error):
                raise
            sizes = dataset.num_tokens_vec(range(len(dataset)))
            raise SeqAttnError(
                f"{self._split_of(dataset)}: sentence {int(sizes.argmax()) + 1} has "
                f"{sizes.max():,} tokens, more than a batch may hold ({max_tokens:,}); raise "
                "--max-tokens or --max-tokens-valid"
            ) from error

    def _in_shape_buckets(self, dataset: FairseqDataset) -> FairseqDataset:
        most = getattr(self.cfg, "shape_buckets", 0)  # a stock task lacks the option
        if most < 0:
            raise SeqAttnError(f"--shape-buckets {most}: must be at least 0")
        if most == 0:
            return dataset
        if self.cfg.num_batch_buckets:
            raise SeqAttnError(
                "--shape-buckets and --num-batch-buckets both group sentences by their lengths; "
                "pass one of them"
            )
        if self._buckets is None or self._buckets.dataset is not dataset:
            self._buckets = ShapeBuckets(dataset, most, self.cfg.required_seq_len_multiple)
        return self._buckets

    def _warn_of_long_sources(self, dataset: FairseqDataset, limit: float) -> None:
        sizes = dataset.src_sizes
        for index in (sizes > limit).nonzero()[0]:
            logger.warning(
                f"sentence {self._lines_before + index + 1}: {sizes[index]:,} source tokens, the "
                f"model takes {limit:,.0f}; not translated, its output line stays empty"
            )

    def _split_of(self, dataset: FairseqDataset) -> str:
        return next((name for name, known in self.datasets.items() if known is dataset), "data")

    def filter_indices_by_size(
        self,
        indices: Any,
        dataset: FairseqDataset,
        max_positions: Any = None,
        ignore_invalid_inputs: bool = False,
    ) -> Any:
        """Drop or refuse sentences that are too long, as fairseq does, naming the sentence.

        Raises:
            SeqAttnError: a sentence is too long and ``ignore_invalid_inputs`` is off.
        """
        if not ignore_invalid_inputs:
            _, ignored = dataset.filter_indices_by_size(indices, max_positions)
            if len(ignored) > 0:
                first = min(ignored)
                raise SeqAttnError(
                    f"{self._split_of(dataset)}: sentence {first + 1} has (source, target) tokens "
                    f"{tuple(map(int, dataset.size(first)))}, the limit is {max_positions} "
                    f"({len(ignored):,} such sentences); raise --max-source-positions and "
                    "--max-target-positions or pass --skip-invalid-size-inputs-valid-test"
                )
        return super().filter_indices_by_size(
            indices, dataset, max_positions, ignore_invalid_inputs
        )

    # ---- training ------------------------------------------------------------------------------

    def begin_epoch(self, epoch: int, model: torch.nn.Module) -> None:
        """Refuse ``--cuda-graphs`` before anything is trained where the model does not allow it.

        Raises:
            SeqAttnError: the steps of the model cannot be recorded.
        """
        super().begin_epoch(epoch, model)
        if getattr(self.cfg, "cuda_graphs", False):
            check_model(model)

    def train_step(
        self,
        sample: dict[str, Any],
        model: torch.nn.Module,
        criterion: torch.nn.Module,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Do forward and backward pass of a batch; return loss, sample size, logging output.

        Raises:
            SeqAttnError: ``--cuda-graphs`` with what cannot be recorded.
        """

        def eager() -> tuple[Any, Any, dict[str, Any]]:
            outputs: tuple[Any, Any, dict[str, Any]] = super_train_step(
                sample, model, criterion, optimizer, update_num, ignore_grad
            )
            return outputs

        super_train_step = super().train_step
        if getattr(self.cfg, "cuda_graphs", False):
            steps = self._graphed_steps(model, criterion, optimizer)
            loss, sample_size, output = steps.train_step(eager, sample, ignore_grad)
        else:
            loss, sample_size, output = eager()
        if self._buckets is not None:  # a batch that stands for none may be one of validation
            output = {**output, **sample.get("padding", NO_PADDING)}
        return loss, sample_size, output

    def _graphed_steps(
        self, model: torch.nn.Module, criterion: torch.nn.Module, optimizer: Any
    ) -> GraphedSteps:
        if self._steps is None or not self._steps.serves(model, optimizer):
            most = max(MOST_GRAPHS, 2 * self.cfg.shape_buckets)
            self._steps = GraphedSteps(CudaRecorder(), model, criterion, optimizer, most)
        return self._steps

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Log the criterion's metrics and the share of padding on either side."""
        super().reduce_metrics(logging_outputs, criterion)
        log_padding(logging_outputs)

    # ---- translation ---------------------------------------------------------------------------

    def build_generator(self, models: list[Any], args: Any, **kwargs: Any) -> Any:
        """Build a generator: fairseq's with our search, or with its own if that is asked for.

        Its hard alignments link nothing where attention is null.

        Raises:
            SeqAttnError: the beam is smaller than one.
        """
        if getattr(args, "beam", 1) < 1:
            raise SeqAttnError(f"--beam {args.beam} keeps no hypothesis; it must be at least 1")
        # a stock task that serves one of our models lacks the option
        if kwargs.get("seq_gen_cls") is None and not getattr(self.cfg, "stock_generator", False):
            kwargs = {**kwargs, **_own_generator(args)}
        generator = super().build_generator(models, args, **kwargs)
        if getattr(generator, "extract_alignment", None) is utils.extract_hard_alignment:
            generator.extract_alignment = hard_alignment
        return generator

    def build_bpe(self, args: Any) -> Any:
        """Build the subword encoder of fairseq-interactive and fairseq-generate.

        Raises:
            SeqAttnError: its file is missing or none of its kind.
        """
        try:
            return super().build_bpe(args)
        except (OSError, RuntimeError, ValueError, SystemExit) as error:  # subword_nmt exits
            files = [getattr(args, name) for name in _BPE_FILES if getattr(args, name, None)]
            if not files:
                raise
            raise SeqAttnError(
                f"{files[0]}: no such file, or no model of --bpe {args._name}; pass the one that "
                "the training data was segmented with"
            ) from error

    def inference_step(
        self,
        generator: Any,
        models: list[Any],
        sample: dict[str, Any],
        prefix_tokens: torch.Tensor | None = None,
        constraints: torch.Tensor | None = None,
    ) -> list[Hypotheses]:
        """Translate a batch: B lists of hypotheses, best first.

        Empty and over-long sources, and a prefix that is a whole empty target, get empty
        hypotheses without reaching the model. A generator that scores given targets still scores
        those of empty sources.

        Raises:
            SeqAttnError: a model gives scores that are not finite.
        """
        source = sample["net_input"]["src_tokens"]
        pad, eos = self.source_dictionary.pad(), self.source_dictionary.eos()
        positions = [model.max_positions() for model in models]
        limit = source_limit(utils.resolve_max_positions(self.max_positions(), *positions))
        skipped = is_too_long(source, pad, limit)
        if not isinstance(generator, SequenceScorer):
            skipped |= is_empty(source, pad, eos)
        if prefix_tokens is not None:  # a beam of fairseq cannot begin with the end of a sentence
            skipped |= prefix_tokens[:, 0].eq(eos)
        if not skipped.any():
            return self._search(generator, models, sample, prefix_tokens, constraints)
        copies = getattr(generator, "beam_size", 1)  # as many as others get, for --nbest
        hypotheses: list[Hypotheses] = [[empty_hypothesis(source, eos)] * copies for _ in source]
        rows = (~skipped).nonzero()[:, 0]
        if len(rows) > 0:
            reduced = select_rows(sample, rows, pad)
            prefix_tokens = None if prefix_tokens is None else prefix_tokens[rows]
            constraints = None if constraints is None else constraints[rows]
            found = self._search(generator, models, reduced, prefix_tokens, constraints)
            for row, hypothesis in zip(rows.tolist(), found, strict=True):
                hypotheses[row] = hypothesis
        return hypotheses

    def _search(
        self,
        generator: Any,
        models: list[Any],
        sample: dict[str, Any],
        prefix_tokens: torch.Tensor | None,
        constraints: torch.Tensor | None,
    ) -> list[Hypotheses]:
        try:
            found: list[Hypotheses] = super().inference_step(
                generator, models, sample, prefix_tokens, constraints
            )
        except AssertionError as error:
            if explained := _explain_dead_beam(models, error):
                raise explained from error
            raise
        return found
