"""From the raw files of a corpus to a data-bin: check, tokenise, learn and apply BPE, binarise."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from seqattn_fairseq.data.binarize import binarize, dictionary_types, install
from seqattn_fairseq.data.checks import TextCount, check_parallel
from seqattn_fairseq.data.description import BpeDescription, CorpusDescription
from seqattn_fairseq.data.fetch import fetch
from seqattn_fairseq.data.files import read_lines, write_atomically
from seqattn_fairseq.data.recipes import CorpusRecipe
from seqattn_fairseq.data.segmentation import learn_codes, segment_lines
from seqattn_fairseq.data.text_chain import FinalDot, TextChain, TextChains
from seqattn_fairseq.data.workers import LinesFunction, LineWorkers, line_workers
from seqattn_fairseq.data.workspace import Progress, Step, Workspace, open_workspace

DATA_BIN = "data-bin"
CODES_FILE = "bpe.codes"
CHAIN_FILE = "text_chain.json"

Pair = tuple[str, str]  # name of a split, language
RawFiles = dict[Pair, Path]


@dataclass(frozen=True)
class PreparedCorpus:
    """What a preparation left: where, how large, and how many of its steps had to be done.

    ``sizes`` maps (split, language) to the lines and tokens before BPE; ``types`` counts the
    joined dictionary as fairseq does, specials included.
    """

    data_bin: Path
    sizes: dict[Pair, TextCount]
    types: int
    steps: int
    steps_done: int


def prepare(
    recipe: CorpusRecipe,
    folder: Path,
    source: Path | None,
    workers: int,
    final_dot: FinalDot | None = None,
) -> PreparedCorpus:
    """Prepare a corpus in ``folder``; repeated or after a kill, only what is missing is done.

    ``source`` is the folder of the raw files; None fetches them. ``final_dot`` overrides the
    recipe's rule. The folder then holds ``tok/`` and ``bpe/`` (text before and after BPE),
    ``data-bin/`` (for fairseq, complete in itself) and ``manifest.json``.

    Raises:
        SeqAttnError: a raw file is missing, damaged, not UTF-8, empty or not parallel; the
            folder is in use or holds something else; fetching fails.
    """
    located = None if source is None else recipe.locate(source)
    chains = recipe.text_chains(final_dot)
    facts = {"terms": recipe.terms, "text_chain": chains.to_dict()}
    with open_workspace(folder, recipe.name, facts) as workspace, line_workers(workers) as pool:
        raw = located or _fetch_raw(recipe, folder / "raw")
        return _Preparation(recipe, chains, workspace, pool).run(raw)


def _fetch_raw(recipe: CorpusRecipe, folder: Path) -> RawFiles:
    raw = {
        (split.name, lang): folder / f"{split.stem}.{lang}.gz"
        for split in recipe.splits
        for lang in recipe.langs
    }
    print(f"{recipe.name}: {recipe.terms}", file=sys.stderr)
    with tqdm(desc="fetch", unit="B", unit_scale=True) as bar:
        for path in raw.values():
            fetch(recipe.base_url + path.name, recipe.sha256[path.name], path, bar.update)
    return raw


class _Preparation:
    """The stages of one preparation, each a list of steps for the workspace."""

    def __init__(
        self, recipe: CorpusRecipe, chains: TextChains, workspace: Workspace, workers: LineWorkers
    ) -> None:
        self.recipe = recipe
        self.chains = chains
        self.workspace = workspace
        self.workers = workers
        self.folder = workspace.folder
        self.codes = self.folder / CODES_FILE
        self.steps = self.steps_done = 0

    def run(self, raw: RawFiles) -> PreparedCorpus:
        """Do what is missing and describe the result."""
        checks = [self._check_step(split.name, raw) for split in self.recipe.splits]
        self._do(checks)
        self.lines = {step.name: self.workspace.count(step).lines for step in checks}
        tokenize = {pair: self._tokenize_step(pair, path) for pair, path in raw.items()}
        self._do(list(tokenize.values()))
        self._do([self._learn_step()], bar=False)
        self._do([self._segment_step(pair) for pair in raw])
        self._do([self._binarize_step(list(raw))])
        return PreparedCorpus(
            data_bin=self.folder / DATA_BIN,
            sizes={pair: self.workspace.count(step) for pair, step in tokenize.items()},
            types=dictionary_types(self.folder / DATA_BIN, self.recipe.target_lang),
            steps=self.steps,
            steps_done=self.steps_done,
        )

    def _do(self, steps: Sequence[Step], bar: bool = True) -> None:
        """Run the steps of one stage that are not done yet, with a progress bar in lines."""
        pending = [step for step in steps if not self.workspace.is_done(step)]
        self.steps += len(steps)
        self.steps_done += len(pending)
        if not pending:
            return
        total = sum(step.lines for step in pending) or None
        stage = pending[0].stage
        with tqdm(total=total, desc=stage, unit=" lines", disable=not bar) as shown:
            for step in pending:
                self.workspace.run(step, shown.update)

    def _text(self, stage: str, pair: Pair) -> Path:
        return self.folder / stage / ".".join(pair)

    def _check_step(self, split: str, raw: RawFiles) -> Step:
        source, target = (raw[split, lang] for lang in self.recipe.langs)

        def action(progress: Progress) -> TextCount:
            counts = check_parallel(source, target)
            progress(counts[0].lines)
            return TextCount(counts[0].lines, sum(count.tokens for count in counts))

        return Step("check", split, (source, target), (), {}, action)

    def _tokenize_step(self, pair: Pair, source: Path) -> Step:
        is_source = pair[1] == self.recipe.source_lang
        chain = self.chains.source if is_source else self.chains.target
        target = self._text("tok", pair)
        action = partial(self._rewrite, source, target, partial(_encode_lines, chain))
        parameters = {"text_chain": chain.to_dict()}
        return Step(
            "tokenize", target.name, [source], [target], parameters, action, self.lines[pair[0]]
        )

    def _learn_step(self) -> Step:
        texts = [self._text("tok", ("train", lang)) for lang in self.recipe.langs]
        merges = self.recipe.merges

        def action(progress: Progress) -> TextCount:
            print(f"learn BPE, at most {merges:,} merges:", file=sys.stderr)
            learn_codes(texts, self.codes, merges)
            return TextCount(2 * self.lines["train"], self._tokens("tokenize", texts))

        return Step("learn BPE", CODES_FILE, texts, [self.codes], {"merges": merges}, action)

    def _segment_step(self, pair: Pair) -> Step:
        source, target = self._text("tok", pair), self._text("bpe", pair)
        function = partial(segment_lines, self.codes, self.workspace.digest(self.codes))
        action = partial(self._rewrite, source, target, function)
        inputs = [source, self.codes]
        return Step("apply BPE", target.name, inputs, [target], {}, action, self.lines[pair[0]])

    def _binarize_step(self, pairs: Sequence[Pair]) -> Step:
        texts = [self._text("bpe", pair) for pair in pairs]
        lines = 2 * sum(self.lines.values())

        def action(progress: Progress) -> TextCount:
            self._binarize()
            progress(lines)
            return TextCount(lines, self._tokens("apply BPE", texts))

        parameters = {
            "splits": [split.name for split in self.recipe.splits],
            "langs": list(self.recipe.langs),
            "text_chain": self.chains.to_dict(),
        }
        outputs = [self.folder / DATA_BIN]
        return Step("binarize", DATA_BIN, [*texts, self.codes], outputs, parameters, action, lines)

    def _binarize(self) -> None:
        splits, langs = [split.name for split in self.recipe.splits], self.recipe.langs
        partial_bin = binarize(self.folder, "bpe", splits, langs, self.workers.count)
        bpe = BpeDescription("subword_nmt", CODES_FILE)
        corpus = CorpusDescription(*langs, bpe, CHAIN_FILE)
        install(partial_bin, self.folder / DATA_BIN, self.codes, self.chains, corpus)

    def _rewrite(
        self, source: Path, target: Path, function: LinesFunction, progress: Progress
    ) -> TextCount:
        """Write ``function`` of every line of ``source`` to ``target``."""
        count = tokens = 0
        with write_atomically(target) as stream:
            for lines in self.workers.map(function, read_lines(source)):
                stream.writelines(f"{line}\n" for line in lines)
                count += len(lines)
                tokens += sum(len(line.split()) for line in lines)
                progress(len(lines))
        return TextCount(count, tokens)

    def _tokens(self, stage: str, texts: Sequence[Path]) -> int:
        entries = self.workspace.manifest["stages"][stage]
        return sum(entries[text.name]["tokens"] for text in texts)


def _encode_lines(chain: TextChain, lines: list[str]) -> list[str]:
    return [chain.encode(line) for line in lines]
