"""One source of truth: every way to name a model builds the same model."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import options
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import MODEL_REGISTRY, build_model
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from seqattn_fairseq.cli.configs import group_files
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.transformer.config import SIZES
from seqattn_fairseq.transformer.registry import VARIANTS, get_variant, make_config
from tests.support.models import build, toy_dictionary

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RECIPES = sorted(p.stem for p in CONFIGS.glob("*.yaml"))
PRESETS = [(v, s) for v in VARIANTS for s in SIZES]


def from_command_line(*arguments: str):
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, ["unused", *arguments])
    return convert_namespace_to_omegaconf(args).model


def from_hydra(recipe: str, *overrides: str):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.1"):
        hydra_init(recipe)
        cfg = compose(recipe, overrides=list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        add_defaults(cfg)
    GlobalHydra.instance().clear()
    return cfg


def values(cfg) -> dict[str, Any]:
    return {k: v for k, v in dict(cfg).items() if not k.startswith("_")}


def parameters(cfg) -> dict[str, torch.Size]:
    task = Namespace(source_dictionary=toy_dictionary(), target_dictionary=toy_dictionary())
    with torch.device("meta"):
        model = build_model(cfg, task)
    return {name: p.shape for name, p in model.named_parameters()}


@pytest.mark.parametrize(("variant", "size"), PRESETS)
def test_arch_options_hydra_and_python_agree(variant, size):
    python = make_config(variant, size)
    by_arch = from_command_line("--arch", f"seqattn_{variant}_{size}")
    chosen = get_variant(variant).options(size).items()
    flags = [f"--{k.replace('_', '-')}" + ("" if v is True else f"={v}") for k, v in chosen]
    by_options = from_command_line("--arch", f"seqattn_{variant}", *flags)
    by_hydra = from_hydra("multi30k_en_de", f"variant={variant}", f"size={size}").model
    recipe = {name: by_hydra[name] for name in ("dropout", "share_all_embeddings")}

    expected = {k: v for k, v in asdict(python).items() if not k.startswith("_")}
    assert values(by_arch) == expected
    assert values(by_options) == expected
    assert values(by_hydra) == {**expected, **recipe}

    with torch.device("meta"):
        reference = build(variant, python)
    shapes = {name: p.shape for name, p in reference.named_parameters()}
    assert parameters(by_arch) == parameters(by_options) == shapes


def test_same_seed_same_weights():
    dictionary = toy_dictionary()
    task = Namespace(source_dictionary=dictionary, target_dictionary=dictionary)
    torch.manual_seed(7)
    python = build("rela_g", make_config("rela_g", "tiny", share_all_embeddings=True, dropout=0.3))
    torch.manual_seed(7)
    flags = ("--share-all-embeddings", "--dropout", "0.3")
    by_arch = build_model(from_command_line("--arch", "seqattn_rela_g_tiny", *flags), task)
    torch.manual_seed(7)
    by_hydra = build_model(from_hydra("multi30k_en_de", "variant=rela_g").model, task)
    for name, expected in python.state_dict().items():
        assert torch.equal(by_arch.state_dict()[name], expected), name
        assert torch.equal(by_hydra.state_dict()[name], expected), name


STOCK = {
    "iwslt_de_en": "transformer_iwslt_de_en",
    "wmt_en_de": "transformer_wmt_en_de",
    "wmt_en_de_big": "transformer_vaswani_wmt_en_de_big",
    "wmt_en_fr": "transformer_vaswani_wmt_en_fr_big",
}


@pytest.mark.parametrize(("size", "stock"), STOCK.items())
def test_sizes_are_those_of_stock_fairseq(size, stock):
    task = Namespace(source_dictionary=toy_dictionary(), target_dictionary=toy_dictionary())
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, ["unused", "--arch", stock])
    with torch.device("meta"):
        models = build_model(args, task), build("softmax", make_config("softmax", size))
    counts = [sum(p.numel() for p in model.parameters()) for model in models]
    assert counts[0] == counts[1]


def test_explicit_options_win_over_the_preset():
    cfg = from_command_line("--arch", "seqattn_rela_g_tiny", "--encoder-layers", "2")
    assert (cfg.encoder_layers, cfg.decoder_layers, cfg.encoder_embed_dim) == (2, 4, 128)


def test_configs_are_written_from_the_table():
    for path, content in group_files().items():
        assert (CONFIGS / path).read_text(encoding="utf-8") == content, path
    groups = ("size", "variant", "preset")
    on_disk = {str(p.relative_to(CONFIGS)) for g in groups for p in (CONFIGS / g).glob("*")}
    assert on_disk == set(group_files())


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_keep_the_rules(recipe):
    cfg = from_hydra(recipe, "variant=rela_i", "seed=5")
    assert cfg.dataset.update_epoch_batch_itr is True
    assert cfg.hydra.job.chdir is False
    assert cfg.common.seed == 5
    assert cfg.task._name == "seqattn_translation"
    run = f"runs/{recipe}/rela_i_{cfg.hydra.runtime.choices.size}/seed5"
    assert cfg.checkpoint.save_dir == run
    assert cfg.hydra.run.dir == f"{run}/hydra"
    assert f"{cfg.hydra.sweep.dir}/{cfg.hydra.sweep.subdir}" == f"{run}/hydra"
    assert cfg.batch.tokens > 0
    assert cfg.distributed_training.heartbeat_timeout == 600


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("relag",), "unknown variant 'relag' .did you mean rela_g, rela_i"),
        (("rela_g", "tinny"), "unknown size 'tinny' .did you mean tiny"),
    ],
)
def test_unknown_names_suggest_the_nearest(arguments, message):
    with pytest.raises(SeqAttnError, match=message):
        make_config(*arguments)


def test_unknown_option_suggests_the_nearest():
    with pytest.raises(
        SeqAttnError, match="no option 'encoder_layer' .did you mean encoder_layers"
    ):
        make_config("softmax", encoder_layer=3)


@pytest.mark.parametrize(
    ("options_", "message"),
    [
        ({"encoder_attention_heads": 3}, "--encoder-attention-heads 3 does not divide"),
        ({"decoder_layers": 0}, "--decoder-layers is 0, but must be at least 1"),
        ({"dropout": 1.5}, "--dropout is 1.5, but must be from 0 to 1"),
        ({"encoder_layerdrop": -0.1}, "--encoder-layerdrop is -0.1, but must be from 0 to 1"),
        (
            {"encoder_layers_to_keep": "0,7", "decoder_layers_to_keep": "0"},
            "--encoder-layers-to-keep 0,7: needs different layers, counted from 0, of 4",
        ),
        (
            {"encoder_layers_to_keep": "0", "decoder_layers_to_keep": "1,1"},
            "--decoder-layers-to-keep 1,1: needs different layers",
        ),
        ({"encoder_embed_path": "no.txt"}, "no.txt: no embeddings in fairseq's text format .No"),
        ({"decoder_embed_dim": 64, "share_all_embeddings": True}, "must be equal here"),
        ({"decoder_embed_dim": 64, "embedding_bias": True}, "must be equal here"),
    ],
)
def test_contradictory_options_are_one_clear_line(options_, message):
    with pytest.raises(SeqAttnError, match=message):
        build("softmax", make_config("softmax", "tiny", **options_))


@pytest.mark.parametrize(
    ("options_", "message"),
    [
        ({"rela_activation": "bogus"}, "rela_g, option 'rela_activation': Invalid value 'bogus'"),
        ({"dropout": "much"}, "rela_g, option 'dropout': Value 'much'"),
        ({"encoder_layers": None}, "rela_g, option 'encoder_layers'"),
    ],
)
def test_values_of_the_wrong_kind_are_one_clear_line(options_, message):
    with pytest.raises(SeqAttnError, match=message) as error:
        make_config("rela_g", **options_)
    assert "\n" not in str(error.value)


def test_building_leaves_the_configuration_alone():
    cfg = make_config("softmax", "tiny", share_all_embeddings=True)
    before = asdict(cfg)
    build("softmax", cfg)
    assert asdict(cfg) == before


def test_pretrained_embeddings(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("2 128\n" + "".join(f"w{i} " + f"{i}.5 " * 128 + "\n" for i in (3, 5)))
    model = build("softmax", make_config("softmax", "tiny", encoder_embed_path=str(path)))
    index = model.encoder.dictionary.index("w5")
    assert model.encoder.embed_tokens.weight[index].eq(5.5).all()
    with pytest.raises(SeqAttnError, match="vectors of width 128; the embedding's width is 512"):
        build("softmax", make_config("softmax", encoder_embed_path=str(path)))


def test_sharing_needs_a_joined_dictionary():
    cfg = make_config("softmax", "tiny", share_all_embeddings=True)
    task = Namespace(source_dictionary=toy_dictionary(23), target_dictionary=toy_dictionary(24))
    with pytest.raises(SeqAttnError, match="--joined-dictionary"):
        MODEL_REGISTRY["seqattn_softmax"].build_model(cfg, task)
