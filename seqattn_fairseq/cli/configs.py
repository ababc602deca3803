"""Write the Hydra groups size/, variant/ and preset/ from the tables of the package.

``configs/`` in the repository is written by this command; a test keeps the two equal. Use it to
start a configuration folder of your own.
"""

from __future__ import annotations

import argparse
import textwrap
from dataclasses import fields
from pathlib import Path

from omegaconf import OmegaConf

from seqattn_fairseq.transformer.config import SIZES
from seqattn_fairseq.transformer.registry import VARIANTS, Preset

_HEADER = "# @package model\n# Written by `seqattn configs`; change the table, not this file.\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", type=Path, help="the folder given to --config-dir")


def group_files() -> dict[str, str]:
    """Return path below the folder -> content of every file of the two groups."""
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


def run(args: argparse.Namespace) -> int:
    """Write the files and print their paths."""
    for path, content in group_files().items():
        target = args.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")
        print(target)
    return 0
