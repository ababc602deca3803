"""The archives of all public corpora in miniature: their names and layouts, text of our own.

German and English come from the embedded grammar. "French" is the German with accents and
elisions, "Vietnamese" the English in accented syllables: nonsense, but with the letters and the
marks of these languages, and with the sentence as its only translation. Between the sentences
stand lines that break careless scripts.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

from seqattn_fairseq.data.grammar import sentence_pairs

Pair = tuple[str, str]  # the other language, English

LONG = "überlang"
OUT_OF_RATIO = "unverhältnismäßig"

# Every one of these is parallel; what a preparation drops is marked by one of the words above
# or has a blank side.
HARD_PAIRS: tuple[Pair, ...] = (
    ("A &amp; B &lt; C & D | E [siehe oben] <b>", "A &amp; B &lt; C & D | E [see above] <b>"),
    ("eine Zeile\rmit Wagenrücklauf\r", "one line\rwith a carriage return\r"),
    ("vor\u2028nach\x85Ende und\u2029weiter", "before\u2028after\x85end and\u2029on"),
    ("\tmit  Tabulatoren\tund   Blanks ", " with  tabs\tand   blanks\t"),
    ("", "nothing on the other side"),
    ("nichts auf der anderen Seite", " \t\xa0"),
    (OUT_OF_RATIO, f"{OUT_OF_RATIO} and many more words than the other side has got"),
    (f"{LONG} " * 260, f"{LONG} " * 260),
    ("Das kostet 5.300,50\xa0Euro usw.", "That costs 5,300.50\xa0euros etc."),
    ("Er sagte: \u201eIch komme.\u201c", 'He said: "I am coming."'),
    ("中国的文字 und Ελληνικά ΦΩΣ", "中国的文字 and Ελληνικά ΦΩΣ"),
    (
        "Soft\u00adhyphen, null\u200bbreit, e\u0301, \x1c \x07",
        "soft\u00adhyphen, zero\u200bwidth, e\u0301",
    ),
    ("Kaffee-Liebhaber -- und @-@ sowie @@ ...", "coffee-lovers -- and @-@ as well as @@ ..."),
)

_ACCENTS = str.maketrans("aeou", "àéôù")
_TONES = str.maketrans("aeiouy", "ạếĩộứỷ")
_MTIME = 1_400_000_000


@cache
def german(count: int, seed: int) -> tuple[Pair, ...]:
    """Return sentences in German and English, all of them different."""
    return tuple(islice(sentence_pairs(seed), count))


def french(pairs: Iterable[Pair]) -> list[Pair]:
    """Return the same sentences in "French" and English."""
    return [(_french(other), english) for other, english in pairs]


def _french(text: str) -> str:
    words = [f"l'{word}" if word[:1] in "AEIOU" else word for word in text.split(" ")]
    return " ".join(words).translate(_ACCENTS).replace("\u201e", "« ").replace("\u201c", " »")


def with_hard_lines(pairs: Sequence[Pair]) -> list[Pair]:
    """Put the hard lines between the sentences, none of them at the start."""
    mixed = list(pairs)
    for number, pair in enumerate(HARD_PAIRS, start=1):
        mixed.insert(number * 7, pair)
    return mixed


def lines(texts: Iterable[str]) -> bytes:
    """Return a file of these lines."""
    return "".join(f"{text}\n" for text in texts).encode()


def sides(stem: str, langs: str, pairs: Sequence[Pair]) -> dict[str, bytes]:
    """Return the files ``stem.<other>`` and ``stem.<en>`` of sentence pairs."""
    names = [f"{stem}.{lang}" for lang in langs.split()]
    return dict(zip(names, map(lines, zip(*pairs, strict=True)), strict=True))


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    """Write a tar archive with repeatable bytes, gzipped unless it is called ``.tar``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), _MTIME
            tar.addfile(info, io.BytesIO(content))
    packed = buffer.getvalue()
    path.write_bytes(packed if path.suffix == ".tar" else gzip.compress(packed, mtime=0))


def sgm(side: str, lang: str, texts: Sequence[str]) -> bytes:
    """Return a WMT test file; ``side`` is "src" or "ref"."""
    body = [f'<seg id="{number}">{text}</seg>' for number, text in enumerate(texts, start=1)]
    head = f'<{side}set setid="newstest" srclang="any" trglang="{lang}">'
    return lines([head, '<doc docid="1" genre="news">', "<p>", *body, "</p>", "</doc>"])


def sgm_pair(stem: str, languages: tuple[str, str], pairs: Sequence[Pair]) -> dict[str, bytes]:
    """Return ``<stem>-{src,ref}.<lang>.sgm`` of both languages."""
    columns = list(zip(*pairs, strict=True))
    return {
        f"{stem}-{side}.{lang}.sgm": sgm(side, lang, texts)
        for lang, texts in zip(languages, columns, strict=True)
        for side in ("src", "ref")
    }


def write_iwslt14(folder: Path) -> None:
    """Write ``iwslt14/de-en.tgz``: one talk with its tags, and five dev and test sets."""
    tags = [
        ("<url>http://x/talk</url>",) * 2,
        ("<keywords>a, b</keywords>",) * 2,
        ("<talkid>1</talkid>",) * 2,
        ("<title>Ein Haus.</title>", "<title>A house.</title>"),
        ("<description>TED: ein Hund.</description>", "<description>TED: a dog.</description>"),
    ]
    pairs = with_hard_lines(german(400, 14))
    members = {"de-en/README": b"miniature\n"}
    members |= sides("de-en/train.tags.de-en", "de en", [*tags, *pairs])
    sets = ["TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012"]
    for seed, name in enumerate(sets, start=20):
        for column, lang in enumerate(("de", "en")):
            texts = [pair[column].replace("'", "\u2019") for pair in german(6 + seed % 5, seed)]
            segments = [f'<seg id="{n}"> {text} </seg>' for n, text in enumerate(texts, start=1)]
            head = ['<?xml version="1.0"?>', "<mteval>", "<description>x</description>"]
            file = f"de-en/IWSLT14.{name}.de-en.{lang}.xml"
            members[file] = lines([*head, *segments, "</mteval>"])
    write_tar(folder / "iwslt14" / "de-en.tgz", members)


def write_iwslt15(folder: Path) -> None:
    """Write the six plain files of ``iwslt15``, tokenised and escaped as published."""
    (folder / "iwslt15").mkdir(parents=True)
    for seed, (stem, count) in enumerate({"train": 200, "tst2012": 15, "tst2013": 12}.items()):
        pairs = [
            (_tokens(text).translate(_TONES), _tokens(text)) for _, text in german(count, 30 + seed)
        ]
        pairs[3] = ("R &amp; D &#91; ứ &#93; &quot;", "R &amp; D &#91; u &#93; &quot;")
        for name, content in sides(stem, "vi en", pairs).items():
            (folder / "iwslt15" / name).write_bytes(content)


def _tokens(text: str) -> str:
    for mark in ",.?!":
        text = text.replace(mark, f" {mark}")
    return text.replace("'", " &apos;")


def write_wmt14(folder: Path) -> None:
    """Write the archives of the WMT routes to ``wmt14``, with hard lines in the crawled text."""
    place = folder / "wmt14"
    german_europarl, french_europarl = german(220, 40), french(german(700, 41))
    europarl = sides("europarl-v7.de-en", "de en", german_europarl)
    both = europarl | sides("europarl-v7.fr-en", "fr en", french_europarl)
    write_tar(place / "training-parallel-europarl-v7.tgz", _inside("training", both))
    write_tar(place / "europarl" / "de-en.tgz", europarl)
    crawl = with_hard_lines(german(150, 42))
    crawled = sides("./commoncrawl.de-en", "de en", crawl)
    crawled |= sides("./commoncrawl.fr-en", "fr en", french(with_hard_lines(german(300, 43))))
    annotation = {f"./commoncrawl.{pair}-en.annotation": b"x\n" for pair in ("de", "fr")}
    write_tar(place / "training-parallel-commoncrawl.tgz", crawled | annotation)
    for version, inside in (
        ("v9", "training"),
        ("v11", "training-parallel-nc-v11"),
        ("v12", "training"),
    ):
        news = sides(f"news-commentary-{version}.de-en", "de en", german(60, int(version[1:]) + 40))
        if version == "v9":
            news |= sides(f"news-commentary-{version}.fr-en", "fr en", french(german(150, 55)))
        write_tar(place / f"training-parallel-nc-{version}.tgz", _inside(inside, news))
    un = sides("undoc.2000.fr-en", "fr en", french(german(150, 56)))
    write_tar(place / "training-parallel-un.tgz", _inside("un", un))
    giga = sides("giga-fren.release2.fixed", "fr en", french(german(150, 57)))
    packed = {f"{name}.gz": gzip.compress(text, mtime=0) for name, text in giga.items()}
    write_tar(place / "training-giga-fren.tar", packed)
    _write_wmt_tests(place)


def _write_wmt_tests(place: Path) -> None:
    entity = ("A &amp; B, sagte er\u2019s usw.", "A &amp; B, he\u2019d said etc.")
    deen = [*german(20, 60), entity]
    fren = french([*german(15, 61), entity])
    full = sgm_pair("newstest2014-deen", ("de", "en"), deen)
    full |= sgm_pair("newstest2014-fren", ("fr", "en"), fren)
    write_tar(place / "test-full.tgz", _inside("test-full", full))
    dev = sides("newstest2012", "de en", german(8, 62)) | sides(
        "newstest2013", "de en", german(18, 63)
    )
    dev |= sgm_pair("newstest2013", ("de", "en"), german(18, 63))
    dev |= sgm_pair("newstest2014-deen", ("de", "en"), deen)
    dev |= sgm_pair("newstest2015-deen", ("de", "en"), german(10, 64))
    write_tar(place / "dev.tgz", _inside("dev", dev))
    test = sgm_pair("newstest2016-deen", ("de", "en"), german(10, 65))
    write_tar(place / "test.tgz", _inside("test", test))


def _inside(folder: str, members: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": content for name, content in members.items()}


def write_google(folder: Path) -> None:
    """Write ``wmt16_google/wmt16_en_de.tar.gz``, segmented with codes of its own."""
    from subword_nmt.apply_bpe import BPE
    from subword_nmt.learn_bpe import learn_bpe

    texts = {
        stem: [(_tokens(other), _tokens(english)) for other, english in german(count, seed)]
        for seed, (stem, count) in enumerate(
            {"train": 250, "newstest2013": 18, "newstest2014": 21}.items(), start=70
        )
    }
    codes = io.StringIO()
    learn_bpe([side for pair in texts["train"] for side in pair], codes, 300)
    codes.seek(0)
    bpe = BPE(codes)
    members = {"bpe.32000": codes.getvalue().encode(), "vocab.bpe.32000": b"haus\nhouse\n"}
    for stem, pairs in texts.items():
        tok = "train.tok.clean" if stem == "train" else f"{stem}.tok"
        cut = [(bpe.segment(other), bpe.segment(english)) for other, english in pairs]
        members |= sides(f"{tok}.bpe.32000", "de en", cut)
        if stem != "train":
            members |= sides(tok, "de en", pairs)
    write_tar(folder / "wmt16_google" / "wmt16_en_de.tar.gz", members)


def write_multi30k(folder: Path) -> None:
    """Write the gzipped raw files of Multi30k below ``multi30k``."""
    place = folder / "multi30k" / "data" / "task1" / "raw"
    place.mkdir(parents=True)
    sizes = {"train": 200, "val": 15, "test_2016_flickr": 17, "test_2017_flickr": 13}
    for seed, (stem, count) in enumerate({**sizes, "test_2017_mscoco": 11}.items(), start=80):
        pairs = german(count, seed)
        columns = {"de": pairs, "en": [pair[::-1] for pair in pairs], "fr": french(pairs)}
        for lang, column in columns.items():
            content = lines(pair[0] for pair in column)
            (place / f"{stem}.{lang}.gz").write_bytes(gzip.compress(content, mtime=0))


def write_archives(folder: Path) -> Path:
    """Write all archives below ``folder``, in the places of the public ones, and return it."""
    for write in (write_iwslt14, write_iwslt15, write_wmt14, write_google, write_multi30k):
        write(folder)
    return folder
