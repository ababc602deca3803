"""One training step of every variant: ours, with naive operations, and stock fairseq's.

    python -m benchmarks.training_step                        # all variants, some ten minutes
    python -m benchmarks.training_step --variants softmax luna --corpora wmt

A step is what fairseq's trainer does with a batch: forward, loss, backward, division by the number
of tokens, clipping, Adam. Contenders, on the same batch in float32 with dropout:

* ours: the model, ``seqattn_label_smoothed_cross_entropy``, ``seqattn_adam``;
* naive: the same model computing as the official codes do (``benchmarks.naive``), with fairseq's
  criterion and Adam;
* stock_transformer (softmax), stock_lightconv (lightconv, dynamicconv): fairseq's own model of the
  same weights, criterion and Adam.

``wmt`` is a batch of the shape of WMT's with the size ``iwslt_de_en``, ``multi30k`` one of
Multi30k's with ``tiny``. The error is that of the loss per token and its gradients without dropout,
against float64.

Shapes: B sentences, S and T most tokens of a source and a target, V vocabulary.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import torch

from benchmarks import measure, steps
from benchmarks.batches import CORPORA, Corpus, Sample, batch, dictionary, shape_of
from benchmarks.measure import OURS, Contender
from benchmarks.steps import Part
from seqattn_fairseq.transformer.registry import VARIANTS

NAIVE, TRANSFORMER, LIGHTCONV = "naive", "stock_transformer", "stock_lightconv"


def contenders(variant: str, corpus: Corpus, symbols: Any) -> dict[str, Part]:
    """Return what takes part, all with the same weights."""
    model = steps.our_model(variant, corpus.size, symbols)
    stock = {}
    if variant == "softmax":
        stock[TRANSFORMER] = steps.stock_transformer(model, corpus.size, symbols)
    elif variant in steps.STOCK_CONVOLUTIONS:
        stock[LIGHTCONV] = steps.stock_convolutions(model, variant, corpus.size, symbols)
    naive = steps.naive(copy.deepcopy(model), symbols)
    return {OURS: steps.ours(model, symbols), NAIVE: naive, **stock}


def errors(parts: dict[str, Part], sample: Sample, symbols: Any) -> dict[str, float]:
    """Return the error of each contender; print it."""
    twin = copy.deepcopy(parts[OURS].model).double()
    exact = Part(twin, steps.exact_criterion(symbols), parts[OURS].adam)
    loss, gradients = steps.loss_and_gradients(exact, sample)
    print(f"  loss per token in float64 {float(loss):.9f}", flush=True)
    names, found = sorted(gradients), {}
    for name, part in parts.items():
        value, ours = steps.loss_and_gradients(part, sample)
        pair = ([t[0], *(t[1][n] for n in names)] for t in ((value, ours), (loss, gradients)))
        found[name] = measure.error(*pair)
        print(f"  {name}: loss {float(value):.9f}, error {found[name]:.1e}", flush=True)
    return found


def measured(variant: str, corpus: Corpus, repeats: int) -> list[dict[str, Any]]:
    """Return the rows of a variant; print losses and errors first, times after."""
    symbols = dictionary(corpus.vocabulary)
    sample = batch(corpus, symbols)
    print(f"{variant}, {corpus.size}, {corpus.name}", flush=True)
    parts = contenders(variant, corpus, symbols)
    found = errors(parts, sample, symbols)
    runs = [Contender(name, steps.step(part, sample)) for name, part in parts.items()]
    rows = measure.compared(measure.alternate(runs, repeats), found)
    shape = {"size": corpus.size, **shape_of(sample), "V": corpus.vocabulary}
    for row in rows:
        row["tokens_per_second"] = sample["ntokens"] / row["seconds"]
        print("  {contender}: {seconds:.3f} s, {ratio:.3f} times ours".format(**row), flush=True)
    named = {"benchmark": f"training_step_{corpus.name}", "mechanism": f"training step, {variant}"}
    return [{**named, **shape, **row} for row in rows]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--corpora", nargs="+", choices=list(CORPORA), default=list(CORPORA))
    parser.add_argument("--sentences", type=int, help="of a batch, if not the corpus's own")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=measure.RESULTS)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in args.corpora:
        corpus = CORPORA[name]._replace(**{"sentences": args.sentences} if args.sentences else {})
        for variant in args.variants:
            measure.write_rows(args.out, measured(variant, corpus, args.repeats))


if __name__ == "__main__":
    main()
