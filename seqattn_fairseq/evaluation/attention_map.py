"""Cross-attention of one sentence: the weights of a trained model, and their picture.

Shapes: H heads, T target positions, S source positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.dataclass.configs import GenerationConfig
from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError

_BEAM = 5


@dataclass(frozen=True)
class AttentionMap:
    """Cross-attention weights (T, S) of one sentence and the tokens of its rows and columns."""

    weights: Tensor
    source: list[str]
    target: list[str]
    title: str


def load(checkpoint: Path, data_bin: Path) -> tuple[Any, Any]:
    """Return (model, task) of a checkpoint, on the CPU and in evaluation mode.

    Raises:
        SeqAttnError: no such file or data, or a model that cannot tell its attention weights.
    """
    if not checkpoint.is_file():
        raise SeqAttnError(f"{checkpoint}: no such checkpoint")
    if not any(data_bin.glob("dict.*.txt")):
        raise SeqAttnError(f"{data_bin}: holds no dictionary; give a folder of fairseq-preprocess")
    models, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(checkpoint)], arg_overrides={"data": str(data_bin.resolve())}
    )
    model = models[0].eval()
    if not hasattr(model, "attention_weights"):
        raise SeqAttnError(
            f"{checkpoint}: a {type(model).__name__} does not tell its attention weights; "
            "train it as seqattn_softmax, which loads stock weights"
        )
    return model, task


def corpus_sentence(task: Any, subset: str, number: int) -> tuple[Tensor, Tensor]:
    """Return source and target ids of sentence ``number`` (from 0) of a binarised subset.

    Raises:
        SeqAttnError: there is no such sentence.
    """
    task.load_dataset(subset)
    dataset = task.dataset(subset)
    if not 0 <= number < len(dataset):
        raise SeqAttnError(
            f"--sentence {number}: {subset} has {len(dataset)} sentences, counted from 0"
        )
    item = dataset[number]
    return item["source"], item["target"]


def _check_length(side: str, tokens: Tensor, limit: int) -> None:
    if tokens.numel() > limit:
        raise SeqAttnError(
            f"the {side} sentence has {tokens.numel():,} tokens, but the model takes {limit:,}; "
            "choose a shorter one"
        )


def translate(model: Any, task: Any, source: Tensor) -> Tensor:
    """Return the ids of the model's own translation (beam search), ending in eos.

    Raises:
        SeqAttnError: the source is longer than the model's positions.
    """
    _check_length("source", source, model.max_positions()[0])
    generator = task.build_generator([model], GenerationConfig(beam=_BEAM))
    dataset = task.build_dataset_for_inference([source], [source.numel()])
    sample = dataset.collater([dataset[0]])
    hypotheses = task.inference_step(generator, [model], sample)
    tokens: Tensor = hypotheses[0][0]["tokens"]
    return tokens


def _pick(weights_HTS: Tensor, head: int | None) -> Tensor:
    if head is None:
        return weights_HTS.mean(0)
    if not 1 <= head <= len(weights_HTS):
        raise SeqAttnError(f"--head {head}: the layer has heads 1 to {len(weights_HTS)}")
    return weights_HTS[head - 1]


def cross_attention(
    model: Any,
    task: Any,
    source: Tensor,
    target: Tensor,
    layer: int | None = None,
    head: int | None = None,
) -> AttentionMap:
    """Return the cross-attention with which the model reads ``source`` when it is given ``target``.

    Args:
        model: offers ``attention_weights``.
        task: the translation task, for its dictionaries.
        source: (S,) ids, ending in eos.
        target: (T,) ids, ending in eos; row i shows where token i was predicted from.
        layer: decoder layer from 1; the last one if None.
        head: head from 1; the mean over heads if None.

    Raises:
        SeqAttnError: no such layer or head, a model without cross-attention, or a sentence
            longer than the model's positions.
    """
    for side, tokens, limit in zip(
        ("source", "target"), (source, target), model.max_positions(), strict=True
    ):
        _check_length(side, tokens, limit)
    lengths = torch.tensor([source.numel()])
    previous = target.roll(1)[None]
    layers = model.attention_weights(source[None], lengths, previous).get("cross")
    if not layers:
        raise SeqAttnError("the model has no cross-attention weights to show")
    number = len(layers) if layer is None else layer
    if not 1 <= number <= len(layers):
        raise SeqAttnError(f"--layer {layer}: the decoder has layers 1 to {len(layers)}")
    weights = _pick(layers[number - 1][0].float().cpu(), head)
    heads = "mean of heads" if head is None else f"head {head}"
    return AttentionMap(
        weights,
        _labels(task.source_dictionary, source),
        _labels(task.target_dictionary, target),
        f"{getattr(model, 'seqattn_variant', 'model')}, layer {number}, {heads}",
    )


def _labels(dictionary: Any, tokens: Tensor) -> list[str]:
    return [str(dictionary[int(token)]) for token in tokens]


def draw(attention: AttentionMap, path: Path) -> None:
    """Draw the weights as they are (ReLA's do not sum to one) and write a PNG.

    Raises:
        SeqAttnError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SeqAttnError(
            "drawing needs matplotlib: pip install 'seqattn_fairseq[report]'"
        ) from error
    rows, columns = attention.weights.shape
    # half an inch for a token keeps labels legible; the margins hold them
    figure = Figure(figsize=(2.6 + 0.42 * columns, 1.6 + 0.36 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(attention.weights.numpy(), cmap="Blues", vmin=0.0, aspect="auto")
    axes.set_xticks(
        range(columns), attention.source, rotation=60, ha="left", rotation_mode="anchor"
    )
    axes.set_yticks(range(rows), attention.target)
    axes.xaxis.tick_top()
    axes.set_xlabel(attention.title)
    axes.set_xticks([edge - 0.5 for edge in range(1, columns)], minor=True)
    axes.set_yticks([edge - 0.5 for edge in range(1, rows)], minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)
    figure.colorbar(image, ax=axes, label="weight")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", dpi=150)
    except OSError as error:
        raise SeqAttnError(f"{path}: cannot be written: {error.strerror}") from error
