"""The BLEU flavours of the literature, computed by sacreBLEU.

Tokenised BLEU is multi-bleu's: exact, no smoothing, on the tokens as they are. fairseq's own
scorer agrees with it up to collisions of its n-gram hash, which can raise the score a little.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU, BLEUScore
from sacremoses import MosesDetokenizer
from sacremoses.corpus import NonbreakingPrefixes

from seqattn_fairseq.errors import SeqAttnError, nearest

# the languages that sacremoses has rules for, but no list of abbreviations
_UNPREFIXED_LANGUAGES = {"japanese": "ja", "ja": "ja", "korean": "ko", "ko": "ko"}

# the upstream script works on bytes: only the ASCII blanks count as blank, not U+00A0
_HYPHEN = re.compile(r"([^ \t\n\r\f\v])-([^ \t\n\r\f\v])")


@dataclass(frozen=True)
class Score:
    """A corpus score (BLEU: 0 to 100), its parts as sacreBLEU prints them, and the signature."""

    value: float
    detail: str
    signature: str

    def __str__(self) -> str:
        return "  ".join(filter(None, (f"{self.value:.2f}", self.detail, self.signature)))


def compound_split(line: str) -> str:
    """Split hyphenated words as "Scaling Neural Machine Translation" (Ott et al. 2018) does.

    ``a-b`` becomes ``a ##AT##-##AT## b``. Matches do not overlap, so ``a-b-c`` is split once.
    """
    return _HYPHEN.sub(r"\1 ##AT##-##AT## \2", line)


def _moses_language(language: str) -> str:
    """Return the code of a language that sacremoses knows; for others it says nothing."""
    known: dict[str, str] = {**NonbreakingPrefixes().available_langs, **_UNPREFIXED_LANGUAGES}
    if language not in known:
        codes = sorted(set(known.values()))
        raise SeqAttnError(
            f"--detokenize {language}: Moses has no rules for this language"
            f"{nearest(language, known)}; it knows {', '.join(codes)}"
        )
    return known[language]


def detokenize(lines: Sequence[str], language: str) -> list[str]:
    """Undo Moses tokenisation by the rules of ``language`` (``de``, ``en``, ...).

    Raises:
        SeqAttnError: Moses has no rules for this language.
    """
    detokenizer = MosesDetokenizer(lang=_moses_language(language))
    return [detokenizer.detokenize(line.split()) for line in lines]


def check_lengths(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    """Check that there are as many hypotheses as references, and some.

    Raises:
        SeqAttnError: different numbers of sentences, or none.
    """
    if len(hypotheses) != len(references):
        raise SeqAttnError(
            f"{len(hypotheses)} hypotheses but {len(references)} references; give the reference "
            "of this test set, one sentence a line"
        )
    if not hypotheses:
        raise SeqAttnError("nothing to score: no sentences")


def bleu_metric(tokenize: str = "13a", lowercase: bool = False, smooth: str = "exp") -> BLEU:
    """Return sacreBLEU's BLEU; ``tokenize="none", smooth="none"`` is that of multi-bleu."""
    # force: the text may be tokenised already, which sacreBLEU would warn about
    return BLEU(tokenize=tokenize, lowercase=lowercase, smooth_method=smooth, force=True)


def measure(metric: Metric, hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Return a corpus score of any of sacreBLEU's metrics against one reference.

    Raises:
        SeqAttnError: different numbers of sentences, or none.
    """
    check_lengths(hypotheses, references)
    result = metric.corpus_score(list(hypotheses), [list(references)])
    detail = ""
    if isinstance(result, BLEUScore):
        parts = "/".join(f"{precision:.1f}" for precision in result.precisions)
        detail = f"{parts} (BP {result.bp:.3f}, {result.sys_len:,} / {result.ref_len:,})"
    return Score(result.score, detail, str(metric.get_signature()))


def corpus_bleu(
    hypotheses: Sequence[str],
    references: Sequence[str],
    tokenize: str = "13a",
    lowercase: bool = False,
    smooth: str = "exp",
) -> Score:
    """Return corpus BLEU-4 against one reference.

    Raises:
        SeqAttnError: different numbers of sentences, or none.
    """
    return measure(bleu_metric(tokenize, lowercase, smooth), hypotheses, references)


def tokenized_bleu(
    hypotheses: Sequence[str],
    references: Sequence[str],
    split_compounds: bool = False,
    lowercase: bool = False,
) -> Score:
    """Return exact BLEU of tokenised text, optionally after :func:`compound_split` of both."""
    if split_compounds:
        hypotheses = [compound_split(line) for line in hypotheses]
        references = [compound_split(line) for line in references]
    return corpus_bleu(hypotheses, references, "none", lowercase, smooth="none")
