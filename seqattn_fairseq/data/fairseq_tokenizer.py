"""``--tokenizer seqattn_text``: fairseq's interactive, generate and hub read and write raw text."""

# Without "from __future__ import annotations": fairseq reads the fields' types as objects.

from dataclasses import dataclass, field
from pathlib import Path

from fairseq.data.encoders import register_tokenizer
from fairseq.dataclass import FairseqDataclass

from seqattn_fairseq.data.text_chain import TextChains


@dataclass
class SeqAttnTextConfig(FairseqDataclass):
    """Options of the tokenizer ``seqattn_text``."""

    seqattn_text_chain: str = field(
        default="???",
        metadata={"help": "text_chain.json that seqattn prepare writes beside the dictionaries"},
    )


@register_tokenizer("seqattn_text", dataclass=SeqAttnTextConfig)
class SeqAttnTextTokenizer:
    """Raw source line to tokens before BPE; target tokens after BPE removal to plain text."""

    def __init__(self, cfg: SeqAttnTextConfig) -> None:
        self.chains = TextChains.load(Path(cfg.seqattn_text_chain))

    def encode(self, x: str) -> str:
        """Return the tokens of one raw source line."""
        return self.chains.source.encode(x)

    def decode(self, x: str) -> str:
        """Return the plain target text of blank-separated tokens."""
        return self.chains.target.decode(x)
