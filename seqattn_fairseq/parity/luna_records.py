"""What Luna's official code recorded besides activations: optimiser traces, dropouts, state dicts.

Shapes: B batch, C width.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import torch
from fairseq.models import MODEL_REGISTRY
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from seqattn_fairseq.official.conversion import Conversion, OfficialModel
from seqattn_fairseq.official.luna import ORIGINS
from seqattn_fairseq.optim.apollo import Apollo
from seqattn_fairseq.parity.comparison import Comparison, Kind, UninterpretableError
from seqattn_fairseq.parity.golden import Golden
from seqattn_fairseq.parity.modules import dictionary_of
from seqattn_fairseq.transformer.config import SIDES
from seqattn_fairseq.transformer.model import SeqAttnModel
from seqattn_fairseq.transformer.registry import make_config

# what the official optimiser calls its state, and what ours does
_STATE = ("exp_avg_grad", "approx_hessian", "update")


def _is_optimiser_trace(golden: Golden) -> bool:
    return str(golden.meta.get("official_class", "")).endswith("Apollo")


def _optimiser_trace(golden: Golden, comparison: Comparison) -> None:
    names = sorted(golden.group("param"))
    params = [golden[f"param/{name}"].clone().requires_grad_() for name in names]
    grads = [golden[f"input/grad{name.removeprefix('p')}"] for name in names]
    config = {key: golden.config[key] for key in golden.config if key != "official_class"}
    optimiser = Apollo(params, **config)
    for step, lr in enumerate(golden["input/lrs"].tolist()):
        optimiser.param_groups[0]["lr"] = lr
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad[step].clone()
        optimiser.step()
        for name, param in zip(names, params, strict=True):
            comparison.output(f"{name}_step{step}", param)
    for name, param in zip(names, params, strict=True):
        for key in _STATE:
            if f"output/state/{key}{name.removeprefix('p')}" in golden:
                state = optimiser.state[param][key]
                comparison.output(f"state/{key}{name.removeprefix('p')}", state)


def _is_call(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 3 and str(entry[0]).startswith("dropout")


def _traces(golden: Golden) -> dict[str, list[Any]]:
    """Return the lists of dropout calls by the name of their configuration."""
    lists = {k: v for k, v in golden.meta.items() if isinstance(v, list) and v}
    return {name: calls for name, calls in lists.items() if all(map(_is_call, calls))}


def _is_dropout_trace(golden: Golden) -> bool:
    config = golden.meta.get("config")
    return isinstance(config, str) and " L=" in config and bool(_traces(golden))


# torch's functions by the kind in a trace; the second drops whole tokens of (B, T, C)
_DROPOUTS: dict[Any, str] = {F.dropout: "dropout", F.dropout1d: "dropout2d"}


class _DropoutCalls(TorchFunctionMode):
    """Counts dropouts by kind, probability and shape."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[Any, ...]] = Counter()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DROPOUTS:
            p = kwargs["p"] if "p" in kwargs else args[1]
            self.calls[_call(_DROPOUTS[func], p, list(args[0].shape))] += 1
        return func(*args, **kwargs)


def _call(kind: str, p: float, shape: list[int]) -> tuple[Any, ...]:
    """Return a dropout call up to layout: batch and heads may be one dimension or two."""
    if len(shape) == 4:
        shape = [shape[0] * shape[1], *shape[2:]]
    return kind, round(p, 6), *sorted(shape)


def _dropout_trace(golden: Golden, comparison: Comparison) -> None:
    text = golden.meta["config"]
    sizes = {name: float(value) for name, value in re.findall(r"(\w+)=(\d+(?:\.\d+)?)", text)}
    counted_layers = re.search(r"(\d+)\+(\d+) layers", text)
    layers = (1, 1) if counted_layers is None else tuple(map(int, counted_layers.groups()))
    for name, calls in _traces(golden).items():
        expected = Counter(_call(*call) for call in calls)
        # The official code also renews P in the last decoder layer, for nobody; ours does not.
        rows = min(int(sizes["L"]), int(sizes["T_src"]))
        expected -= Counter(
            [_call("dropout", sizes["dropout"], [rows, int(sizes["B"]), int(sizes["D"])])]
        )
        comparison.check(name, _dropouts_of_training(name, sizes, layers) == expected)


def _dropouts_of_training(
    name: str, sizes: dict[str, float], layers: tuple[int, ...]
) -> Counter[tuple[Any, ...]]:
    """Return the dropout calls of one training pass of the model that is described."""
    both = {
        "embed_dim": int(sizes["D"]),
        "ffn_embed_dim": int(sizes["FFN"]),
        "attention_heads": int(sizes["heads"]),
        "normalize_before": "pre" in name.split("_"),
    }
    rates = {"dropout": "dropout", "attention": "attention_dropout"}
    rates |= {"activation": "activation_dropout", "word": "word_dropout"}
    options: dict[str, Any] = {
        **{f"{side}_{key}": value for side in SIDES for key, value in both.items()},
        **{f"{side}_layers": count for side, count in zip(SIDES, layers, strict=True)},
        **{ours: sizes.get(theirs, 0.0) for theirs, ours in rates.items()},
        "projection_length": int(sizes["L"]),
        "untie_luna_kv": "untied" in name.split("_"),
    }
    model = _build(options, 20, 20).train()
    source, target = (
        torch.full((int(sizes["B"]), int(sizes[length])), 5) for length in ("T_src", "T_tgt")
    )
    trace = _DropoutCalls()
    with trace, torch.no_grad():
        model(source, None, target)
    return trace.calls


def _build(options: dict[str, Any], source: int, target: int) -> SeqAttnModel:
    cfg = make_config("luna", **options)
    source_types = dictionary_of(source)
    target_types = source_types if source == target else dictionary_of(target)
    registered: type[SeqAttnModel] = MODEL_REGISTRY["seqattn_luna"]
    return registered.build(cfg, source_types, target_types)


def _models(golden: Golden) -> dict[str, dict[str, Any]]:
    """Return the models of a manifest of state dicts by name."""
    return {
        name: model
        for name, model in golden.meta.items()
        if isinstance(model, dict) and "projection_length" in model and "state_dict" in model
    }


def _is_manifest(golden: Golden) -> bool:
    return not golden.arrays and bool(_models(golden))


def _manifest(golden: Golden, comparison: Comparison) -> None:
    models = _models(golden)
    conversions = {name: _convert_shapes(model) for name, model in models.items()}
    for name, (conversion, official) in conversions.items():
        _check_model(comparison, name, models[name], conversion, official)
    for key, statistics in golden.meta.items():
        if key.startswith("init_stats"):
            name = max(models, key=lambda n: len(statistics.keys() & _anonymous(models[n])))
            _check_initialisation(comparison, key, statistics, *conversions[name])


def _convert_shapes(model: dict[str, Any]) -> tuple[Conversion, dict[str, Tensor]]:
    """Convert a state dict of ones that take no memory; return it too."""
    one = torch.ones(())
    official = {name: one.expand(shape) for name, shape in model["state_dict"].items()}
    described = OfficialModel(official, _tied(model))
    (origin,) = (o for o in ORIGINS if o.recognises(described))
    return origin.convert(described), official


def _tied(model: dict[str, Any]) -> dict[str, Any]:
    """Return which embeddings are one: what the number of parameters leaves possible."""
    sizes = {name: math.prod(shape) for name, shape in model["state_dict"].items()}
    embeddings = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    total = sum(n for name, n in sizes.items() if not _is_buffer(name))
    surplus = total - model["trainable_params"]
    output, decoder = sizes["decoder.output_projection.weight"], sizes[embeddings[1]]
    return {
        "share_all_embeddings": surplus == output + decoder,
        "share_decoder_input_output_embed": surplus in (output, output + decoder),
    }


def _is_buffer(name: str) -> bool:
    return name.endswith((".version", "._float_tensor", ".projected_positions"))


def _check_model(
    comparison: Comparison,
    name: str,
    model: dict[str, Any],
    conversion: Conversion,
    official: dict[str, Tensor],
) -> None:
    embeddings = [conversion.state[f"{side}.embed_tokens.weight"].size(0) for side in SIDES]
    with torch.device("meta"):
        ours = _build(conversion.options, *embeddings)
    shapes = {n: p.shape for n, p in ours.named_parameters(remove_duplicate=False)}
    comparison.check(
        f"{name}: names and shapes", shapes == {n: t.shape for n, t in conversion.state.items()}
    )
    unread = [n for n in conversion.dropped if n.endswith(("norm.weight", "norm.bias"))]
    without = sum(official[n].numel() for n in unread)
    count = sum(p.numel() for p in ours.parameters())
    comparison.check(f"{name}: parameters", count + without == model["trainable_params"])


def _anonymous(model: dict[str, Any]) -> set[str]:
    """Return the names of a model's parameters with N for the number of the layer."""
    return {_numberless(name) for name in model["state_dict"] if not _is_buffer(name)}


def _numberless(name: str) -> str:
    return re.sub(r"\.layers\.\d+\.", ".layers.N.", name)


def _check_initialisation(
    comparison: Comparison,
    key: str,
    statistics: dict[str, list[float]],
    conversion: Conversion,
    official: dict[str, Tensor],
) -> None:
    """Compare mean, deviation and largest entry with those of a model initialised here.

    Raises:
        UninterpretableError: statistics are of no parameter here, and of none that was dropped.
    """
    embeddings = [conversion.state[f"{side}.embed_tokens.weight"].size(0) for side in SIDES]
    torch.manual_seed(1)
    fresh = dict(_build(conversion.options, *embeddings).named_parameters(remove_duplicate=False))
    by_name: dict[str, list[Tensor]] = defaultdict(list)
    for ours, tensor in conversion.state.items():
        theirs = next((n for n, t in official.items() if t is tensor), None)
        if theirs is not None:
            by_name[_numberless(theirs)].append(fresh[ours].detach())
    dropped = {_numberless(name) for name in conversion.dropped}
    for name, expected in statistics.items():
        if by_name[name]:
            comparison.check(f"{key}: {name}", _is_alike(by_name[name], expected))
        elif name not in dropped:
            raise UninterpretableError(f"{key}: {name} is no parameter here")


def _is_alike(layers: list[Tensor], expected: list[float]) -> bool:
    """Tell whether two random draws have one distribution, as far as 5 deviations can tell."""
    mean, std, largest = (float(x) for x in expected)
    count = sum(tensor.numel() for tensor in layers)
    ours = torch.tensor(
        [[t.mean(), t.std() if t.numel() > 1 else 0.0, t.abs().max()] for t in layers]
    ).mean(dim=0)
    error = 5 * math.sqrt(2 / count) * std + 2e-6
    return (
        abs(float(ours[0]) - mean) <= error
        and abs(float(ours[1]) - std) <= error
        and abs(float(ours[2]) - largest) <= 0.15 * largest
    )


RECORD_KINDS: tuple[Kind, ...] = (
    Kind("Apollo trace", _is_optimiser_trace, _optimiser_trace),
    Kind("Luna dropout trace", _is_dropout_trace, _dropout_trace),
    Kind("Luna state dict manifest", _is_manifest, _manifest),
)
