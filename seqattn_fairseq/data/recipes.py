"""The public corpora that ``seqattn prepare`` knows, and how their papers prepare them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from seqattn_fairseq.data.text_chain import FinalDot, TextChain, TextChains
from seqattn_fairseq.errors import SeqAttnError, nearest


@dataclass(frozen=True)
class Split:
    """A part of a corpus: fairseq's name for it, and the stem of its raw files."""

    name: str
    stem: str


@dataclass(frozen=True)
class CorpusRecipe:
    """A translation direction of a public corpus.

    Attributes:
        name: what the user types.
        source_lang, target_lang: language codes, which are also the raw files' endings.
        splits: "train", "valid" and the test sets "test", "test1", ... in this order.
        base_url: folder from which ``<stem>.<lang>.gz`` is fetched, ending in "/".
        sha256: file name -> SHA-256 of the published file.
        layouts: folders below ``--from`` that may hold the raw files.
        merges: number of joint BPE merge operations.
        final_dot: rule of the published text (see :class:`TextChain`).
        terms: what its makers ask of its users, in one line.
    """

    name: str
    source_lang: str
    target_lang: str
    splits: tuple[Split, ...]
    base_url: str
    sha256: Mapping[str, str]
    layouts: tuple[str, ...]
    merges: int
    final_dot: FinalDot
    terms: str

    @property
    def langs(self) -> tuple[str, str]:
        """Source and target language."""
        return self.source_lang, self.target_lang

    def text_chains(self, final_dot: FinalDot | None = None) -> TextChains:
        """Return the text chains of both languages (lower-cased, normalised, tokenised)."""
        rule = final_dot or self.final_dot
        return TextChains(*(_lowercased_moses(lang, rule) for lang in self.langs))

    def locate(self, folder: Path) -> dict[tuple[str, str], Path]:
        """Return the raw file of every (split, language), gzipped or plain, below ``folder``.

        Raises:
            SeqAttnError: a file is missing; says what was looked for and where.
        """
        if not folder.is_dir():
            raise SeqAttnError(f"--from {folder}: no such folder")
        return {
            (split.name, lang): self._find(folder, f"{split.stem}.{lang}")
            for split in self.splits
            for lang in self.langs
        }

    def _find(self, folder: Path, name: str) -> Path:
        places = [folder / layout for layout in self.layouts]
        for place in places:
            for candidate in (place / f"{name}.gz", place / name):
                if candidate.is_file():
                    return candidate
        looked = " and ".join(map(str, places))
        raise SeqAttnError(f"--from {folder}: found neither {name}.gz nor {name} in {looked}")


def _lowercased_moses(lang: str, final_dot: FinalDot) -> TextChain:
    return TextChain(
        lang, lowercase=True, normalize_punctuation=True, tokenize=True, final_dot=final_dot
    )


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


def _multi30k(target_lang: str) -> CorpusRecipe:
    """Elliott et al. 2016, 2017; prepared as in Wu et al. 2021, "Good for Misconceived Reasons"."""
    commit = "a3d2e0d26b56f3846f66a952536ffed4e401d05a"
    return CorpusRecipe(
        name=f"multi30k_en_{target_lang}",
        source_lang="en",
        target_lang=target_lang,
        splits=(
            Split("train", "train"),
            Split("valid", "val"),
            Split("test", "test_2016_flickr"),
            Split("test1", "test_2017_flickr"),
            Split("test2", "test_2017_mscoco"),
        ),
        base_url=f"https://raw.githubusercontent.com/multi30k/dataset/{commit}/data/task1/raw/",
        sha256=_MULTI30K_SHA256,
        layouts=("", "data/task1/raw"),
        merges=10_000,
        final_dot="keep",
        terms="for non-commercial research and education; cite Elliott et al. 2016 and 2017",
    )


RECIPES = {recipe.name: recipe for recipe in map(_multi30k, ("de", "fr"))}


def find_recipe(name: str) -> CorpusRecipe:
    """Return the recipe of that name.

    Raises:
        SeqAttnError: there is none; names the nearest.
    """
    if name not in RECIPES:
        raise SeqAttnError(
            f"unknown corpus '{name}'{nearest(name, RECIPES)}; known are {', '.join(RECIPES)}"
        )
    return RECIPES[name]
