"""What torchrun tells a process about its place among the others, checked before it is believed.

fairseq believes whatever it finds: a wrong or half-set environment ends in trainings that do not
know of each other and write into one folder, or in none at all with exit status 0.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seqattn_fairseq.errors import SeqAttnError

_SECTION = "distributed_training."


@dataclass(frozen=True)
class Place:
    """One process among ``world_size``, and among the ``local_world_size`` of its node."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name)
    if text is None:
        raise SeqAttnError(f"{name} is not set; start with `seqattn train`, or with torchrun")
    try:
        return int(text)
    except ValueError:
        raise SeqAttnError(f"{name}={text} is no number; leave it to torchrun") from None


def read(environ: Mapping[str, str] = os.environ) -> Place:
    """Return this process's place as torchrun's variables give it.

    Raises:
        SeqAttnError: a variable is missing, no number, or contradicts another one.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    place = Place(*(_number(environ, name) for name in names))
    _refuse_outside("RANK", place.rank, "WORLD_SIZE", place.world_size)
    _refuse_outside("LOCAL_RANK", place.local_rank, "LOCAL_WORLD_SIZE", place.local_world_size)
    _refuse_outside("LOCAL_RANK", place.local_rank, "RANK + 1", place.rank + 1)
    _refuse_outside("LOCAL_WORLD_SIZE - 1", place.local_world_size - 1, "WORLD_SIZE",
                    place.world_size)  # fmt: skip
    if place.world_size > 1:
        port = _number(environ, "MASTER_PORT")
        if not environ.get("MASTER_ADDR") or not 0 < port < 65536:
            raise SeqAttnError(
                f"MASTER_ADDR={environ.get('MASTER_ADDR', '')} MASTER_PORT={port} is no address; "
                "it must be that of the node with rank 0"
            )
    return place


def _refuse_outside(name: str, value: int, bound_name: str, bound: int) -> None:
    if not 0 <= value < bound:
        raise SeqAttnError(
            f"the environment contradicts itself: {name} is {value}, {bound_name} is {bound}; "
            "unset what is left of another launcher"
        )


def fairseq_options(place: Place) -> dict[str, int | bool | str | None]:
    """Return everything that fairseq would otherwise guess, as ``distributed_training`` options.

    One process trains without a process group.
    """
    several = place.world_size > 1
    return {
        "distributed_world_size": place.world_size,
        "distributed_num_procs": place.local_world_size,
        "nprocs_per_node": place.local_world_size,
        "distributed_rank": place.rank,
        "device_id": place.local_rank,
        "distributed_init_method": "env://" if several else None,
        "distributed_no_spawn": True,
    }


def _spelled(value: object) -> str:
    """Return an option's value as it is written in a recipe."""
    return "null" if value is None else str(value).lower()


def given(words: Sequence[str]) -> dict[str, str]:
    """Return the options that override words such as ``a.b=c`` set."""
    pairs = (word.lstrip("+").partition("=") for word in words if "=" in word)
    return {name: value for name, _, value in pairs}


def refuse_contradictions(words: Sequence[str], options: Mapping[str, object]) -> None:
    """Refuse an override that says something else about the processes than is the case.

    Args:
        words: the user's overrides.
        options: what holds, as :func:`fairseq_options` returns it.
    """
    for name, value in given(words).items():
        option = name.removeprefix(_SECTION)
        if option == name or option not in options:
            continue
        expected = _spelled(options[option])
        if value.strip("'\"").lower() != expected:
            raise SeqAttnError(
                f"{name}={value}, but the processes were started with {expected}; leave it out, "
                "and choose with --nproc and --nnodes"
            )


def as_words(options: Mapping[str, object]) -> list[str]:
    """Return ``distributed_training`` options as Hydra overrides."""
    return [f"{_SECTION}{name}={quoted(_spelled(value))}" for name, value in options.items()]


def quoted(value: str) -> str:
    """Return a text as a value of Hydra's command line, where it needs quotes within them."""
    if value.replace("_", "").isalnum():
        return value
    return "'" + value.replace("'", "\\'") + "'"
