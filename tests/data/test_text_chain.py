"""Raw text to tokens and back: the corners where Python and the Moses scripts differ."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacremoses import MosesPunctNormalizer

from seqattn_fairseq.data.files import read_lines
from seqattn_fairseq.data.text_chain import TextChain, TextChains, lowercase, split_final_dot
from seqattn_fairseq.errors import SeqAttnError

FULL: dict[str, Any] = {"lowercase": True, "normalize_punctuation": True, "tokenize": True}


def published(lang: str) -> TextChain:
    return TextChain(lang, **FULL, final_dot="keep")


@pytest.mark.parametrize(
    ("lang", "raw", "tokens"),
    [
        ("en", "A man's hat.", "a man &apos;s hat ."),
        ("fr", "L'homme d'ici.", "l&apos; homme d&apos; ici ."),
        ("de", "Ein \u201eHaus\u201c \u2013 gut.", "ein &quot; haus &quot; - gut ."),
        # The full stop moves out of the quotes only where the newline follows them.
        ("de", 'Er sagt "ja."', "er sagt &quot; ja &quot; ."),
        ("de", "Pferde, Hunde usw.", "pferde , hunde usw."),
        ("en", "Wait ...", "wait ..."),
        ("en", "1,000 or A,B", "1,000 or a , b"),
        ("de", "\u4e2d\u56fd und \ud55c\uad6d", "\u4e2d\u56fd und \ud55c\uad6d"),
        ("en", "a\u2028b\u0085c\u00a0d\te", "a b c d e"),
        ("en", "a\x1cb", "ab"),
        ("en", " two  blanks ", "two blanks"),
        ("en", "[R&D] <x|y>", "&#91; r &amp; d &#93; &lt; x &#124; y &gt;"),
        ("en", "", ""),
        # tokenizer.perl prints blank lines as they are.
        ("en", "  \u00a0 ", " \u00a0 "),
    ],
)
def test_published_form(lang: str, raw: str, tokens: str) -> None:
    assert published(lang).encode(raw) == tokens
    assert published(lang).encode(raw + "\n") == tokens


@pytest.mark.parametrize(
    ("tokens", "split"),
    [
        ("hunde usw.", "hunde usw ."),
        ("u.s.a.", "u.s.a ."),
        ("hut .", "hut ."),
        (".", "."),
        ("wait ...", "wait ..."),
        ("no dot", "no dot"),
        ("", ""),
    ],
)
def test_final_dot_rule(tokens: str, split: str) -> None:
    assert split_final_dot(tokens) == split


def test_final_dot_is_split_by_default() -> None:
    assert TextChain("de", tokenize=True).encode("Hunde usw.") == "Hunde usw ."


def test_aggressive_and_unescaped() -> None:
    chain = TextChain("en", tokenize=True, aggressive=True, escape=False)
    assert chain.encode("well-known R&D") == "well @-@ known R & D"
    assert chain.decode("well @-@ known R & D &amp;") == "well-known R & D &amp;"


@pytest.mark.parametrize(
    ("order", "tokens"),
    [
        # Moses knows "usw." as an abbreviation, but not "Usw.", unless a small letter follows.
        (("lowercase", "normalize_punctuation", "strip_control", "tokenize"), "ein usw. b"),
        (("normalize_punctuation", "strip_control", "tokenize", "lowercase"), "ein usw . b"),
    ],
)
def test_steps_happen_in_their_order(order: tuple[str, ...], tokens: str) -> None:
    chain = TextChain("de", **FULL, strip_control=True, order=order)
    assert chain.encode("Ein Usw. B") == tokens


def test_part_of_a_chain() -> None:
    chain = TextChain("en", **FULL, strip_control=True)
    assert chain.only("strip_control").encode("A\u200b\u00adB.\t") == "A  B. "
    assert chain.only("tokenize", "aggressive").encode("A-b.") == "A-b ."
    assert chain.only().encode(" A ") == " A "


def test_chain_files_of_before_the_order_load(tmp_path: Path) -> None:
    old = {"lang": "en", **FULL, "aggressive": False, "escape": True, "final_dot": "keep"}
    (tmp_path / "chain.json").write_text(json.dumps({"source": old, "target": old}))
    assert TextChains.load(tmp_path / "chain.json").source == published("en")


def test_lowercase_is_context_free() -> None:
    assert lowercase("\u03a6\u03a9\u03a3 A") == "\u03c6\u03c9\u03c3 a"


@given(st.text())
def test_lowercase_is_character_by_character(text: str) -> None:
    assert lowercase(text) == "".join(character.lower() for character in text)


@given(st.text(), st.sampled_from(["en", "de", "fr"]), st.sampled_from(["keep", "split"]))
def test_tokens_are_one_clean_line(text: str, lang: str, rule: str) -> None:
    chain = TextChain.from_dict({"lang": lang, **FULL, "final_dot": rule})
    tokens = chain.encode(text)
    assert tokens == " ".join(tokens.split()) or not tokens.strip()
    assert "\n" not in chain.decode(tokens)


@pytest.mark.parametrize(
    ("lang", "tokens", "text"),
    [
        ("en", "a man &apos;s hat , &quot; really &quot; .", 'a man\'s hat, "really".'),
        ("fr", "l&apos; homme d&apos; ici .", "l'homme d'ici."),
        ("de", "ein haus &amp; ein hof !", "ein haus & ein hof!"),
        ("de", "", ""),
    ],
)
def test_decode(lang: str, tokens: str, text: str) -> None:
    assert published(lang).decode(tokens) == text


def test_identity_chain_changes_nothing() -> None:
    chain = TextChain("de")
    assert chain.encode("  Ein  Haus. ") == "  Ein  Haus. "
    assert chain.decode("\u2581Ein \u2581Haus.") == "\u2581Ein \u2581Haus."


def test_other_normalisers_of_the_process_keep_their_tables() -> None:
    text = "\u2018a\u2019 \u00a0\u00ab\u00a0b\u00a0\u00bb"
    before = MosesPunctNormalizer("fr").normalize(text)
    published("fr").encode(text)
    assert MosesPunctNormalizer("fr").normalize(text) == before
    assert MosesPunctNormalizer.NORMALIZE_UNICODE[11] == ("\u2019", "'")


def test_json_round_trip(tmp_path: Path) -> None:
    chains = TextChains(published("en"), TextChain("de", tokenize=True, aggressive=True))
    chains.save(tmp_path / "chain.json")
    assert TextChains.load(tmp_path / "chain.json") == chains
    assert TextChain.from_dict(json.loads(json.dumps(chains.source.to_dict()))) == chains.source


def test_chains_travel_to_worker_processes() -> None:
    assert pickle.loads(pickle.dumps(published("en"))).encode("A, b") == "a , b"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lang": "en", "lower": True}, "unknown option 'lower' .*did you mean lowercase"),
        ({"lowercase": True}, "needs 'lang'"),
        ({"lang": "en", "final_dot": "drop"}, "'final_dot' .* is 'drop'; .* keep or split"),
        ({"lang": "en", "escape": "no"}, "'escape' .* is 'no'; .* true or false"),
        ({"lang": ""}, "'lang' .* must be a language code"),
        ({"lang": "en", "order": ["tokenize"]}, "'order' .* must be the names lowercase, "),
        ({"lang": "en", "order": "tokenize"}, "'order' .* must be the names lowercase, "),
    ],
)
def test_bad_chain_is_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(SeqAttnError, match=message):
        TextChain.from_dict(values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "not a text chain file"),
        ("[1]", "not a text chain file"),
        ('{"source": {"lang": "en"}}', "not a text chain file"),
        ('{"source": {"lang": "en"}, "target": {"lang": "de", "x": 1}}', "unknown option 'x'"),
    ],
)
def test_bad_chain_file_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "chain.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SeqAttnError, match=message) as caught:
        TextChains.load(path)
    assert str(path) in str(caught.value)


# Tokens of the published test sets 2016, 2017 and COCO.
REFERENCE_TOKENS = {"de": (12_103, 10_758, 5_158), "fr": (13_988, 12_596, 5_710)}


@pytest.mark.parametrize("lang", ["de", "fr"])
def test_reference_lengths_of_multi30k(shared: Path, lang: str) -> None:
    stems = ("test_2016_flickr", "test_2017_flickr", "test_2017_mscoco")
    chain = published(lang)
    for stem, expected in zip(stems, REFERENCE_TOKENS[lang], strict=True):
        lines = read_lines(shared / "data" / "multi30k" / f"{stem}.{lang}.gz")
        assert sum(len(chain.encode(line).split()) for line in lines) == expected
