"""Write the Hydra groups and recipes that come from the tables of the package.

  seqattn configs configs                    size/, variant/, preset/, our experiments
  seqattn configs configs --documents .      also the tables of all experiments in docs/recipes.md
                                             and README.md, with the scores of docs/results.jsonl

``configs/`` in the repository is written by this command; tests keep the two equal. Use it to
start a configuration folder of your own. Experiments of a paper are written by hand and stay.
"""

from __future__ import annotations

import argparse
import textwrap
from dataclasses import dataclass, fields
from pathlib import Path

from omegaconf import OmegaConf

from seqattn_fairseq.experiments.table import write_tables
from seqattn_fairseq.transformer.config import SIZES
from seqattn_fairseq.transformer.registry import VARIANTS, Preset

_WRITTEN = "# Written by `seqattn configs`; change the table, not this file.\n"
_HEADER = f"# @package model\n{_WRITTEN}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", type=Path, help="the folder given to --config-dir")
    parser.add_argument(
        "--documents", type=Path, metavar="DIR", help="write the tables of experiments there, too"
    )


def group_files() -> dict[str, str]:
    """Return path below the folder -> content of every file of the three groups."""
    files = {f"size/{size}.yaml": OmegaConf.to_yaml(dict(SIZES[size])) for size in SIZES}
    files |= {f"variant/{name}.yaml": _variant_file(name) for name in VARIANTS}
    files |= {
        f"preset/{name}_{size}.yaml": _preset_file(preset)
        for name, variant in VARIANTS.items()
        for size, preset in variant.presets.items()
        if preset.options
    }
    return {path: _HEADER + content for path, content in files.items()}


def _preset_file(preset: Preset) -> str:
    """Return what a variant sets at one size, and whose choice that is."""
    return _comment(preset.source) + OmegaConf.to_yaml(dict(preset.options))


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, width=96))


def _variant_file(name: str) -> str:
    """Return every option of a variant that no size sets, with its meaning and default."""
    config = VARIANTS[name].config
    defaults = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    assert isinstance(defaults, dict)
    blocks = [OmegaConf.to_yaml({"_name": f"seqattn_{name}"})]
    for option in fields(config):
        if not option.name.startswith("_") and option.name not in SIZES["tiny"]:
            comment = _comment(str(option.metadata["help"]))
            blocks.append(comment + OmegaConf.to_yaml({option.name: defaults[option.name]}))
    return "\n".join(blocks)


@dataclass(frozen=True)
class Cells:
    """Variants that no paper reports on a dataset, and the recipe that all of them take.

    Attributes:
        dataset, size, corpus, budget: choices of the groups.
        variants: names, separated by blanks.
        twin: the experiment with softmax under the same budget.
    """

    dataset: str
    size: str
    corpus: str
    budget: str
    variants: str
    twin: str = "softmax"


_NO_PAPER = "rela_g rela_i sparsemax entmax15 mega mega_chunk luna"
_BASE = "rela_g rela_i topk sparsemax entmax15 lightconv dynamicconv muse_simple muse luna"
_TINY = f"{_BASE} mega mega_chunk"
# A budget is a paper's; what is ours is that these variants train under it.
OURS = (
    Cells("multi30k_en_de", "tiny", "multi30k_en_de", "wu2021_multi30k", _TINY),
    Cells("multi30k_en_fr", "tiny", "multi30k_en_fr", "wu2021_multi30k", _TINY),
    Cells("iwslt14_de_en", "iwslt_de_en", "iwslt14_de_en", "prime_iwslt", _NO_PAPER),
    Cells(
        "iwslt14_en_de",
        "iwslt_de_en",
        "iwslt14_en_de",
        "prime_iwslt",
        f"softmax lightconv dynamicconv muse_simple muse topk {_NO_PAPER}",
    ),
    Cells(
        "iwslt15_en_vi",
        "iwslt_en_vi",
        "iwslt15_en_vi",
        "prime_iwslt_en_vi",
        f"lightconv {_NO_PAPER}",
    ),
    Cells(
        "wmt14_en_de",
        "wmt_en_de",
        "wmt16_en_de_mega",
        "mega_wmt16",
        "mega_chunk",
        twin="softmax_mega2023",
    ),
    Cells("wmt14_de_en", "wmt_en_de", "wmt16_de_en_mega", "mega_transformer_wmt16", _BASE),
    Cells(
        "wmt14_de_en",
        "wmt_en_de",
        "wmt16_de_en_mega",
        "mega_wmt16",
        "mega_chunk",
        twin="softmax_mega2023",
    ),
    Cells(
        "wmt14_en_fr", "wmt_en_fr", "wmt14_en_fr", "prime_wmt_en_fr", "topk mega mega_chunk luna"
    ),
)


def our_experiments() -> dict[str, str]:
    """Return path below the folder -> content of every experiment that no paper has."""
    return {
        f"experiment/{cells.dataset}/{variant}.yaml": _our_experiment(cells, variant)
        for cells in OURS
        for variant in cells.variants.split()
    }


def _our_experiment(cells: Cells, variant: str) -> str:
    text = (
        f"Ours: no paper reports {variant} on this dataset. The recipe is that of "
        f"experiment={cells.dataset}/{cells.twin}, with another attention; not tuned."
        if variant != cells.twin
        else "Ours: no paper reports this direction. The twin of every variant beside it."
    )
    groups = {"variant": variant, "size": cells.size, "corpus": cells.corpus}
    groups["budget"] = cells.budget
    values = {
        "defaults": [{f"override /{group}": choice} for group, choice in groups.items()],
        "run_name": variant,
        "evaluation": {"paper": {"score": None, "source": "ours", "ours": True}},
    }
    return f"# @package _global_\n{_WRITTEN}{_comment(text)}{OmegaConf.to_yaml(values)}"


def run(args: argparse.Namespace) -> int:
    """Write the files and print their paths."""
    for path, content in {**group_files(), **our_experiments()}.items():
        target = args.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")
        print(target)
    if args.documents:
        for document in write_tables(args.folder, args.documents):
            print(document)
    return 0
