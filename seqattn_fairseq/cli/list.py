"""List variants, their presets, and published numbers of parameters beside ours.

seqattn list                every variant and preset
seqattn list muse mega      these alone, with what official=true sets
seqattn list --archs        the architecture names, for scripts
"""

from __future__ import annotations

import argparse

from seqattn_fairseq.evaluation.parameters import (
    CountComparison,
    build_empty,
    compare_published,
    count_without_vocabulary,
)
from seqattn_fairseq.transformer.config import SIDES, SIZES
from seqattn_fairseq.transformer.registry import VARIANTS, Variant, get_variant

_HEADER = ("variant", "preset", "layers", "width", "FFN", "heads", "parameters", "from")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="default: all")
    parser.add_argument("--archs", action="store_true", help="print the architecture names only")


def run(args: argparse.Namespace) -> int:
    """Print the tables."""
    chosen = [get_variant(name) for name in args.variants or VARIANTS]
    if args.archs:
        print("\n".join(f"seqattn_{variant.name}_{size}" for variant in chosen for size in SIZES))
        return 0
    width = max(len(variant.name) for variant in chosen)
    for variant in chosen:
        print(f"{variant.name:<{width}}  {variant.summary}")
    print("\nPresets; parameters without embeddings and output projection:")
    _print_table([_HEADER, *(_preset_row(variant, size) for variant in chosen for size in SIZES)])
    _print_published(chosen)
    if args.variants:
        _print_official(chosen)
    print("\narchitectures: seqattn_<variant>_<preset>; Hydra: variant=<variant> size=<preset>")
    return 0


def _preset_row(variant: Variant, size: str) -> tuple[str, ...]:
    model = build_empty(variant, size)
    names = ("layers", "embed_dim", "ffn_embed_dim", "attention_heads")
    encoder, decoder = ([getattr(model.cfg, f"{s}_{n}") for n in names] for s in SIDES)
    columns = [f"{encoder[0]}+{decoder[0]}"] + [
        str(e) if e == d else f"{e}/{d}" for e, d in zip(encoder[1:], decoder[1:], strict=True)
    ]
    parameters = f"{count_without_vocabulary(model):,}"
    return (variant.name, size, *columns, parameters, variant.preset(size).source)


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())


def _print_published(variants: list[Variant]) -> None:
    comparisons = [(v, compare_published(v, p)) for v in variants for p in v.published]
    if comparisons:
        print("\nPublished numbers of parameters beside ours:")
    for variant, comparison in comparisons:
        print(_published_line(variant, comparison))


def _published_line(variant: Variant, comparison: CountComparison) -> str:
    published = comparison.published
    types = f"{published.source_types:,}"
    if published.target_types != published.source_types:
        types += f"/{published.target_types:,}"
    options = "".join(f" {name}={value}" for name, value in published.options.items())
    without = ""
    if published.without_gradient:
        without = f" + {published.without_gradient:,} that never get a gradient"
    verdict = "agrees with" if comparison.agrees else "DIFFERS FROM"
    why = f" ({published.why})" if published.why else ""
    return (
        f"{variant.name} {published.size}, {types} types{options}: ours {comparison.ours:,}"
        f"{without} {verdict} {published.parameters:,}{why}"
    )


def _print_official(variants: list[Variant]) -> None:
    print("\nofficial=true sets:")
    for variant in variants:
        options = ", ".join(f"{k}={v}" for k, v in variant.official.items())
        print(f"{variant.name}: {options or 'nothing; the official code is followed as it is'}")
