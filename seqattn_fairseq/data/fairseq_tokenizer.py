"""``--tokenizer seqattn_text``: fairseq's interactive, generate and hub read and write raw text."""

# Without "from __future__ import annotations": fairseq reads the fields' types as objects.

from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from fairseq.data.encoders import register_tokenizer
from fairseq.dataclass import FairseqDataclass

from seqattn_fairseq.data.text_chain import TextChains
from seqattn_fairseq.errors import SeqAttnError


@dataclass
class SeqAttnTextConfig(FairseqDataclass):
    """Options of the tokenizer ``seqattn_text``."""

    seqattn_text_chain: Optional[str] = field(  # noqa: UP045 fairseq reads Optional alone
        default=None,
        metadata={"help": "text_chain.json that seqattn prepare writes beside the dictionaries"},
    )


@register_tokenizer("seqattn_text", dataclass=SeqAttnTextConfig)
class SeqAttnTextTokenizer:
    """Raw source line to tokens before BPE; target tokens after BPE removal to plain text."""

    def __init__(self, cfg: SeqAttnTextConfig) -> None:
        if not cfg.seqattn_text_chain:
            raise SeqAttnError(
                "--tokenizer seqattn_text needs --seqattn-text-chain FILE, the text_chain.json "
                "that seqattn prepare writes beside the dictionaries"
            )
        self.chains = TextChains.load(Path(cfg.seqattn_text_chain))

    def encode(self, x: str) -> str:
        """Return the tokens of one raw source line."""
        return self.chains.source.encode(x)

    def decode(self, x: str) -> str:
        """Return the plain target text of blank-separated tokens."""
        return self.chains.target.decode(x)
