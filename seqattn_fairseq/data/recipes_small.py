"""Recipes of the corpora that fit anywhere: Multi30k, IWSLT14 German-English, IWSLT15 En-Vi."""

from __future__ import annotations

from seqattn_fairseq.data.cleaning import CleanRule
from seqattn_fairseq.data.recipe import CorpusRecipe
from seqattn_fairseq.data.sources import Download, Piece, Side
from seqattn_fairseq.data.stages import Clean, HoldOut, Rewrite, SubwordNmt
from seqattn_fairseq.data.text_chain import TextChain

_MULTI30K_SHA256 = {
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.fr.gz": "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90",
    "test_2017_flickr.de.gz": "a2c89666db00c495cd8513b9d708d5a3acc205d7de312ef2bf5fb7ebc1540aee",
    "test_2017_flickr.en.gz": "76a444ee25172e72695cddb13ae4a3bda59430617be88e0bb46b60504f054074",
    "test_2017_flickr.fr.gz": "3ba671ceb2299f3304ffafefea7a833d08632fbaf0ba18546f8a2ec2391af496",
    "test_2017_mscoco.de.gz": "799e4854c25d601cb6cb6be29eabe5667734c61ace2f495e03e429031a0bc338",
    "test_2017_mscoco.en.gz": "aab300bfb4427697987e02cd0aacd44bfe8aa50456231b6474c08038bbed2b58",
    "test_2017_mscoco.fr.gz": "754f3072ba9f124569ba5258b32730fc1d214bbf8e0c6dfb2b74401676220db0",
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.fr.gz": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.fr.gz": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
}


_MULTI30K_FOLDERS = ("", "data/task1/raw", "multi30k", "multi30k/data/task1/raw")
_MULTI30K_COMMIT = "a3d2e0d26b56f3846f66a952536ffed4e401d05a"
_MULTI30K_URL = (
    f"https://raw.githubusercontent.com/multi30k/dataset/{_MULTI30K_COMMIT}/data/task1/raw/"
)


def _multi30k_piece(stem: str, langs: tuple[str, str]) -> tuple[Piece, ...]:
    sides = {}
    for lang in langs:
        name = f"{stem}.{lang}.gz"
        urls, sha256 = (_MULTI30K_URL + name,), _MULTI30K_SHA256[name]
        sides[lang] = Side(Download(name, urls, _MULTI30K_FOLDERS, sha256))
    return (Piece(sides),)


def multi30k(target_lang: str) -> CorpusRecipe:
    """Elliott et al. 2016, 2017; prepared as in Wu et al. 2021, "Good for Misconceived Reasons"."""
    steps = ("lowercase", "normalize_punctuation", "tokenize")
    stems = {
        "train": "train",
        "valid": "val",
        "test": "test_2016_flickr",
        "test1": "test_2017_flickr",
        "test2": "test_2017_mscoco",
    }
    return CorpusRecipe(
        name=f"multi30k_en_{target_lang}",
        source_lang="en",
        target_lang=target_lang,
        sets={split: _multi30k_piece(stem, ("en", target_lang)) for split, stem in stems.items()},
        # The published text was tokenised before Moses' rule changed.
        chain=TextChain(
            "-", lowercase=True, normalize_punctuation=True, tokenize=True, final_dot="keep"
        ),
        stages=(Rewrite("tok", steps), SubwordNmt(10_000)),
        joined=True,
        references={
            "valid": None,
            "test": "multi30k/2016",
            "test1": "multi30k/2017",
            "test2": None,
        },
        terms="for non-commercial research and education; cite Elliott et al. 2016 and 2017",
    )


_IWSLT14 = Download(
    "de-en.tgz",
    ("https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz",),
    ("", "iwslt14"),
    size=19_982_877,
)


def _iwslt14_piece(name: str, ending: str, reader: str) -> Piece:
    return Piece(
        {lang: Side(_IWSLT14, f"de-en/{name}.de-en.{lang}{ending}") for lang in ("de", "en")},
        reader,
    )


def iwslt14() -> CorpusRecipe:
    """Cettolo et al. 2014, German to English; as fairseq's ``prepare-iwslt14.sh`` prepares it."""
    tests = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
    return CorpusRecipe(
        name="iwslt14_de_en",
        source_lang="de",
        target_lang="en",
        sets={
            "train": (_iwslt14_piece("train.tags", "", "iwslt_train"),),
            "test": tuple(_iwslt14_piece(f"IWSLT14.{test}", ".xml", "segments") for test in tests),
        },
        chain=TextChain(
            "-",
            lowercase=True,
            tokenize=True,
            order=("normalize_punctuation", "strip_control", "tokenize", "lowercase"),
        ),
        stages=(
            Rewrite("tok", ("tokenize",)),
            Clean("clean", CleanRule(1, 175, 1.5)),
            Rewrite("lower", ("lowercase",)),
            HoldOut("split", 23),
            SubwordNmt(10_000),
        ),
        references={"test": None},
        terms="TED talks, CC BY-NC-ND; cite Cettolo et al. 2014",
    )


def iwslt15() -> CorpusRecipe:
    """Cettolo et al. 2015 as Luong and Manning published it; prepared as for MUSE (PRIME)."""
    url = "https://nlp.stanford.edu/projects/nmt/data/iwslt15.en-vi/"

    def piece(stem: str) -> tuple[Piece, ...]:
        names = {lang: f"{stem}.{lang}" for lang in ("en", "vi")}
        return (
            Piece(
                {
                    lang: Side(Download(name, (url + name,), ("", "iwslt15")))
                    for lang, name in names.items()
                }
            ),
        )

    return CorpusRecipe(
        name="iwslt15_en_vi",
        source_lang="en",
        target_lang="vi",
        sets={"train": piece("train"), "valid": piece("tst2012"), "test": piece("tst2013")},
        # The files hold tokens, in Moses' manner, with entities.
        chain=TextChain("-", tokenize=True, final_dot="keep"),
        pretokenized=True,
        stages=(SubwordNmt(10_000),),
        terms="TED talks, CC BY-NC-ND; cite Cettolo et al. 2015 and Luong and Manning 2015",
    )
