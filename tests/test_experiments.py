"""The experiments: all cells exist, every one composes and builds, numbers are the papers'."""

from __future__ import annotations

import functools
import re
from argparse import Namespace
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq.models import build_model
from fairseq.optim import build_optimizer
from fairseq.optim.lr_scheduler import build_lr_scheduler
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from seqattn_fairseq.cli.configs import OURS, our_experiments
from seqattn_fairseq.cli.configs import run as write_configs
from seqattn_fairseq.data.recipes import RECIPES
from seqattn_fairseq.evaluation.parameters import count_all
from seqattn_fairseq.experiments.table import read_row
from seqattn_fairseq.optim.batch import cut
from seqattn_fairseq.transformer.registry import VARIANTS
from tests.house import tree
from tests.support.models import toy_dictionary

CONFIGS = tree.ROOT / "configs"
DATASETS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
EXPERIMENTS = sorted(
    path.relative_to(CONFIGS / "experiment").with_suffix("").as_posix()
    for path in (CONFIGS / "experiment").glob("*/*.yaml")
)
PUBLISHED = (
    "softmax lightconv dynamicconv muse_simple muse rela_g rela_i topk sparsemax entmax15 mega "
    "mega_chunk luna"
).split()


@contextmanager
def session(dataset: str) -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.1"):
        hydra_init(dataset)
        yield
    GlobalHydra.instance().clear()


def composed(dataset: str, *overrides: str) -> DictConfig:
    cfg = compose(dataset, overrides=list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return cfg


def experiment(name: str, *overrides: str, defaults: bool = False) -> DictConfig:
    dataset = name.partition("/")[0]
    with session(dataset):
        cfg = composed(dataset, f"experiment={name}", *overrides)
        if defaults:
            add_defaults(cfg)
    return cfg


@functools.cache
def dictionary(types: int) -> Any:
    result = toy_dictionary()
    for index in range(types - len(result)):
        result.add_symbol(f"more{index}")
    return result


def parameters(cfg: DictConfig, source: int = 30, target: int | None = None) -> int:
    first = dictionary(source)
    second = first if target in {None, source} else dictionary(target or 0)
    with torch.device("meta"):
        model = build_model(cfg.model, Namespace(source_dictionary=first, target_dictionary=second))
    return count_all(model)


def test_all_datasets_are_there() -> None:
    wmt = {"wmt14_en_de", "wmt14_de_en", "wmt14_en_fr"}
    iwslt = {"iwslt14_de_en", "iwslt14_en_de", "iwslt15_en_vi"}
    assert set(DATASETS) == {"multi30k_en_de", "multi30k_en_fr"} | iwslt | wmt


@pytest.mark.parametrize("variant", PUBLISHED)
def test_every_variant_runs_on_every_dataset(variant: str) -> None:
    assert variant in VARIANTS
    names = [f"{dataset}/{variant}" for dataset in DATASETS]
    tree.assert_none(set(names) - set(EXPERIMENTS))
    for name in names:
        assert read_row(CONFIGS, name).groups["variant"] == variant


def test_our_experiments_are_written_from_the_table() -> None:
    for path, content in our_experiments().items():
        assert (CONFIGS / path).read_text(encoding="utf-8") == content, path
    files = {f"experiment/{name}.yaml" for name in EXPERIMENTS}
    by_table = {f for f in files if "Written by" in (CONFIGS / f).read_text(encoding="utf-8")}
    assert by_table == set(our_experiments())


HEADERS = ("Paper", "Score", "Data", "Deviations")


@pytest.mark.parametrize("dataset", DATASETS)
def test_headers_say_where_a_row_comes_from(dataset: str) -> None:
    ours = our_experiments()
    for name in (n for n in EXPERIMENTS if n.startswith(f"{dataset}/")):
        text = (CONFIGS / f"experiment/{name}.yaml").read_text(encoding="utf-8")
        assert text.startswith("# @package _global_\n# "), name
        paper = read_row(CONFIGS, name).paper
        if f"experiment/{name}.yaml" in ours:
            assert "# Ours: no paper reports" in text
            assert paper == {"score": None, "source": "ours", "ours": True}, name
            continue
        for header in HEADERS:
            assert re.search(rf"^# {header}: \S", text, re.MULTILINE), (name, header)
        assert (paper["source"] == "ours") is paper["ours"], name
        score = re.search(r"^# Score: ([\d.]+) ", text, re.MULTILINE)
        assert (float(score[1]) if score else None) == paper["score"], name
        assert "unverified" not in str(paper["source"]) or "# Unverified: " in text, name


def test_a_softmax_twin_stands_beside_every_budget() -> None:
    rows = [read_row(CONFIGS, name) for name in EXPERIMENTS]
    keys = [(r.name.partition("/")[0], r.groups["corpus"], r.groups["budget"]) for r in rows]
    twins = {key for key, r in zip(keys, rows, strict=True) if r.groups["variant"] == "softmax"}
    tree.assert_none(map(str, set(keys) - twins))
    for cells in OURS:
        assert read_row(CONFIGS, f"{cells.dataset}/{cells.twin}").groups == {
            "variant": "softmax",
            "size": cells.size,
            "corpus": cells.corpus,
            "budget": cells.budget,
        }


EVALUATION = {"average", "checkpoints", "beam", "length_penalty", "subsets", "bleu", "paper"}
KEPT = {"last": "keep_last_epochs", "last_updates": "keep_interval_updates"}


def check(name: str, cfg: DictConfig) -> None:
    """Make sure of what holds for every experiment."""
    dataset = name.partition("/")[0]
    assert cfg.checkpoint.save_dir == f"runs/{name}/seed1"
    assert cfg.hydra.run.dir == f"runs/{name}/seed1/hydra"
    assert f"{cfg.hydra.sweep.dir}/{cfg.hydra.sweep.subdir}" == cfg.hydra.run.dir
    langs = dataset.split("_")[1:]
    assert [cfg.task.source_lang, cfg.task.target_lang] == langs
    recipe = RECIPES[cfg.hydra.runtime.choices.corpus]
    separate, joined = ("data-bin.separate", "data-bin") if recipe.joined else (
        "data-bin", "data-bin.joined"
    )  # fmt: skip
    wanted = {joined} if cfg.model.share_all_embeddings else {separate, joined}
    assert Path(cfg.task.data) in {Path("data", recipe.name, folder) for folder in wanted}
    assert cfg.dataset.update_epoch_batch_itr is True
    assert set(cfg.batch) == {"tokens"}
    assert cfg.batch.tokens >= 4000
    evaluation = cfg.evaluation
    assert set(evaluation) == EVALUATION
    assert evaluation.bleu in {"tokenized", "compound_split", "detokenized"}
    if evaluation.average != "none":
        assert cfg.checkpoint[KEPT[evaluation.average]] >= evaluation.checkpoints
    assert (cfg.checkpoint.save_interval_updates > 0) is (evaluation.average == "last_updates")
    assert cfg.optimization.max_update > 0 or cfg.optimization.max_epoch > 0
    assert parameters(cfg) > 0


def check_all(dataset: str, names: Collection[str]) -> None:
    with session(dataset):
        for name in names:
            check(name, composed(dataset, f"experiment={name}"))


BY_TABLE = {path.removeprefix("experiment/").removesuffix(".yaml") for path in our_experiments()}
# one of each group of cells that differ in the variant alone; the others are in the slow test
FIRST = {f"{cells.dataset}/{cells.variants.split()[0]}" for cells in OURS}


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_row_of_a_paper_composes_and_builds(dataset: str) -> None:
    names = (set(EXPERIMENTS) - BY_TABLE) | FIRST
    check_all(dataset, sorted(n for n in names if n.startswith(f"{dataset}/")))


@pytest.mark.slow
@pytest.mark.parametrize("dataset", DATASETS)
def test_every_row_of_ours_composes_and_builds(dataset: str) -> None:
    check_all(dataset, sorted(n for n in BY_TABLE - FIRST if n.startswith(f"{dataset}/")))


JOINED = {"wmt16": 32_768, "mega": 33_008, "luna": 40_624, "fr": 44_512}
COUNTS = [  # experiment, source and target types, what the papers' codes have, tolerance
    ("multi30k_en_de/softmax", 9712, None, 2_568_192, 0),
    ("multi30k_en_fr/softmax", 9544, None, 2_546_688, 0),
    ("iwslt14_de_en/softmax", 8848, 6632, 42_864_640, 0),
    ("iwslt14_de_en/softmax_12_layers", 8848, 6632, 74_407_936, 0),
    ("iwslt14_de_en/muse", 8848, 6632, 48_193_584 - 9216, 0),
    ("iwslt14_de_en/muse_simple", 8848, 6632, 43_991_040 - 9216, 0),
    ("iwslt14_de_en/muse_simple_6_layers", 8848, 6632, 42_852_352 - 6144, 0),
    ("iwslt14_de_en/lightconv", 8848, 6632, 38_140_000, 5000),
    ("iwslt14_de_en/dynamicconv", 8848, 6632, 38_690_000, 5000),
    ("wmt14_en_de/lightconv", JOINED["wmt16"], None, 208_870_000, 5000),
    ("wmt14_en_de/dynamicconv", JOINED["wmt16"], None, 213_240_000, 5000),
    ("wmt14_en_de/lightconv_no_glu", JOINED["wmt16"], None, 195_220_000, 5000),
    ("wmt14_en_de/dynamicconv_no_glu", JOINED["wmt16"], None, 199_590_000, 5000),
    ("wmt14_en_de/softmax_wu2019", JOINED["wmt16"], None, 209_911_808, 0),
    ("wmt14_en_de/muse", JOINED["wmt16"], None, 243_068_976 - 18_432, 0),
    ("wmt14_en_de/muse_simple", JOINED["wmt16"], None, 223_604_736 - 18_432, 0),
    ("wmt14_en_de/mega", JOINED["mega"], None, 63_300_000, 50_000),
    ("wmt14_en_de/luna", JOINED["luna"], None, 77_574_144 - 1024, 0),
    ("wmt14_en_de/luna16", JOINED["luna"], None, 77_565_952 - 1024, 0),
    ("wmt14_en_de/luna32_elu_tied", JOINED["luna"], None, 69_694_464 - 1024, 0),
    ("wmt14_en_de/luna16_tied", JOINED["luna"], None, 69_686_272 - 1024, 0),
    ("wmt14_en_de/softmax_luna2021_adam", JOINED["luna"], None, 64_900_000, 50_000),
    ("wmt14_en_fr/lightconv", JOINED["fr"], None, 220_890_000, 5000),
    ("wmt14_en_fr/dynamicconv", JOINED["fr"], None, 225_260_000, 5000),
    ("wmt14_en_fr/muse", JOINED["fr"], None, 252_088_368 - 18_432, 0),
    ("wmt14_en_fr/muse_simple", JOINED["fr"], None, 232_624_128 - 18_432, 0),
    ("wmt14_en_fr/softmax", JOINED["fr"], None, 221_937_664, 0),
]


@pytest.mark.parametrize(("name", "source", "target", "expected", "tolerance"), COUNTS)
def test_models_have_the_papers_numbers_of_parameters(
    name: str, source: int, target: int | None, expected: int, tolerance: int
) -> None:
    """Less what their codes allocate and never train (``seqattn list``)."""
    assert abs(parameters(experiment(name), source, target) - expected) <= tolerance


# experiment: tokens; {update: rate}; updates or epochs; dropout, attention's, activation's;
# average, checkpoints, beam, length penalty, flavour
Row = tuple[int, dict[int, float], int, tuple[float, ...], tuple[Any, ...]]
PAPERS: dict[str, Row] = {
    "multi30k_en_de/softmax": (
        8192,
        {0: 1e-7, 2000: 5e-3, 8000: 2.5e-3},
        8000,
        (0.3, 0, 0),
        ("last", 10, 5, 1.0, "tokenized"),
    ),
    "iwslt14_de_en/dynamicconv": (
        4000,
        {0: 1e-7, 4000: 5e-4, 16_000: 2.5e-4},
        50_000,
        (0.3, 0.1, 0),
        ("last", 10, 4, 1.0, "tokenized"),
    ),
    "iwslt14_de_en/muse": (
        16_000,
        {2827: 7.07e-4, 5656: 8.41e-4, 19_803: 4.49e-4},  # its log
        20_000,
        (0.4, 0, 0),
        ("last", 10, 5, 1.0, "tokenized"),
    ),
    "iwslt14_de_en/topk": (
        16_000,
        {4000: 1e-3},
        90,
        (0.4, 0, 0),
        ("last", 10, 5, 1.0, "tokenized"),
    ),
    "iwslt15_en_vi/muse": (
        16_000,
        {4000: 1e-3},
        10_000,
        (0.3, 0, 0),
        ("last", 10, 5, 1.0, "tokenized"),
    ),
    "iwslt15_en_vi/topk": (
        4096,
        {8000: 2 * 512**-0.5 * 8000**-0.5, 32_000: 2 * 512**-0.5 * 32_000**-0.5},
        35_000,
        (0.1, 0.1, 0.1),
        ("last_updates", 8, 4, 0.6, "tokenized"),
    ),
    "wmt14_en_de/dynamicconv": (
        458_752,
        {0: 1e-7, 10_000: 1e-3, 20_000: 5.0005e-4, 30_000: 1e-7},
        30_000,
        (0.3, 0.1, 0),
        ("none", 1, 5, 0.5, "compound_split"),
    ),
    "wmt14_en_de/muse": (
        458_752,
        {10_000: 1e-3, 30_000: 1e-7},
        30_000,
        (0.3, 0.1, 0),
        ("last", 10, 5, 0.6, "compound_split"),
    ),
    "wmt14_en_de/muse_simple": (
        573_440,
        {4000: 1e-3, 16_000: 5e-4},
        75,
        (0.3, 0, 0),
        ("last", 10, 5, 0.6, "compound_split"),
    ),
    "wmt14_en_de/mega": (
        65_536,
        {0: 1e-7, 4000: 1e-3, 252_000: 5e-4, 500_000: 0},
        500_000,
        (0.15, 0.1, 0.1),
        ("none", 1, 5, 0.5, "compound_split"),
    ),
    "wmt14_de_en/softmax": (
        65_536,
        {4000: 5e-4, 16_000: 2.5e-4},
        500_000,
        (0.1, 0.1, 0.1),
        ("none", 1, 5, 0.5, "tokenized"),
    ),
    "wmt14_en_de/luna": (
        65_536,
        {0: 1e-5, 1000: 0.1, 299_999: 0.1, 300_000: 0.01, 450_000: 0.001},
        500_000,
        (0.1, 0.1, 0.1),
        ("last", 10, 5, 0.6, "tokenized"),
    ),
    "wmt14_en_de/rela_g": (
        25_000,
        {n: 512**-0.5 * min(n**-0.5, n * 4000**-1.5) for n in (1, 4000, 300_000)},
        300_000,
        (0.1, 0.1, 0.1),
        ("last_updates", 5, 4, 0.6, "detokenized"),
    ),
    "wmt14_en_fr/dynamicconv": (
        458_752,
        {10_000: 1e-3, 45_000: 5.0005e-4, 80_000: 1e-7},
        80_000,
        (0.1, 0.1, 0),
        ("none", 1, 5, 0.9, "tokenized"),
    ),
    "wmt14_en_fr/muse": (
        655_360,
        {10_373: 7.00e-4, 20_753: 6.60e-4, 62_271: 1.05e-4, 80_953: 1e-7},  # its log
        80_000,
        (0.1, 0.1, 0),
        ("none", 1, 5, 0.8, "tokenized"),
    ),
}


@pytest.mark.parametrize("name", PAPERS)
def test_recipes_are_the_papers(name: str) -> None:
    tokens, rates, length, dropouts, decoding = PAPERS[name]
    cfg = experiment(name, defaults=True)
    assert cfg.batch.tokens == tokens
    assert length in {cfg.optimization.max_update, cfg.optimization.max_epoch}
    names = ("dropout", "attention_dropout", "activation_dropout")
    assert tuple(cfg.model[n] for n in names) == dropouts
    e = cfg.evaluation
    assert (e.average, e.checkpoints, e.beam, e.length_penalty[0], e.bleu) == decoding
    optimizer = build_optimizer(cfg.optimizer, [torch.nn.Parameter(torch.zeros(1))])
    schedule = build_lr_scheduler(cfg.lr_scheduler, optimizer)
    for update, rate in rates.items():
        assert schedule.step_update(update) == pytest.approx(rate, rel=2e-3), update


def test_optimisers_are_the_papers() -> None:
    luna = experiment("wmt14_en_de/luna", defaults=True)
    chosen = {"apollo_beta": 0.9, "apollo_eps": 1e-4, "rebound": "constant", "clip_each": 0.1}
    chosen |= {"weight_decay": 1e-8, "weight_decay_type": "L2"}
    assert (luna.optimization.clip_norm, luna.common.fp16_no_flatten_grads) == (0.0, True)
    for name, value in chosen.items():
        assert luna.optimizer[name] == value, name
    mega = experiment("wmt14_en_de/mega", defaults=True)
    assert (mega.optimizer.weight_decay, mega.optimization.clip_norm) == (0.05, 1.0)
    assert mega.optimizer.adam_betas == "(0.9, 0.98)"
    envi = experiment("iwslt15_en_vi/topk", defaults=True)
    assert (envi.optimizer.adam_betas, envi.optimizer.adam_eps) == ("(0.9, 0.997)", 1e-9)


def test_eight_cards_cut_the_batch_of_wu_et_al_as_they_did() -> None:
    cfg = experiment("wmt14_en_de/dynamicconv", "hardware=gpu_16gb")
    batch = cut(cfg.batch.tokens, cfg.dataset.max_tokens, 8)
    assert batch.describe() == "458,752 tokens an update = 8 GPUs x 3,584 x update_freq 16"
    assert cfg.common.fp16 is True


@pytest.mark.parametrize("hardware", sorted(p.stem for p in (CONFIGS / "hardware").glob("*")))
def test_hardware_says_what_a_device_holds(hardware: str) -> None:
    with session("wmt14_en_fr"):
        cfg = composed("wmt14_en_fr", f"hardware={hardware}")
    assert cfg.dataset.max_tokens >= 1024
    assert cfg.common.cpu is (hardware == "cpu")
    assert (cfg.common.bf16 or cfg.common.fp16) is hardware.startswith("gpu")


@pytest.mark.parametrize("corpus", sorted(p.stem for p in (CONFIGS / "corpus").glob("*")))
def test_corpora_read_what_prepare_writes(corpus: str) -> None:
    values = OmegaConf.load(CONFIGS / f"corpus/{corpus}.yaml")
    assert corpus in RECIPES
    assert [values.task.source_lang, values.task.target_lang] == list(RECIPES[corpus].langs)


def test_the_reference_explains_keys_that_exist_and_their_values() -> None:
    text = (tree.ROOT / "docs/reference.yaml").read_text(encoding="utf-8")
    reference = OmegaConf.to_container(OmegaConf.create(text))
    with session("multi30k_en_de"):
        cfg = composed("multi30k_en_de")
        add_defaults(cfg)
        actual = {
            section: OmegaConf.to_container(cfg[section], resolve=True, enum_to_str=True)
            if isinstance(cfg[section], DictConfig) else cfg[section]
            for section in reference  # type: ignore[union-attr]
        }  # fmt: skip
    wrong = [
        f"{key}: {value!r}, not {found!r}"
        for key, value, found in leaves(reference, actual)
        if value != found
    ]
    tree.assert_none(wrong)
    for line in (li for li in text.splitlines() if re.match(r"\s*\w+: \S", li)):
        assert len(line) <= 100


@pytest.mark.parametrize("group", ["variant", "size", "hardware"])
def test_the_reference_names_all_choices(group: str) -> None:
    text = (tree.ROOT / "docs/reference.yaml").read_text(encoding="utf-8")
    found = re.search(rf"^# {group}:((?:.*\n#  +)*[^:;\n]*)", text, re.MULTILINE)
    assert found
    choices = {path.stem for path in (CONFIGS / group).glob("*.yaml")}
    assert choices <= set(re.findall(r"\w+", found[1]))


def leaves(wanted: Any, found: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield key, value and what is found instead for everything that is not a section."""
    if not isinstance(wanted, dict):
        yield path, wanted, found
        return
    for key, value in wanted.items():
        missing = not isinstance(found, dict) or key not in found
        yield from leaves(value, "nothing" if missing else found[key], f"{path}.{key}")


def test_a_folder_of_ones_own_can_be_written(tmp_path: Path) -> None:
    args = Namespace(folder=tmp_path, documents=None)
    assert write_configs(args) == 0
    assert (tmp_path / "experiment/iwslt14_en_de/mega.yaml").is_file()
