"""From a raw line to the tokens before BPE and back, as one small value with a JSON form."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seqattn_fairseq.data.cleaning import strip_control_characters
from seqattn_fairseq.data.files import write_atomically
from seqattn_fairseq.errors import SeqAttnError, nearest

if TYPE_CHECKING:
    from seqattn_fairseq.data.moses import MosesDetokenizer, PerlPunctNormalizer, PerlTokenizer

FinalDot = Literal["keep", "split"]
FINAL_DOT_RULES: tuple[FinalDot, ...] = ("keep", "split")

# What a chain can do, in the order of those corpora whose recipe names no other.
TEXT_STEPS = ("lowercase", "normalize_punctuation", "strip_control", "tokenize")

# Blanks for Python's \s, but junk that tokenizer.perl deletes.
_NOT_BLANK_IN_PERL = dict.fromkeys(range(0x1C, 0x20))
_BLANK_IN_PERL = re.compile(r"[^\S\x1c-\x1f]*")


@dataclass(frozen=True)
class TextChain:
    """How raw text of one language becomes tokens (before BPE), and tokens become text again.

    Attributes:
        lang: language code; picks the rules and abbreviations of the Moses scripts.
        lowercase: lower-case every character on its own, as ``lowercase.perl`` does.
        normalize_punctuation: apply ``normalize-punctuation.perl``.
        strip_control: turn control characters into blanks (``remove-non-printing-char.perl``).
        tokenize: apply ``tokenizer.perl``; decoding then detokenises.
        aggressive: also split hyphens between letters (``tokenizer.perl -a``).
        escape: write the characters ``& | < > ' " [ ]`` as entities.
        final_dot: "split" always parts the full stop from the last word, as Moses does since
            November 2018; "keep" leaves that of an abbreviation, as older Moses did.
        order: the order of the steps (those of ``TEXT_STEPS``) that are switched on above.
    """

    lang: str
    lowercase: bool = False
    normalize_punctuation: bool = False
    strip_control: bool = False
    tokenize: bool = False
    aggressive: bool = False
    escape: bool = True
    final_dot: FinalDot = "split"
    order: tuple[str, ...] = TEXT_STEPS

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_field(field.name, getattr(self, field.name))

    def encode(self, line: str) -> str:
        """Return the blank-separated tokens of one raw line (a final newline is dropped).

        A line of nothing but blanks stays one, as the perl scripts leave it.
        """
        text = line.removesuffix("\n")
        for step in self.order:
            if getattr(self, step):
                text = _STEPS[step](self, text)
        return text

    def only(self, *steps: str) -> TextChain:
        """Return a chain that does no more than those of ``steps`` that this one does."""
        off = {step: False for step in TEXT_STEPS if step not in steps}
        return replace(self, **off)  # type: ignore[arg-type]

    def decode(self, tokens: str) -> str:
        """Return plain text for blank-separated tokens (case is not restored)."""
        if not self.tokenize:
            return tokens
        detokenizer = _detokenizer(self.lang)
        return str(detokenizer.detokenize(tokens.split(), unescape=self.escape))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "order": list(self.order)}

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
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists})


@dataclass(frozen=True)
class TextChains:
    """The two chains of a translation direction: raw source in, plain target out."""

    source: TextChain
    target: TextChain

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"source": self.source.to_dict(), "target": self.target.to_dict()}

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


# Blank lines go through tokenizer.perl as they are, and nothing of them is trimmed before.


def _normalize(chain: TextChain, text: str) -> str:
    if _BLANK_IN_PERL.fullmatch(strip_control_characters(text)):
        return re.sub(" +", " ", text.replace("\r", ""))
    # The perl script sees the newline, and its rule for a full stop before a closing quote
    # needs it to fire at the end of the line.
    return str(_normalizer(chain.lang).normalize(text + "\n"))


def _tokenize(chain: TextChain, text: str) -> str:
    if _BLANK_IN_PERL.fullmatch(text):
        return text
    tokens: str = _tokenizer(chain.lang).tokenize(
        text.translate(_NOT_BLANK_IN_PERL),
        aggressive_dash_splits=chain.aggressive,
        return_str=True,
        escape=chain.escape,
    )
    return split_final_dot(tokens) if chain.final_dot == "split" else tokens


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


_STEPS: dict[str, Callable[[TextChain, str], str]] = {
    "lowercase": lambda chain, text: lowercase(text),
    "normalize_punctuation": _normalize,
    "strip_control": lambda chain, text: strip_control_characters(text),
    "tokenize": _tokenize,
}


def _check_field(name: str, value: object) -> None:
    if name == "final_dot":
        valid, wanted = value in FINAL_DOT_RULES, " or ".join(FINAL_DOT_RULES)
    elif name == "lang":
        valid, wanted = isinstance(value, str) and bool(value), "a language code"
    elif name == "order":
        valid = isinstance(value, tuple) and sorted(value) == sorted(TEXT_STEPS)
        wanted = f"the names {', '.join(TEXT_STEPS)} in some order"
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
