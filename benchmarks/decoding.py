"""Beam search: ours against fairseq's, and against stock fairseq's Transformer.

    python -m benchmarks.decoding                        # all variants at the tiny size
    python -m benchmarks.decoding --only softmax

Random weights at the sizes of Multi30k; sentences of like lengths, and every hypothesis made as
long as its sentences are on average, so that all contenders do the same work:

* ours: our search over our decoder;
* sequence_generator: fairseq's search over our decoder, every hypothesis with a row of keys and
  values of its own (as the decoder was before it had a search of its own);
* stock_transformer (softmax): fairseq's search over its ``transformer`` with the same weights.

The error is the largest difference of the scores of all hypotheses from those of fairseq's search;
the words must be the same.

Shapes: B sentences, S and T words of a source and of a hypothesis, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor, nn

from benchmarks import measure
from benchmarks.batches import dictionary
from benchmarks.measure import OURS, Contender
from benchmarks.steps import our_model, stock_transformer
from seqattn_fairseq.generation.generator import BeamSearchGenerator
from seqattn_fairseq.transformer.attention import MultiheadAttention
from seqattn_fairseq.transformer.cache import KeyValueCache, Memory, TwoSidedCache
from seqattn_fairseq.transformer.layers import DecoderLayer
from seqattn_fairseq.transformer.registry import VARIANTS

SIZE, VOCABULARY, BEAM, WORDS = "tiny", 9_712, 5, 14
BATCHES = (1, 32, 128)
STOCK, TRANSFORMER = "sequence_generator", "stock_transformer"
Search = Callable[[], list[list[dict[str, Tensor]]]]


def sample(sentences: int) -> dict[str, Any]:
    """Return a batch of sources of 12 to 16 words, padded left."""
    generator = torch.Generator().manual_seed(1)
    symbols = dictionary(VOCABULARY)
    lengths = torch.randint(12, 17, (sentences,), generator=generator)
    longest = int(lengths.max())
    tokens = torch.randint(
        symbols.nspecial, len(symbols), (sentences, longest), generator=generator
    )
    tokens[:, -1] = symbols.eos()
    padded = torch.arange(longest) < (longest - lengths)[:, None]
    return {
        "id": torch.arange(sentences),
        "net_input": {
            "src_tokens": tokens.masked_fill(padded, symbols.pad()),
            "src_lengths": lengths,
        },
    }


def model_of(variant: str) -> Any:
    """Return a variant's model with probabilities that are far from equal."""
    model = our_model(variant, SIZE, dictionary(VOCABULARY)).eval()
    with torch.no_grad():
        model.decoder.output_projection.weight.mul_(6)
    return model


# ---- the decoder as it was ---------------------------------------------------------------------


def _cache_of_rows(layer: DecoderLayer, memory: Memory) -> tuple[Any, Memory]:
    return TwoSidedCache(KeyValueCache(), layer.encoder_attn.memory_cache(memory)), memory


def _step_of_rows(
    attention: MultiheadAttention, x_RnC: Tensor, cache: KeyValueCache, log: None = None
) -> Tensor:
    q, k, v = attention._projected(x_RnC, None, "qkv")
    out: Tensor = attention.out_proj(attention._attended(q, *cache.append(k, v), None, log))
    return out


def _in_rows(search: Search) -> list[list[dict[str, Tensor]]]:
    """Search with a row of keys and values for every hypothesis."""
    with (
        mock.patch.object(DecoderLayer, "new_cache", _cache_of_rows),
        mock.patch.object(MultiheadAttention, "step_self", _step_of_rows),
    ):
        return search()


# ---- contenders --------------------------------------------------------------------------------


def searches(variant: str, given: dict[str, Any]) -> dict[str, Search]:
    """Return all contenders of a variant over one batch."""
    model, symbols = model_of(variant), dictionary(VOCABULARY)
    options = {"beam_size": BEAM, "min_len": WORDS - 1, "max_len_b": WORDS - 1}

    def of(kind: type[SequenceGenerator], model: nn.Module) -> Search:
        return partial(kind([model], symbols, **options).generate, [model], given)

    found: dict[str, Search] = {
        OURS: of(BeamSearchGenerator, model),
        STOCK: partial(_in_rows, of(SequenceGenerator, model)),
    }
    if variant == "softmax":
        stock = stock_transformer(copy.deepcopy(model), SIZE, symbols).model.eval()
        found[TRANSFORMER] = of(SequenceGenerator, stock)
    return found


def errors(found: dict[str, Search]) -> dict[str, float]:
    """Return the largest difference of scores from those of fairseq's search.

    Raises:
        ValueError: the hypotheses differ in their words.
    """
    results = {name: search() for name, search in found.items()}
    truth = results[STOCK]
    for name, result in results.items():
        if words(result) != words(truth):
            raise ValueError(f"{name} finds other hypotheses than {STOCK}")
    return {name: measure.error(scores(r), scores(truth)) for name, r in results.items()}


def words(result: list[list[dict[str, Tensor]]]) -> list[list[list[int]]]:
    """Return the words of all hypotheses."""
    return [[h["tokens"].tolist() for h in hypotheses] for hypotheses in result]


def scores(result: list[list[dict[str, Tensor]]]) -> list[Tensor]:
    """Return the scores of all hypotheses, a tensor a sentence."""
    return [torch.stack([h["score"] for h in hypotheses]) for hypotheses in result]


def rows(variant: str, repeats: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of a variant."""
    for sentences in BATCHES:
        given = sample(sentences)
        found = searches(variant, given)
        differences = errors(found)
        seconds = measure.alternate([Contender(n, s) for n, s in found.items()], repeats)
        shape = {"T": WORDS, "B": sentences, "S": 16, "V": VOCABULARY, "tokens": sentences * WORDS}
        for row in measure.compared(seconds, differences):
            speed = sentences * WORDS / row["seconds"]
            whole = {
                "mechanism": f"decoding, {variant}",
                **shape,
                **row,
                "tokens_per_second": speed,
            }
            print(
                f"{variant} B={sentences} {row['contender']}: {sentences / row['seconds']:.1f} "
                f"sentences/s, {row['ratio']:.2f} times ours, error {row['error']:.0e}",
                flush=True,
            )
            yield whole


def main() -> None:
    """Measure, print, write."""
    names = [name for name in VARIANTS if name != "hybrid"]
    measure.run({name: partial(rows, name) for name in names}, __doc__.split("\n\n")[0])


if __name__ == "__main__":
    main()
