"""What ``fairseq-train`` would train, from its own options."""

from __future__ import annotations

from collections.abc import Sequence

from fairseq import options
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.optim import OPTIMIZER_REGISTRY

from seqattn_fairseq.errors import SeqAttnError, nearest
from seqattn_fairseq.launch.quietness import quiet
from seqattn_fairseq.planning.step import Subject, stand_in

_TASK = "seqattn_translation"


def of_architecture(
    arch: str, types: int, optimizer: str, criterion: str, words: Sequence[str] = ()
) -> Subject:
    """Return the training of an architecture with fairseq's defaults.

    Args:
        arch: its name.
        types: of the dictionary of both languages, fairseq's four symbols among them.
        optimizer: its name.
        criterion: its name.
        words: further options of ``fairseq-train``.

    Raises:
        SeqAttnError: an unknown name, or no room for a single word.
    """
    for option, name, known in (
        ("--arch", arch, ARCH_MODEL_REGISTRY),
        ("--optimizer", optimizer, OPTIMIZER_REGISTRY),
        ("--criterion", criterion, CRITERION_REGISTRY),
    ):
        if name not in known:
            raise SeqAttnError(f"{option} {name}: there is none{nearest(name, known)}")
    dictionary = stand_in(0)
    if types <= len(dictionary):
        raise SeqAttnError(
            f"--vocabulary {types}: fairseq's own {len(dictionary)} symbols count; give more"
        )
    dictionary = stand_in(types - len(dictionary))
    given = ["data", "--arch", arch, "--optimizer", optimizer, "--criterion", criterion, *words]
    with quiet("hydra"):
        parsed = options.parse_args_and_arch(options.get_training_parser(_TASK), given)
        cfg = convert_namespace_to_omegaconf(parsed)
    return Subject(cfg, dictionary, dictionary)
