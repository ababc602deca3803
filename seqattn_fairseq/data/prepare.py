"""From the public files of a corpus to a data-bin: unpack, check, run the stages, binarise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seqattn_fairseq.data.binarize import Dictionaries, binary_size, dictionary_types
from seqattn_fairseq.data.checks import TextCount, check_same_lines, count_text
from seqattn_fairseq.data.data_bin import DataBin
from seqattn_fairseq.data.pipeline import (
    READERS,
    Pair,
    Part,
    Pipeline,
    SubwordFile,
    Text,
    Texts,
)
from seqattn_fairseq.data.recipe import CorpusRecipe
from seqattn_fairseq.data.sources import Located, Piece, fetch_all, unpack
from seqattn_fairseq.data.stages import CODES_FILE
from seqattn_fairseq.data.text_chain import FinalDot
from seqattn_fairseq.data.workers import line_workers
from seqattn_fairseq.data.workspace import Progress, Step, open_workspace
from seqattn_fairseq.errors import SeqAttnError

DOWNLOADS = "raw"


@dataclass(frozen=True)
class PreparedCorpus:
    """What a preparation left: where, how large, and how many of its steps had to be done.

    ``sizes`` maps (split, language) to the lines and tokens of the text that was binarised;
    ``types`` maps languages to the sizes of their dictionaries as fairseq counts them, specials
    included; ``speeds`` maps stages to lines per second.
    """

    data_bin: Path
    joined: bool
    sizes: dict[Pair, TextCount]
    types: dict[str, int]
    speeds: dict[str, int]
    steps: int
    steps_done: int


def prepare(
    recipe: CorpusRecipe,
    folder: Path,
    source: Path | None,
    workers: int,
    final_dot: FinalDot | None = None,
    joined: bool | None = None,
) -> PreparedCorpus:
    """Prepare a corpus in ``folder``; repeated or after a kill, only what is missing is done.

    ``source`` is the folder of the public files; None fetches them to ``raw/``. ``final_dot``
    overrides the recipe's rule. ``joined`` asks for one dictionary or two; where that is not what
    the recipe does, the result is a data-bin of its own beside that of the recipe. The folder
    then holds ``orig/`` (members of archives), a folder of text for every stage, ``data-bin/``
    (for fairseq, complete in itself) and ``manifest.json``.

    Raises:
        SeqAttnError: a file is missing, damaged, not UTF-8, empty or not parallel; the folder is
            in use or holds something else; fetching fails; ``final_dot`` is given although the
            files hold tokens.
    """
    if recipe.ready and recipe.ready.is_at_hand(source or folder / DOWNLOADS):
        recipe = recipe.ready
    if final_dot and recipe.pretokenized:
        raise SeqAttnError(
            f"--final-dot: the files of {recipe.name} are tokenised already; leave it out"
        )
    located = None if source is None else recipe.locate(source)
    chains = recipe.text_chains(final_dot)
    facts = {"terms": recipe.terms, "text_chain": chains.to_dict()}
    with open_workspace(folder, recipe.name, facts) as workspace, line_workers(workers) as pool:
        pipeline = Pipeline(recipe.langs, chains, workspace, pool)
        if located is None:
            pipeline.announce(f"{recipe.name}: {recipe.terms}")
            located = fetch_all(recipe.downloads, folder / DOWNLOADS)
        return _Preparation(recipe, pipeline, located).run(joined)


class _Preparation:
    """What happens before and after the stages of a recipe."""

    def __init__(self, recipe: CorpusRecipe, pipeline: Pipeline, located: Located) -> None:
        self.recipe = recipe
        self.pipeline = pipeline
        self.files = unpack(recipe.sides, located, pipeline)

    def run(self, joined: bool | None) -> PreparedCorpus:
        """Do what is missing and describe the result."""
        texts = self._checked()
        self.pipeline.raw = dict(texts)
        if self.recipe.codes:
            codes = self.files[self.recipe.codes]
            self.pipeline.subwords = SubwordFile("subword_nmt", codes, CODES_FILE)
        for stage in self.recipe.stages:
            texts = stage.run(texts, self.pipeline)
        joined = self.recipe.joined if joined is None else joined
        return self._binarized(texts, joined)

    def _checked(self) -> Texts:
        """Check all pieces and return the texts that they make up."""
        steps = {
            (split, number): self._check_step(split, number, piece)
            for split, pieces in self.recipe.sets.items()
            for number, piece in enumerate(pieces)
        }
        self.pipeline.do(list(steps.values()))
        texts: Texts = {}
        for split, pieces in self.recipe.sets.items():
            counts = [self.pipeline.workspace.count(steps[split, n]) for n in range(len(pieces))]
            lines = sum(count.lines for count in counts)
            for lang in self.recipe.langs:
                parts = tuple(self._part(piece, lang) for piece in pieces)
                texts[split, lang] = Text(parts, lines)
        return texts

    def _part(self, piece: Piece, lang: str) -> Part:
        return Part(self.files[piece.sides[lang]], piece.reader)

    def _check_step(self, split: str, number: int, piece: Piece) -> Step:
        parts = [self._part(piece, lang) for lang in self.recipe.langs]

        def action(progress: Progress) -> TextCount:
            source, target = self.pipeline.workers.each(_count, parts)
            check_same_lines(paths[0], source, paths[1], target)
            progress(source.lines)
            return TextCount(source.lines, source.tokens + target.tokens)

        name = split if len(self.recipe.sets[split]) == 1 else f"{split}, part {number + 1}"
        paths = [part.path for part in parts]
        return Step("check", name, paths, (), {"reader": piece.reader}, action)

    def _binarized(self, texts: Texts, joined: bool) -> PreparedCorpus:
        pipeline, recipe = self.pipeline, self.recipe
        path = pipeline.folder / recipe.data_bin(joined)
        raw = {} if recipe.pretokenized else pipeline.raw
        references = {
            split: (raw.get((split, recipe.target_lang)), test_set)
            for split, test_set in recipe.references.items()
        }
        data_bin = DataBin(path, Dictionaries(joined, recipe.words), texts, references, pipeline)
        pipeline.do([data_bin.step()])
        return PreparedCorpus(
            data_bin=path,
            joined=joined,
            sizes={pair: binary_size(path, recipe.langs, pair) for pair in texts},
            types={lang: dictionary_types(path, lang) for lang in recipe.langs},
            speeds=pipeline.workspace.manifest["lines_per_second"],
            steps=pipeline.steps,
            steps_done=pipeline.steps_done,
        )


def _count(part: Part) -> TextCount:
    return count_text(part.path, READERS[part.reader])
