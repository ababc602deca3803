"""Guided alignment: attention learns from word alignments (Garg et al. 2019, section 4.2).

Shapes: K copies of the batch (2 with R-Drop), B batch, T target length, S source length, M links.
"""

import inspect
import math
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.criterions import register_criterion
from fairseq.logging import metrics
from torch import Tensor, nn

from seqattn_fairseq.criterions.attention_metrics import unwrapped
from seqattn_fairseq.criterions.label_smoothed import (
    ProjectedCriterion,
    SeqAttnLabelSmoothedConfig,
)
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.transformer.model import SeqAttnModel

_LEAST_SHARE = 1e-8


@dataclass
class SeqAttnAlignmentConfig(SeqAttnLabelSmoothedConfig):
    """Options of guided alignment, on top of label smoothing or R-Drop."""

    alignment_lambda: float = field(default=0.05, metadata={"help": "weight of the alignment loss"})
    alignment_layer: Optional[int] = field(  # noqa: UP045 fairseq's parser needs Optional
        default=None,
        metadata={
            "help": "decoder layer whose cross-attention learns from the alignments, from 0 "
            "(default: the last but one)"
        },
    )
    alignment_heads: int = field(
        default=1,
        metadata={"help": "the mean of so many heads learns, from the first; at most all"},
    )
    rdrop_alpha: float = field(
        default=0.0,
        metadata={"help": "weight of R-Drop's divergence (see seqattn_rdrop); 0: no R-Drop"},
    )


def alignment_loss(
    attention_BTS: Tensor, links_M2: Tensor, weights_M: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the sum of -w log(share + 1e-8) over links, and the sum of their weights w.

    A link's share is its part of the magnitude of its row: rows need not sum to one. Links of a
    null row, all of whose weights are 0, have no loss, no gradient and no part in either sum.

    Args:
        attention_BTS: attention weights, before dropout; computed with in at least float32.
        links_M2: fairseq's: column of the source, and b T + t for target position t of sentence b.
        weights_M: fairseq's: 1 / (number of links of the target position).
    """
    rows = attention_BTS.flatten(0, 1)[links_M2[:, 1]]
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32)).abs()
    total = rows.sum(dim=-1, keepdim=True)
    null = total.eq(0)
    shares = rows.gather(1, links_M2[:, :1]) / total.masked_fill(null, 1.0)
    weights = weights_M.to(rows.dtype).masked_fill(null.squeeze(1), 0.0)
    return -((shares.squeeze(1) + _LEAST_SHARE).log() * weights).sum(), weights.sum()


@register_criterion("seqattn_alignment", dataclass=SeqAttnAlignmentConfig)
class SeqAttnAlignment(ProjectedCriterion):
    """Label smoothing or R-Drop, plus a loss of cross-attention that departs from alignments.

    The row that predicts a target token learns from the token's links; the end of the sentence has
    none. Batches without alignments, as validation sets usually are, add nothing. A model that
    chooses layer and heads itself (fairseq's ``transformer_align``) keeps its own.

    Args:
        cfg: options.
        task: fairseq's task; its batches bring the links.

    Raises:
        SeqAttnError: an option is outside of its range, or the task has no alignments.
    """

    def __init__(self, cfg: SeqAttnAlignmentConfig, task: Any) -> None:
        super().__init__(cfg, task)
        _check_source(getattr(task, "cfg", None))
        self.alignment_lambda = cfg.alignment_lambda
        self.alignment_layer = cfg.alignment_layer
        self.alignment_heads = cfg.alignment_heads
        self._model_name = "the model"
        if not cfg.alignment_lambda >= 0:
            raise SeqAttnError(
                f"--alignment-lambda {cfg.alignment_lambda} (criterion.alignment_lambda): "
                "must be >= 0"
            )
        if cfg.alignment_heads < 1:
            raise SeqAttnError(
                f"--alignment-heads {cfg.alignment_heads} (criterion.alignment_heads): must be >= 1"
            )

    def model_arguments(self, model: nn.Module, sample: dict[str, Any]) -> dict[str, Any]:
        """Return which attention weights the model shall return: none without links.

        Raises:
            SeqAttnError: the decoder has no such layer, or drops layers while training.
        """
        inner = unwrapped(model)
        self._model_name = type(inner).__name__
        if "alignments" not in sample or not _takes_choice(inner):
            return {}
        layer = _chosen_layer(inner, self.alignment_layer)
        return {"alignment_layer": layer, "alignment_heads": self.alignment_heads}

    def added_loss(
        self, extra: dict[str, Any], sample: dict[str, Any], copies: int
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """Return the weighted alignment loss of all copies, and its mean over the copies to log.

        Raises:
            SeqAttnError: the model has not returned weights of its cross-attention.
        """
        if "alignments" not in sample:
            # ranks add their outputs up: all must have the same keys, on the same device
            nothing = sample["target"].new_zeros((), dtype=torch.float32)
            return None, {"alignment_loss": nothing, "alignment_weight": nothing}
        attention = self._cross_attention(extra)
        of_copies = [
            alignment_loss(attention[copy::copies], sample["alignments"], sample["align_weights"])
            for copy in range(copies)
        ]
        loss, weight = torch.stack([torch.stack(sums) for sums in of_copies]).sum(dim=0)
        output = {"alignment_loss": loss.detach() / copies, "alignment_weight": weight / copies}
        return self.alignment_lambda * loss, output

    def _cross_attention(self, extra: Any) -> Tensor:
        attention = extra.get("attn") if isinstance(extra, dict) else None
        if not attention or attention[0] is None:
            raise SeqAttnError(
                f"--criterion seqattn_alignment: {self._model_name} returns no weights of a "
                "cross-attention, which learns from alignments; train another model, or this one "
                "without alignments"
            )
        weights: Tensor = attention[0]
        return weights

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log the metrics of the loss it is added to, and ``alignment_loss`` in bits a token.

        Target tokens count that have a link and a row that is not null.
        """
        super().reduce_metrics(logging_outputs)
        loss, weight = (
            float(sum(output.get(f"alignment_{name}", 0) for output in logging_outputs))
            for name in ("loss", "weight")
        )
        if weight:
            metrics.log_scalar("alignment_loss", loss / weight / math.log(2), weight, round=3)


def _check_source(task_cfg: Any) -> None:
    given = [getattr(task_cfg, f"{name}_alignments", None) for name in ("word", "load")]
    if hasattr(task_cfg, "load_alignments") and not any(given):
        raise SeqAttnError(
            "--criterion seqattn_alignment: there are no alignments to learn from; pass --task "
            "seqattn_translation --word-alignments FILE, or --load-alignments if they were "
            "binarised with the data"
        )


def _takes_choice(model: nn.Module) -> bool:
    choosable = "alignment_layer" in inspect.signature(model.forward).parameters
    return choosable or isinstance(model, SeqAttnModel)


def _chosen_layer(model: nn.Module, wanted: int | None) -> int:
    layers: Any = getattr(getattr(model, "decoder", None), "layers", ())
    if getattr(layers, "p", 0):
        raise SeqAttnError(
            "--decoder-layerdrop drops the layer that learns from alignments, too; train without "
            "it, or without --criterion seqattn_alignment"
        )
    layer = max(len(layers) - 2, 0) if wanted is None else wanted
    if not 0 <= layer < len(layers):
        raise SeqAttnError(
            f"--alignment-layer {layer} (criterion.alignment_layer): the decoder has the layers 0 "
            f"to {len(layers) - 1}"
        )
    return layer
