"""fairseq's label-smoothed cross entropy without the logits, and the base of our criterions."""

import math
from dataclasses import dataclass, field
from typing import Any

from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from fairseq.logging import metrics
from torch import Tensor, nn

from seqattn_fairseq.criterions import attention_metrics
from seqattn_fairseq.criterions.projection import score
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.attention_statistics import AttentionStatistics
from seqattn_fairseq.ops.cross_entropy import LossOptions


@dataclass
class SeqAttnLabelSmoothedConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """Options of label smoothing; fairseq's, and one of ours."""

    attention_statistics: bool = field(
        default=False,
        metadata={
            "help": "log sparsity, null rate, entropy and head diversity of attention "
            "at every validation"
        },
    )


class ProjectedCriterion(LabelSmoothedCrossEntropyCriterion):
    """What our criterions share: a loss inside the model's forward, R-Drop, logging.

    Derived criterions ask for more of the model in :meth:`model_arguments` and add to the loss in
    :meth:`added_loss`; a ``rdrop_alpha`` above 0 among their options makes R-Drop of any of them.

    Args:
        cfg: options.
        task: fairseq's task.

    Raises:
        SeqAttnError: an option is outside of its range.
    """

    def __init__(self, cfg: SeqAttnLabelSmoothedConfig, task: Any) -> None:
        super().__init__(
            task,
            cfg.sentence_avg,
            cfg.label_smoothing,
            cfg.ignore_prefix_size,
            cfg.report_accuracy,
        )
        self.attention_statistics = cfg.attention_statistics
        self.rdrop_alpha = float(getattr(cfg, "rdrop_alpha", 0.0))
        for name, value, fits, allowed in (
            ("label_smoothing", self.eps, 0 <= self.eps < 1, "in [0, 1)"),
            ("ignore_prefix_size", self.ignore_prefix_size, self.ignore_prefix_size >= 0, ">= 0"),
            ("rdrop_alpha", self.rdrop_alpha, self.rdrop_alpha >= 0, ">= 0"),
        ):
            if not fits:
                flag = name.replace("_", "-")
                raise SeqAttnError(f"--{flag} {value} (criterion.{name}): must be {allowed}")

    def model_arguments(self, model: nn.Module, sample: dict[str, Any]) -> dict[str, Any]:
        """Return further arguments of the model's forward pass."""
        return {}

    def added_loss(
        self, extra: dict[str, Any], sample: dict[str, Any], copies: int
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """Return what is added to the loss (a sum, or None) and to the logging output.

        Args:
            extra: the second output of the model; row ``copies * b + k`` of its batch is the k-th
                copy of sentence b.
            sample: the batch.
            copies: how often the sample went through the model.
        """
        return None, {}

    def forward(
        self, model: nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, Any, dict[str, Any]]:
        """Return the loss, the sample size that divides it, and the logging output.

        Without ``reduce`` the loss has an entry for each token, (B T, 1), and nothing is added to
        it: what derived criterions add belongs to no token.
        """
        copies = 2 if self.rdrop_alpha and model.training else 1
        arguments = {**sample["net_input"], **self.model_arguments(model, sample)}
        log = self._attention_log(model, sample)
        if log is not None:
            arguments["attention_log"] = log
        sums, extra = score(
            model,
            arguments,
            sample["target"],
            self._options(copies, reduce),
            copies,
            self.ignore_prefix_size,
        )
        added, output = self.added_loss(extra, sample, copies)
        loss, nll = sums.loss, sums.nll
        if not reduce:
            loss, nll = loss.unsqueeze(-1), nll.unsqueeze(-1)
        elif added is not None:
            loss = loss + added
        sample_size = sample["target"].size(0) if self.sentence_avg else sample["ntokens"]
        output |= {
            "loss": loss.data,
            "nll_loss": nll.data,
            "ntokens": sample["ntokens"],
            "nsentences": sample["target"].size(0),
            "sample_size": sample_size,
        }
        if self.report_accuracy:
            output |= {"n_correct": sums.correct, "total": sums.total}
        if copies > 1:
            output["rdrop_kl_loss"] = sums.divergence
        if log is not None:
            output |= attention_metrics.logged(log)
        return loss, sample_size, output

    def _attention_log(
        self, model: nn.Module, sample: dict[str, Any]
    ) -> AttentionStatistics | None:
        if model.training or not self.attention_statistics:
            return None
        return attention_metrics.new_log(model, sample, self.padding_idx)

    def _options(self, copies: int, reduce: bool) -> LossOptions:
        return LossOptions(
            smoothing=self.eps,
            padding_idx=self.padding_idx,
            divergence_weight=self.rdrop_alpha if copies > 1 else 0.0,
            accuracy=self.report_accuracy,
            reduce=reduce,
        )

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log fairseq's metrics, the divergence of R-Drop and the statistics of attention."""
        super().reduce_metrics(logging_outputs)
        attention_metrics.reduce(logging_outputs)
        if any("rdrop_kl_loss" in output for output in logging_outputs):
            size = sum(output.get("sample_size", 0) for output in logging_outputs)
            divergence = sum(output.get("rdrop_kl_loss", 0) for output in logging_outputs)
            bits = divergence / size / math.log(2)
            metrics.log_scalar("rdrop_kl_loss", bits, size, round=3)


@register_criterion("seqattn_label_smoothed_cross_entropy", dataclass=SeqAttnLabelSmoothedConfig)
class SeqAttnLabelSmoothedCrossEntropy(ProjectedCriterion):
    """``label_smoothed_cross_entropy``, the same numbers in bounded memory."""
