"""A recipe as ``fairseq-hydra-train`` composes it: every section, with fairseq's own defaults."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fairseq.dataclass.initialize import add_defaults, hydra_init
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from seqattn_fairseq.errors import SeqAttnError, nearest
from seqattn_fairseq.launch.quietness import quiet

CONFIGS = Path(__file__).parents[2] / "configs"

_EXPERIMENT = "experiment="


def datasets(config_dir: Path = CONFIGS) -> list[str]:
    """Return the names of the primary configs in a folder of recipes."""
    return sorted(path.stem for path in config_dir.glob("*.yaml"))


def experiments(config_dir: Path = CONFIGS) -> list[str]:
    """Return every experiment of a folder of recipes as ``DATASET/NAME``."""
    group = config_dir / "experiment"
    files = sorted(group.rglob("*.yaml"))
    return [path.relative_to(group).with_suffix("").as_posix() for path in files]


def split_words(words: Sequence[str], config_dir: Path = CONFIGS) -> tuple[str, list[str]]:
    """Tell the dataset from the overrides: ``wmt14_en_de variant=mega``, ``experiment=D/NAME``.

    Raises:
        SeqAttnError: no dataset is named, or two different ones, or an unknown one.
    """
    named = [word for word in words if "=" not in word]
    chosen = [word.removeprefix(_EXPERIMENT) for word in words if word.startswith(_EXPERIMENT)]
    for experiment in chosen:
        _refuse_unknown(experiment, experiments(config_dir), "experiment", config_dir)
    found = [*named, *(experiment.partition("/")[0] for experiment in chosen)]
    if not found:
        raise SeqAttnError(
            "which dataset? name one, or an experiment: "
            f"experiment=multi30k_en_de/softmax; datasets are {', '.join(datasets(config_dir))}"
        )
    if len(set(found)) > 1:
        raise SeqAttnError(f"several datasets are named: {', '.join(found)}; give one")
    _refuse_unknown(found[0], datasets(config_dir), "dataset", config_dir)
    return found[0], [word for word in words if "=" in word]


def _refuse_unknown(name: str, known: list[str], kind: str, config_dir: Path) -> None:
    if name not in known:
        raise SeqAttnError(f"unknown {kind} '{name}'{nearest(name, known)}; see {config_dir}")


def compose(dataset: str, overrides: Sequence[str], config_dir: Path = CONFIGS) -> DictConfig:
    """Return the resolved configuration of a training, without Hydra's own section.

    Args:
        dataset: name of a primary config of ``config_dir``.
        overrides: as on Hydra's command line (``variant=mega``, ``experiment=...``, ``a.b=c``).
        config_dir: the folder of recipes.

    Raises:
        SeqAttnError: no such dataset, group choice or option.
    """
    _refuse_unknown(dataset, datasets(config_dir), "dataset", config_dir)
    _refuse_unknown_presets(overrides, config_dir)
    hydra_init(dataset)
    try:
        with quiet("hydra"), initialize_config_dir(str(config_dir.resolve()), version_base="1.1"):
            cfg = hydra_compose(dataset, list(overrides), return_hydra_config=True)
            with _hydra_config(cfg):
                return _resolved(cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise SeqAttnError(f"{config_dir / dataset}.yaml: {_reason(error)}") from error


def _refuse_unknown_presets(words: Sequence[str], config_dir: Path) -> None:
    """Refuse what Hydra passes over: most variants have no preset for most sizes."""
    known = [path.stem for path in config_dir.glob("preset/*.yaml")]
    for word in words:
        group, _, choice = word.partition("=")
        if group == "preset" and choice != "null":
            _refuse_unknown(choice, known, group, config_dir)


def _reason(error: Exception) -> str:
    """Return an error in one line; what is wrong with a value, Hydra leaves to the cause."""
    said = " ".join(str(error).partition("Config search path")[0].split())
    cause = str(error.__cause__ or "").partition("\n")[0]
    return f"{said}: {cause}" if cause and cause not in said else said


def _resolved(cfg: DictConfig) -> DictConfig:
    add_defaults(cfg)
    values = OmegaConf.to_container(cfg, resolve=False, enum_to_str=True)
    assert isinstance(values, dict)
    resolved = OmegaConf.create(values)
    OmegaConf.resolve(resolved)
    del resolved["hydra"]
    assert isinstance(resolved, DictConfig)
    return resolved


@contextmanager
def _hydra_config(cfg: DictConfig) -> Iterator[None]:
    """Answer the resolver ``${hydra:...}``, which folder names of recipes use."""
    holder = HydraConfig.instance()
    before = holder.cfg
    holder.set_config(cfg)
    try:
        yield
    finally:
        holder.cfg = before
