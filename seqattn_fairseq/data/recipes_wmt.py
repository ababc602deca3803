"""Recipes of the WMT corpora, each along the road of the official script that made it known."""

from __future__ import annotations

from dataclasses import replace

from seqattn_fairseq.data.cleaning import CleanRule
from seqattn_fairseq.data.recipe import CorpusRecipe
from seqattn_fairseq.data.sources import Download, Piece, Side
from seqattn_fairseq.data.stages import Clean, HoldOut, Rewrite, SubwordNmt
from seqattn_fairseq.data.text_chain import TextChain

_TERMS = "for research; cite the findings of the WMT whose news test set is used"


def _statmt(path: str, folders: tuple[str, ...] = ("", "wmt14", "wmt13")) -> Download:
    """Return a file of WMT's main server, which answers under two names."""
    urls = tuple(f"https://{host}/{path}" for host in ("www.statmt.org", "statmt.org"))
    return Download(path.rpartition("/")[2], urls, folders)


def _data_statmt(year: str, name: str) -> Download:
    url = f"https://data.statmt.org/{year}/translation-task/{name}"
    return Download(name, (url,), ("", "wmt14", year))


_EUROPARL = _statmt("wmt13/training-parallel-europarl-v7.tgz")
_COMMON_CRAWL = _statmt("wmt13/training-parallel-commoncrawl.tgz")
_UN = _statmt("wmt13/training-parallel-un.tgz")
_GIGA = _statmt("wmt10/training-giga-fren.tar", ("", "wmt14", "wmt10"))
_NEWS_V9 = _statmt("wmt14/training-parallel-nc-v9.tgz")
_NEWS_V11 = _data_statmt("wmt16", "training-parallel-nc-v11.tgz")
_NEWS_V12 = _data_statmt("wmt17", "training-parallel-nc-v12.tgz")
_TEST_FULL = _statmt("wmt14/test-full.tgz")
_DEV_2016 = _data_statmt("wmt16", "dev.tgz")
# IWSLT14 has an archive of the same name, so that the folder comes first.
_EUROPARL_DE_EN = _statmt(
    "europarl/v7/de-en.tgz",
    ("europarl/v7", "europarl", "wmt14/europarl/v7", "wmt14/europarl", ""),
)
_READY = Download(
    # It was offered by Google Drive (0B_bZck-ksdkpM25jRUN2X2UxMm8) until 2021.
    "wmt16_en_de.tar.gz",
    (),
    ("", "wmt16_google"),
)


def _piece(archive: Download, member: str, langs: tuple[str, str], reader: str = "lines") -> Piece:
    """Return a piece whose members differ in their language alone."""
    return Piece({lang: Side(archive, member.format(lang=lang)) for lang in langs}, reader)


def _news_test(archive: Download, stem: str, langs: tuple[str, str], reader: str) -> Piece:
    """Return a news test set, whose files are called after the direction ``langs`` as well."""
    names = {langs[0]: f"{stem}-src.{langs[0]}.sgm", langs[1]: f"{stem}-ref.{langs[1]}.sgm"}
    return Piece({lang: Side(archive, name) for lang, name in names.items()}, reader)


def _fairseq_route(
    name: str, target_lang: str, train: tuple[Piece, ...], every: int
) -> CorpusRecipe:
    """Return what fairseq's ``prepare-wmt14en2de.sh`` and ``prepare-wmt14en2fr.sh`` do."""
    langs = ("en", target_lang)
    pair = {"de": "deen", "fr": "fren"}[target_lang]
    test = _news_test(_TEST_FULL, f"test-full/newstest2014-{pair}", langs, "segments")
    return CorpusRecipe(
        name=name,
        source_lang="en",
        target_lang=target_lang,
        sets={"train": train, "test": (test,)},
        chain=TextChain(
            "-", normalize_punctuation=True, strip_control=True, tokenize=True, aggressive=True
        ),
        stages=(
            Rewrite("tok", ("normalize_punctuation", "strip_control", "tokenize"), ("tokenize",)),
            HoldOut("split", every),
            SubwordNmt(40_000),
            Clean("clean", CleanRule(1, 250, 1.5), ("train", "valid")),
        ),
        references={"test": "wmt14/full"},
        terms=_TERMS,
    )


def fairseq_en_de(name: str, icml17: bool) -> CorpusRecipe:
    """WMT English to German as fairseq's script prepares it, with or without ``--icml17``.

    With it, news commentary is that of WMT14 (Gehring et al. 2017), without it that of WMT17.
    """
    langs = ("en", "de")
    news, version = (_NEWS_V9, "v9") if icml17 else (_NEWS_V12, "v12")
    train = (
        _piece(_EUROPARL, "training/europarl-v7.de-en.{lang}", langs),
        _piece(_COMMON_CRAWL, "commoncrawl.de-en.{lang}", langs),
        _piece(news, f"training/news-commentary-{version}.de-en.{{lang}}", langs),
    )
    return _fairseq_route(name, "de", train, every=100)


def fairseq_en_fr() -> CorpusRecipe:
    """WMT14 English to French as fairseq's script prepares it (Gehring et al. 2017)."""
    langs = ("en", "fr")
    train = (
        _piece(_EUROPARL, "training/europarl-v7.fr-en.{lang}", langs),
        _piece(_COMMON_CRAWL, "commoncrawl.fr-en.{lang}", langs),
        _piece(_UN, "un/undoc.2000.fr-en.{lang}", langs),
        _piece(_NEWS_V9, "training/news-commentary-v9.fr-en.{lang}", langs),
        _piece(_GIGA, "giga-fren.release2.fixed.{lang}.gz", langs),
    )
    return _fairseq_route("wmt14_en_fr", "fr", train, every=1333)


def _wmt16(name: str) -> CorpusRecipe:
    """Return what Google's and Mega's roads have in common: files, splits, one dictionary."""
    langs = ("en", "de")
    # The archive holds the test set in its other direction; the sentences are the same.
    test = _news_test(_DEV_2016, "dev/newstest2014-deen", ("de", "en"), "sgm")
    return CorpusRecipe(
        name=name,
        source_lang="en",
        target_lang="de",
        sets={
            "train": (
                _piece(_EUROPARL_DE_EN, "europarl-v7.de-en.{lang}", langs),
                _piece(_COMMON_CRAWL, "commoncrawl.de-en.{lang}", langs),
                _piece(
                    _NEWS_V11,
                    "training-parallel-nc-v11/news-commentary-v11.de-en.{lang}",
                    langs,
                ),
            ),
            "valid": (_piece(_DEV_2016, "dev/newstest2013.{lang}", langs),),
            "test": (test,),
        },
        stages=(),
        joined=True,
        references={"valid": "wmt13", "test": "wmt14/full"},
        terms=_TERMS,
    )


def google_en_de() -> CorpusRecipe:
    """WMT16 English to German as in Ott et al. 2018: google/seq2seq's script, or its archive."""
    raw = replace(
        _wmt16("wmt16_en_de_bpe32k"),
        chain=TextChain("-", tokenize=True),
        stages=(
            Rewrite("tok", ("tokenize",)),
            Clean("clean", CleanRule(1, 80, 9.0)),
            SubwordNmt(32_000),
        ),
        words=32_768,
    )
    stems = {"train": "train.tok.clean", "valid": "newstest2013.tok", "test": "newstest2014.tok"}
    ready = replace(
        raw,
        sets={
            split: (_piece(_READY, f"{stem}.bpe.32000.{{lang}}", raw.langs),)
            for split, stem in stems.items()
        },
        stages=(Rewrite("bpe"),),
        codes=Side(_READY, "bpe.32000"),
        pretokenized=True,
    )
    return replace(raw, ready=ready)


def mega_en_de() -> CorpusRecipe:
    """WMT16 English to German as in Ma et al. 2023 (Mega's ``prepare-wmt16en2de.sh``)."""
    return replace(
        _wmt16("wmt16_en_de_mega"),
        chain=TextChain(
            "-",
            normalize_punctuation=True,
            strip_control=True,
            tokenize=True,
            escape=False,
            order=("lowercase", "strip_control", "normalize_punctuation", "tokenize"),
        ),
        stages=(
            Rewrite("tok", ("strip_control", "normalize_punctuation", "tokenize"), ("tokenize",)),
            SubwordNmt(32_000),
            Clean("clean", CleanRule(3, 150, 1.5)),
        ),
        words=33_000,
    )
