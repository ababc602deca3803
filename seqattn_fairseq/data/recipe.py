"""How a corpus is prepared, as data: its files, its pieces, its stages, its dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from seqattn_fairseq.data.pipeline import Stage
from seqattn_fairseq.data.sources import Download, Located, Piece, Side, locate
from seqattn_fairseq.data.stages import SubwordNmt
from seqattn_fairseq.data.text_chain import FinalDot, TextChain, TextChains

DATA_BIN = "data-bin"

_PLAIN = TextChain("-")


@dataclass(frozen=True)
class CorpusRecipe:
    """A translation direction of a corpus, and one way to prepare it.

    Attributes:
        name: what the user types.
        source_lang, target_lang: language codes.
        sets: "train", "valid" (unless a stage holds it out) and the test sets "test", "test1",
            ... -> the pieces that make them up, in order.
        stages: what happens to the text, in order.
        chain: how raw text becomes the tokens before BPE, whether that is done by the stages or
            was done by the makers of the files; the languages are filled in.
        pretokenized: the files hold tokens, so that there is no raw text of anything.
        joined: one dictionary for both languages, as in the recipe that is followed.
        words: greatest size of a dictionary (``--nwordssrc``, ``--nwordstgt``); None: no limit.
        codes: file of ready BPE codes, where no stage learns them.
        references: split -> sacreBLEU's name of the test set, or None where it has none; for the
            splits whose raw target text is at hand or known to sacreBLEU.
        ready: a shorter way to the same corpus, taken when its files are at hand.
        terms: what the makers ask of users, in one line.
    """

    name: str
    source_lang: str
    target_lang: str
    sets: Mapping[str, tuple[Piece, ...]]
    stages: tuple[Stage, ...]
    chain: TextChain = _PLAIN
    pretokenized: bool = False
    joined: bool = False
    words: int | None = None
    codes: Side | None = None
    references: Mapping[str, str | None] = field(default_factory=dict)
    ready: CorpusRecipe | None = None
    terms: str = ""

    @property
    def langs(self) -> tuple[str, str]:
        """Source and target language."""
        return self.source_lang, self.target_lang

    @property
    def sides(self) -> list[Side]:
        """All files of text that the corpus is made of, and its codes."""
        pieces = [piece for pieces in self.sets.values() for piece in pieces]
        sides = [side for piece in pieces for side in piece.sides.values()]
        return [*sides, self.codes] if self.codes else sides

    @property
    def downloads(self) -> list[Download]:
        """All public files that the corpus is made of, each once."""
        return list(dict.fromkeys(side.download for side in self.sides))

    def text_chains(self, final_dot: FinalDot | None = None) -> TextChains:
        """Return the text chains of both languages."""
        rule = final_dot or self.chain.final_dot
        return TextChains(*(replace(self.chain, lang=lang, final_dot=rule) for lang in self.langs))

    def data_bin(self, joined: bool) -> str:
        """Return the name of the data-bin: the usual one, or one with the other dictionaries."""
        if joined == self.joined:
            return DATA_BIN
        return f"{DATA_BIN}.{'joined' if joined else 'separate'}"

    def locate(self, folder: Path) -> Located:
        """Return where the files lie below ``folder``.

        Raises:
            SeqAttnError: a file is missing; says what was looked for and where.
        """
        return locate(self.downloads, folder)

    def is_at_hand(self, folder: Path) -> bool:
        """Tell whether all files lie below ``folder``."""
        return all(download.find(folder) for download in self.downloads)

    def with_merges(self, merges: int) -> CorpusRecipe:
        """Return the recipe with another number of BPE merges."""
        stages = (
            replace(stage, merges=merges) if isinstance(stage, SubwordNmt) else stage
            for stage in self.stages
        )
        return replace(self, stages=tuple(stages))

    def reversed(self, name: str) -> CorpusRecipe:
        """Return the recipe of the opposite direction: the same files, the sides exchanged."""
        return replace(
            self,
            name=name,
            source_lang=self.target_lang,
            target_lang=self.source_lang,
            ready=self.ready and self.ready.reversed(name),
        )
