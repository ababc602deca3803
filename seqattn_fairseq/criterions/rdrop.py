"""R-Drop: two passes under different dropout must agree (Liang et al. 2021)."""

from dataclasses import dataclass, field
from typing import Any

from fairseq.criterions import register_criterion

from seqattn_fairseq.criterions.label_smoothed import (
    ProjectedCriterion,
    SeqAttnLabelSmoothedConfig,
)
from seqattn_fairseq.errors import SeqAttnError


@dataclass
class SeqAttnRDropConfig(SeqAttnLabelSmoothedConfig):
    """Options of R-Drop."""

    rdrop_alpha: float = field(
        default=5.0,
        metadata={"help": "weight of the symmetric divergence of the two passes"},
    )


@register_criterion("seqattn_rdrop", dataclass=SeqAttnRDropConfig)
class SeqAttnRDrop(ProjectedCriterion):
    """Label-smoothed cross entropy of two passes plus their divergence (equation 4).

    Raises:
        SeqAttnError: an option is outside of its range.
    """

    def __init__(self, cfg: SeqAttnRDropConfig, task: Any) -> None:
        super().__init__(cfg, task)
        if not self.rdrop_alpha:
            raise SeqAttnError(
                "--rdrop-alpha 0 (criterion.rdrop_alpha): must be above 0; without R-Drop, use "
                "--criterion seqattn_label_smoothed_cross_entropy"
            )
