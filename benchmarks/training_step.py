"""One training step of every variant at its IWSLT size, with our criterion and Adam and without.

    python -m benchmarks.training_step                        # all variants, some ten minutes
    python -m benchmarks.training_step --variants softmax luna

A step is what fairseq's trainer does with a batch: forward, loss, backward, division by the number
of tokens, clipping, Adam. Contenders, on the same batch in float32 with dropout:

* ours: the model, ``seqattn_label_smoothed_cross_entropy``, ``seqattn_adam``;
* stock_criterion_and_adam: the same model, fairseq's criterion and Adam;
* stock_transformer (softmax): fairseq's ``transformer`` with fairseq's criterion and Adam.

The error is that of the loss per token and its gradients without dropout, against float64.

Shapes: B sentences, S and T most tokens of a source and a target, V vocabulary.
"""

from __future__ import annotations

import argparse
import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    label_smoothed_nll_loss,
)
from fairseq.data import Dictionary
from fairseq.models import MODEL_REGISTRY
from fairseq.models.transformer import TransformerModel, base_architecture
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import measure
from benchmarks.measure import OURS, Contender
from seqattn_fairseq.criterions.label_smoothed import (
    SeqAttnLabelSmoothedConfig,
    SeqAttnLabelSmoothedCrossEntropy,
)
from seqattn_fairseq.optim.adam import SeqAttnAdam
from seqattn_fairseq.transformer.registry import VARIANTS, make_config
from seqattn_fairseq.variants import register

SIZE, VOCABULARY, SMOOTHING, DROPOUT, CLIP_NORM = "iwslt_de_en", 10_000, 0.1, 0.3, 1.0
STOCK, TRANSFORMER = "stock_criterion_and_adam", "stock_transformer"
Sample = dict[str, Any]
Criterion = Callable[[nn.Module, Sample], Any]

register()


def dictionary(size: int = VOCABULARY) -> Dictionary:
    """Return a dictionary of ``size`` symbols, the four special ones included."""
    found = Dictionary()
    for index in range(size - len(found)):
        found.add_symbol(f"w{index}")
    return found


def batch(sentences: int, symbols: Dictionary) -> Sample:
    """Return a batch as fairseq's batches by length are: sentences of like lengths, some padding.

    Sources have 24 to 28 tokens and are padded left, targets 20 to 28 and are padded right, as
    batches of IWSLT14 around its mean length.
    """
    generator = torch.Generator().manual_seed(1)

    def ids(least: int, most: int) -> tuple[Tensor, Tensor]:
        lengths = torch.randint(least, most + 1, (sentences,), generator=generator)
        lengths[0] = most
        size = (sentences, most)
        tokens = torch.randint(symbols.nspecial, len(symbols), size, generator=generator)
        padded = torch.arange(most) >= lengths[:, None]
        tokens.scatter_(1, lengths[:, None] - 1, symbols.eos())
        return tokens.masked_fill(padded, symbols.pad()), lengths

    (source, source_lengths), (target, target_lengths) = ids(24, 28), ids(20, 28)
    previous = target.roll(1, 1).masked_fill(target.eq(symbols.pad()).roll(1, 1), symbols.pad())
    previous[:, 0] = symbols.eos()
    return {
        "net_input": {
            "src_tokens": source.flip(1),
            "src_lengths": source_lengths,
            "prev_output_tokens": previous,
        },
        "target": target,
        "ntokens": int(target_lengths.sum()),
    }


def _task(symbols: Dictionary) -> argparse.Namespace:
    return argparse.Namespace(source_dictionary=symbols, target_dictionary=symbols)


def configuration(variant: str) -> Any:
    """Return a variant's preset, with the dropout of IWSLT."""
    pair = {"encoder_variant": "mega", "decoder_variant": "softmax"} if variant == "hybrid" else {}
    return make_config(variant, SIZE, dropout=DROPOUT, **pair)


def our_model(variant: str, symbols: Dictionary) -> Any:
    """Return a variant's model in training mode."""
    torch.manual_seed(1)
    build = MODEL_REGISTRY[f"seqattn_{variant}"].build
    return build(configuration(variant), symbols, symbols).train()


def stock_model(ours: nn.Module, symbols: Dictionary) -> Any:
    """Return fairseq's ``transformer`` with the options and weights of our softmax model."""
    options = vars(configuration("softmax")).items()
    args = argparse.Namespace(**{k: v for k, v in options if not k.startswith("_")})
    base_architecture(args)
    model = TransformerModel.build_model(args, _task(symbols))
    model.load_state_dict(ours.state_dict(), strict=False)
    return model.train()


def our_criterion(symbols: Dictionary) -> Criterion:
    """Return ``seqattn_label_smoothed_cross_entropy``."""
    cfg = SeqAttnLabelSmoothedConfig(label_smoothing=SMOOTHING, sentence_avg=False)
    made: Criterion = SeqAttnLabelSmoothedCrossEntropy(cfg, _task(symbols))
    return made


def stock_criterion(symbols: Dictionary) -> Criterion:
    """Return ``label_smoothed_cross_entropy``."""
    made: Criterion = LabelSmoothedCrossEntropyCriterion(_task(symbols), False, SMOOTHING)
    return made


def exact_criterion(symbols: Dictionary) -> Criterion:
    """Return the loss in the dtype of the model: fairseq's log-softmax is float32 always."""

    def loss(model: nn.Module, sample: Sample) -> tuple[Tensor, int]:
        logits = model(**sample["net_input"])[0]
        lprobs = F.log_softmax(logits, dim=-1).flatten(0, 1)
        target = sample["target"].view(-1, 1)
        return label_smoothed_nll_loss(lprobs, target, SMOOTHING, symbols.pad())[0], 0

    return loss


def loss_and_gradients(model: nn.Module, criterion: Criterion, sample: Sample) -> list[Tensor]:
    """Return the loss per token and its gradients by the parameters' names, without dropout."""
    model.eval()
    loss = criterion(model, sample)[0] / sample["ntokens"]
    named = sorted(model.named_parameters())
    found = torch.autograd.grad(loss, [p for _, p in named])
    model.train()
    return [loss.detach(), *found]


def adam(kind: type[FairseqAdam], parameters: list[Tensor]) -> FairseqAdam:
    """Return fairseq's optimiser or ours, with the settings of IWSLT."""
    cfg = FairseqAdamConfig(adam_betas="(0.9, 0.98)", weight_decay=1e-4, lr=[5e-4], tpu=False)
    return kind(cfg, parameters)


def trainer_step(
    model: nn.Module, criterion: Criterion, optimiser: FairseqAdam, sample: Sample
) -> Callable[[], None]:
    """Return what fairseq's trainer does with a batch."""

    def run() -> None:
        optimiser.zero_grad()
        optimiser.backward(criterion(model, sample)[0])
        optimiser.multiply_grads(1 / sample["ntokens"])
        optimiser.clip_grad_norm(CLIP_NORM)
        optimiser.step()

    return run


def measured(variant: str, sentences: int, repeats: int) -> list[dict[str, Any]]:
    """Return the rows of a variant; print losses and errors first, times after."""
    symbols = dictionary()
    sample = batch(sentences, symbols)
    first = our_model(variant, symbols)
    parts = {
        OURS: (first, our_criterion(symbols), SeqAttnAdam),
        STOCK: (copy.deepcopy(first), stock_criterion(symbols), FairseqAdam),
    }
    if variant == "softmax":
        parts[TRANSFORMER] = (stock_model(first, symbols), parts[STOCK][1], FairseqAdam)
    exact = loss_and_gradients(copy.deepcopy(first).double(), exact_criterion(symbols), sample)
    print(f"{variant}: loss per token in float64 {float(exact[0]):.9f}", flush=True)
    errors = {}
    for name, (model, criterion, _) in parts.items():
        found = loss_and_gradients(model, criterion, sample)
        errors[name] = measure.error(found, exact)
        print(f"  {name}: loss {float(found[0]):.9f}, error {errors[name]:.1e}", flush=True)
    contenders = [
        Contender(name, trainer_step(model, criterion, adam(kind, [*model.parameters()]), sample))
        for name, (model, criterion, kind) in parts.items()
    ]
    seconds = measure.alternate(contenders, repeats)
    source, target = (sample[k] for k in ("net_input", "target"))
    shape = {
        "B": sentences,
        "S": source["src_tokens"].size(1),
        "T": target.size(1),
        "V": VOCABULARY,
        "tokens": sample["ntokens"],
    }
    rows = measure.compared(seconds, errors)
    for row in rows:
        print("  {contender}: {seconds:.3f} s, {ratio:.3f} times ours".format(**row), flush=True)
    return [
        {"benchmark": "training_step", "mechanism": f"training step, {variant}", **shape, **row}
        for row in rows
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--sentences", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=measure.RESULTS)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [measured(variant, args.sentences, args.repeats) for variant in args.variants]
    measure.write_rows(args.out, list(itertools.chain.from_iterable(rows)))


if __name__ == "__main__":
    main()
