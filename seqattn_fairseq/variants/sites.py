"""The three places of attention: what a variant needs to know of each, and which it replaces."""

from __future__ import annotations

from typing import Any

from seqattn_fairseq.errors import SeqAttnError, nearest
from seqattn_fairseq.transformer.attention import Site
from seqattn_fairseq.transformer.config import EncoderDecoderConfig, option

_ALL = ",".join(site.value for site in Site)


def site_arguments(
    cfg: EncoderDecoderConfig, site: Site
) -> tuple[Site, int, int, int | None, float]:
    """Return the arguments of ``MultiheadAttention`` for a site: width, heads, memory, dropout."""
    side = "encoder" if site is Site.ENCODER_SELF else "decoder"
    return (
        site,
        getattr(cfg, f"{side}_embed_dim"),
        getattr(cfg, f"{side}_attention_heads"),
        cfg.encoder_embed_dim if site is Site.CROSS else None,
        cfg.attention_dropout,
    )


def site_option() -> Any:
    """Return the dataclass field ``attention_sites``; by default the variant is everywhere."""
    return option(_ALL, f"attentions that the variant replaces, of {_ALL}; others are softmax")


def check_sites(names: str) -> set[Site]:
    """Return the sites named in a comma-separated list.

    Raises:
        SeqAttnError: a name is no site, or there is none.
    """
    known = {site.value: site for site in Site}
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if not chosen:
        raise SeqAttnError(
            f"--attention-sites names none; choose from {_ALL} (the variant softmax has no other)"
        )
    for name in chosen:
        if name not in known:
            raise SeqAttnError(
                f"--attention-sites: unknown site '{name}'{nearest(name, known)}; "
                f"choose from {_ALL}"
            )
    return {known[name] for name in chosen}
