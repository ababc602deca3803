"""Running our modules with official parameters, so that gradients reach the official ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fairseq.data import Dictionary
from fairseq.models import MODEL_REGISTRY
from torch import Tensor, nn
from torch.func import functional_call

from seqattn_fairseq.official.conversion import Conversion
from seqattn_fairseq.transformer.model import SeqAttnModel
from seqattn_fairseq.transformer.registry import make_config


class _Call(nn.Module):
    """A module whose forward is whatever one wants to do with another."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[[Any], Any]) -> Any:
        """Return ``function(module)``."""
        return function(self.module)


def with_parameters(
    module: nn.Module, state: Mapping[str, Tensor], function: Callable[[Any], Any]
) -> Any:
    """Return ``function(module)``, computed with ``state`` in place of the module's parameters.

    Raises:
        RuntimeError: the state lacks a parameter, has one too many or one of another shape.
    """
    expected = {name: p.shape for name, p in module.named_parameters(remove_duplicate=False)}
    given = {name: t.shape for name, t in state.items()}
    if expected != given:
        different = {n for n in expected.keys() | given.keys() if expected.get(n) != given.get(n)}
        raise RuntimeError(f"not the module's parameters: {', '.join(sorted(different))}")
    replaced = {f"module.{name}": tensor for name, tensor in state.items()}
    return functional_call(_Call(module), replaced, (function,), tie_weights=False)


def dictionary_of(size: int, padding: int = 1, eos: int = 2) -> Dictionary:
    """Return a dictionary of that many symbols, special ones included."""
    dictionary = Dictionary()
    dictionary.pad_index, dictionary.eos_index = padding, eos
    for index in range(size - len(dictionary)):
        dictionary.add_symbol(f"w{index}")
    return dictionary


def build_converted(
    conversion: Conversion, source: Dictionary | None = None, target: Dictionary | None = None
) -> SeqAttnModel:
    """Return our model of a converted one, in evaluation mode, with the converted weights.

    The dictionaries are made up, of the embeddings' sizes, unless given.
    """
    sizes = [conversion.state[f"{s}.embed_tokens.weight"].size(0) for s in ("encoder", "decoder")]
    source = source or dictionary_of(sizes[0])
    shared = conversion.options.get("share_all_embeddings", False)
    target = target or (source if shared else dictionary_of(sizes[1]))
    cfg = make_config(conversion.variant, **conversion.options)
    model: SeqAttnModel = MODEL_REGISTRY[f"seqattn_{conversion.variant}"].build(cfg, source, target)
    model.load_state_dict({name: t.detach() for name, t in conversion.state.items()})
    model.eval()
    return model
