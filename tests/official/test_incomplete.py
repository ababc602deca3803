"""State dicts that are not whole, or tell too little, are refused instead of being filled in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.official.conversion import OfficialModel
from seqattn_fairseq.official.importing import convert
from seqattn_fairseq.parity.golden import Golden
from seqattn_fairseq.parity.modules import build_converted
from tests.support.goldens import GOLDENS

MODELS = sorted(
    path for path in GOLDENS.rglob("*.npz") if "param/encoder.embed_tokens.weight" in Golden(path)
)


def official(path) -> OfficialModel:
    golden = Golden(path)
    return OfficialModel(golden.group("param"), golden.config)


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_every_parameter_is_needed(path) -> None:
    """Whatever tensor is missing: refused, or (tied, unread) not needed."""
    model = official(path)
    whole = convert(model, {})[1]
    for name in model.state:
        rest = OfficialModel({n: t for n, t in model.state.items() if n != name}, model.options)
        try:
            converted = convert(rest, {})[1]
            if converted.options != whole.options or converted.state.keys() != whole.state.keys():
                build_converted(converted)
        except (SeqAttnError, RuntimeError):  # the latter: loading is strict
            continue
        assert converted.state.keys() == whole.state.keys(), name
        assert all(bool((t == whole.state[n]).all()) for n, t in converted.state.items()), name


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_tied_tensors_are_equal(path) -> None:
    model = official(path)
    _, conversion = convert(model, {})
    for name, why in conversion.dropped.items():
        if why.startswith("tied to"):
            changed: dict[str, Tensor] = {**model.state, name: model.state[name] + 1}
            with pytest.raises(SeqAttnError, match="differ"):
                convert(OfficialModel(changed, model.options), {})


BARE: dict[str, Callable[[str], bool]] = {
    "encoder_attention_heads": lambda name: name in ("luna", "muse"),
    "attention_activation_fn": lambda name: name == "mega",
}


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_a_bare_state_dict_is_not_guessed_at(path) -> None:
    wanted = [option for option, applies in BARE.items() if applies(path.parent.name)]
    for option in wanted:
        with pytest.raises(SeqAttnError, match=option):
            convert(OfficialModel(official(path).state), {})
