"""What an experiment is, and the commands that take it from raw text to scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from seqattn_fairseq.data.recipes import RECIPES
from seqattn_fairseq.evaluation.settings import EvaluationSettings
from seqattn_fairseq.launch.composition import CONFIGS, compose, split_words

# What `seqattn prepare` calls its results, and the option that asks for each.
_DATA_BINS = {
    "data-bin": (),
    "data-bin.joined": ("--joined-dictionary",),
    "data-bin.separate": ("--separate-dictionaries",),
}


@dataclass(frozen=True)
class Experiment:
    """A composed recipe.

    Attributes:
        dataset: its primary config.
        overrides: Hydra's words that make it, ``experiment=...`` among them.
        cfg: every section of the configuration, resolved.
        config_dir: the folder of recipes it comes from.
    """

    dataset: str
    overrides: tuple[str, ...]
    cfg: DictConfig
    config_dir: Path

    @property
    def name(self) -> str:
        """``DATASET/EXPERIMENT``, or dataset and variant where no experiment is named."""
        for word in self.overrides:
            if word.startswith("experiment="):
                return word.removeprefix("experiment=")
        return f"{self.dataset}/{self.variant}"

    @property
    def variant(self) -> str:
        """The attention variant."""
        return str(self.cfg.model._name).removeprefix("seqattn_")

    @property
    def run(self) -> Path:
        """The folder of the training."""
        return Path(self.cfg.checkpoint.save_dir)

    @property
    def data_bin(self) -> Path:
        """The binarised corpus."""
        return Path(self.cfg.task.data)

    @property
    def corpus(self) -> str | None:
        """The corpus that ``seqattn prepare`` makes the data from; None for data of one's own."""
        name = self.data_bin.parent.name
        return name if self.data_bin.name in _DATA_BINS and name in RECIPES else None

    @property
    def settings(self) -> EvaluationSettings:
        """How the paper decoded and scored, and what the overrides say instead.

        Raises:
            SeqAttnError: an unknown field, or a value of the wrong kind.
        """
        section: Any = OmegaConf.to_container(self.cfg.evaluation)
        return EvaluationSettings.from_dict(section)


def load_experiment(words: Sequence[str], config_dir: Path = CONFIGS) -> Experiment:
    """Compose the experiment that the words of a command line name.

    Raises:
        SeqAttnError: unknown dataset, experiment, group choice or option.
    """
    dataset, overrides = split_words(words, config_dir)
    cfg = compose(dataset, overrides, config_dir)
    return Experiment(dataset, tuple(overrides), cfg, config_dir)


@dataclass(frozen=True)
class Step:
    """One command of an experiment; repeated, it does only what is missing."""

    name: str
    command: tuple[str, ...]


def plan(experiment: Experiment, source: Path | None) -> list[Step]:
    """Return the steps in order; ``source`` is the folder of the raw files, None fetches them."""
    steps = []
    if experiment.corpus:
        given = ("--from", str(source)) if source else ()
        options = ("--to", str(experiment.data_bin.parent), *_DATA_BINS[experiment.data_bin.name])
        steps.append(Step("prepare", ("prepare", experiment.corpus, *options, *given)))
    words = (experiment.dataset, *experiment.overrides)
    if experiment.config_dir != CONFIGS:
        words = ("--config-dir", str(experiment.config_dir), *words)
    steps.append(Step("train", ("train", *words)))
    steps.append(Step("evaluate", ("evaluate", str(experiment.run), *_decoding(experiment))))
    return steps


def _decoding(experiment: Experiment) -> list[str]:
    """Return the settings as options: a finished run has those of its first start written down."""
    settings = experiment.settings
    options = {
        "--average": settings.average,
        "--checkpoints": [settings.checkpoints],
        "--beam": [settings.beam],
        "--length-penalty": settings.length_penalty,
        "--subset": settings.subsets,
        "--flavour": [settings.bleu],
    }
    return [str(word) for name, values in options.items() for word in (name, *values)]
