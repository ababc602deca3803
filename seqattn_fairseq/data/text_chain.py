"""From a raw line to the tokens before BPE and back, as one small value with a JSON form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seqattn_fairseq.data.files import write_atomically
from seqattn_fairseq.errors import SeqAttnError, nearest

if TYPE_CHECKING:
    from seqattn_fairseq.data.moses import MosesDetokenizer, PerlPunctNormalizer, PerlTokenizer

FinalDot = Literal["keep", "split"]
FINAL_DOT_RULES: tuple[FinalDot, ...] = ("keep", "split")

# Blanks for Python's \s, but junk that tokenizer.perl deletes.
_NOT_BLANK_IN_PERL = dict.fromkeys(range(0x1C, 0x20))


@dataclass(frozen=True)
class TextChain:
    """How raw text of one language becomes tokens (before BPE), and tokens become text again.

    Attributes:
        lang: language code; picks the rules and abbreviations of the Moses scripts.
        lowercase: lower-case every character on its own, as ``lowercase.perl`` does.
        normalize_punctuation: apply ``normalize-punctuation.perl``.
        tokenize: apply ``tokenizer.perl``; decoding then detokenises.
        aggressive: also split hyphens between letters (``tokenizer.perl -a``).
        escape: write the characters ``& | < > ' " [ ]`` as entities.
        final_dot: "split" always parts the full stop from the last word, as Moses does since
            November 2018; "keep" leaves that of an abbreviation, as older Moses did.
    """

    lang: str
    lowercase: bool = False
    normalize_punctuation: bool = False
    tokenize: bool = False
    aggressive: bool = False
    escape: bool = True
    final_dot: FinalDot = "split"

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_field(field.name, getattr(self, field.name))

    def encode(self, line: str) -> str:
        """Return the blank-separated tokens of one raw line (a final newline is dropped)."""
        text = line.removesuffix("\n")
        if self.lowercase:
            text = lowercase(text)
        if self.normalize_punctuation:
            # The perl script sees the newline, and its rule for a full stop before a closing
            # quote needs it to fire at the end of the line.
            text = str(_normalizer(self.lang).normalize(text + "\n"))
        return self._tokenize(text) if self.tokenize else text

    def decode(self, tokens: str) -> str:
        """Return plain text for blank-separated tokens (case is not restored)."""
        if not self.tokenize:
            return tokens
        detokenizer = _detokenizer(self.lang)
        return str(detokenizer.detokenize(tokens.split(), unescape=self.escape))

    def _tokenize(self, text: str) -> str:
        tokens: str = _tokenizer(self.lang).tokenize(
            text.translate(_NOT_BLANK_IN_PERL),
            aggressive_dash_splits=self.aggressive,
            return_str=True,
            escape=self.escape,
        )
        return split_final_dot(tokens) if self.final_dot == "split" else tokens

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TextChain:
        """Build a chain from its JSON form.

        Raises:
            SeqAttnError: unknown or missing option, or a value of the wrong kind.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise SeqAttnError(
                    f"unknown option '{name}' of a text chain{nearest(name, known)}; "
                    f"it has {', '.join(known)}"
                )
        if "lang" not in values:
            raise SeqAttnError("a text chain needs 'lang', the language code")
        return cls(**values)


@dataclass(frozen=True)
class TextChains:
    """The two chains of a translation direction: raw source in, plain target out."""

    source: TextChain
    target: TextChain

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    def save(self, path: Path) -> None:
        """Write the JSON form to ``path``, atomically."""
        with write_atomically(path) as stream:
            stream.write(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> TextChains:
        """Read what :meth:`save` wrote.

        Raises:
            SeqAttnError: no such file, or not a description of two text chains.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(*(TextChain.from_dict(values[side]) for side in ("source", "target")))
        except FileNotFoundError:
            raise SeqAttnError(
                f"{path}: no such file; --seqattn-text-chain wants the text_chain.json that "
                "seqattn prepare writes beside the dictionaries"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SeqAttnError(
                f'{path}: not a text chain file, {{"source": {{...}}, "target": {{...}}}}'
            ) from None
        except SeqAttnError as error:
            raise SeqAttnError(f"{path}: {error}") from None


def lowercase(text: str) -> str:
    """Lower-case ``text`` character by character.

    ``str.lower`` agrees except for the Greek capital sigma, whose form it chooses by context.
    """
    return "".join(map(str.lower, text)) if "Σ" in text else text.lower()


def split_final_dot(tokens: str) -> str:
    """Part the full stop from a last token like ``usw.``; ``...`` and a lone ``.`` stay."""
    last = tokens[tokens.rfind(" ") + 1 :]
    one_dot = len(last) > 1 and last.endswith(".") and not last.endswith("..")
    return f"{tokens[:-1]} ." if one_dot else tokens


def _check_field(name: str, value: object) -> None:
    if name == "final_dot":
        valid, wanted = value in FINAL_DOT_RULES, " or ".join(FINAL_DOT_RULES)
    elif name == "lang":
        valid, wanted = isinstance(value, str) and bool(value), "a language code"
    else:
        valid, wanted = isinstance(value, bool), "true or false"
    if not valid:
        raise SeqAttnError(f"option '{name}' of a text chain is {value!r}; it must be {wanted}")


# sacremoses is imported on first use: the plugin's door, opened by every fairseq command,
# reaches this module.
@cache
def _normalizer(lang: str) -> PerlPunctNormalizer:
    from seqattn_fairseq.data.moses import PerlPunctNormalizer

    return PerlPunctNormalizer(lang)


@cache
def _tokenizer(lang: str) -> PerlTokenizer:
    from seqattn_fairseq.data.moses import PerlTokenizer

    return PerlTokenizer(lang)


@cache
def _detokenizer(lang: str) -> MosesDetokenizer:
    from seqattn_fairseq.data.moses import MosesDetokenizer

    return MosesDetokenizer(lang)
