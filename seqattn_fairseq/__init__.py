"""Attention variants for fairseq: ``--user-dir`` opens this door."""

from seqattn_fairseq import compat

compat.apply()

# Importing registers criterions, task, tokenizer, optimiser and schedules with fairseq.
from seqattn_fairseq.criterions import alignment, label_smoothed, rdrop  # noqa: E402, F401
from seqattn_fairseq.data import fairseq_tokenizer  # noqa: E402, F401
from seqattn_fairseq.optim import adam, apollo, schedules  # noqa: E402, F401
from seqattn_fairseq.tasks import translation  # noqa: E402, F401
from seqattn_fairseq.variants import register  # noqa: E402

register()
