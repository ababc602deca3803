"""Training steps as fairseq's trainer makes them: ours, those of stock fairseq, and naive ones."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    label_smoothed_nll_loss,
)
from fairseq.data import Dictionary
from fairseq.models import MODEL_REGISTRY
from fairseq.models.lightconv import LightConvModel, lightconv_iwslt_de_en
from fairseq.models.transformer import TransformerModel, base_architecture
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.batches import Sample
from benchmarks.naive import naive_forms
from seqattn_fairseq.criterions.label_smoothed import (
    SeqAttnLabelSmoothedConfig,
    SeqAttnLabelSmoothedCrossEntropy,
)
from seqattn_fairseq.official.conversion import OfficialModel
from seqattn_fairseq.official.importing import convert
from seqattn_fairseq.optim.adam import SeqAttnAdam
from seqattn_fairseq.transformer.registry import make_config
from seqattn_fairseq.variants import register

SMOOTHING, DROPOUT, CLIP_NORM = 0.1, 0.3, 1.0
STOCK_CONVOLUTIONS = {"lightconv": "lightweight", "dynamicconv": "dynamic"}
# The hybrid needs two variants; fairseq's DynamicConv of today trains with this option's softmax.
_CHOSEN: dict[str, dict[str, Any]] = {
    "hybrid": {"encoder_variant": "mega", "decoder_variant": "softmax"},
    "dynamicconv": {"conv_head_training": True},
}
Criterion = Callable[[nn.Module, Sample], Any]
Named = dict[str, Tensor]

register()


class Part(NamedTuple):
    """What makes a step.

    Attributes:
        model: in training mode.
        criterion: fairseq's or ours.
        adam: class of the optimiser.
        within: makes the block that a step runs in.
        named: makes parameters, or their gradients, those of our model, by our names.
    """

    model: nn.Module
    criterion: Criterion
    adam: type[FairseqAdam]
    within: Callable[[], AbstractContextManager[None]] = nullcontext
    named: Callable[[Named], Named] = dict


def _task(symbols: Dictionary) -> argparse.Namespace:
    return argparse.Namespace(source_dictionary=symbols, target_dictionary=symbols)


def configuration(variant: str, size: str, **options: Any) -> Any:
    """Return a variant's preset, with the dropout of IWSLT."""
    return make_config(variant, size, dropout=DROPOUT, **_CHOSEN.get(variant, {}), **options)


def our_model(variant: str, size: str, symbols: Dictionary) -> Any:
    """Return a variant's model in training mode."""
    torch.manual_seed(1)
    build = MODEL_REGISTRY[f"seqattn_{variant}"].build
    return build(configuration(variant, size), symbols, symbols).train()


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


# ---- contenders --------------------------------------------------------------------------------


def ours(model: nn.Module, symbols: Dictionary) -> Part:
    """Return the step of our model, criterion and optimiser."""
    return Part(model, our_criterion(symbols), SeqAttnAdam)


def naive(model: nn.Module, symbols: Dictionary) -> Part:
    """Return the step of our model with naive operations, fairseq's criterion and optimiser."""
    return Part(model, stock_criterion(symbols), FairseqAdam, naive_forms)


def stock_transformer(model: nn.Module, size: str, symbols: Dictionary) -> Part:
    """Return the step of fairseq's ``transformer`` with the weights of our softmax model."""
    options = vars(configuration("softmax", size)).items()
    args = argparse.Namespace(**{k: v for k, v in options if not k.startswith("_")})
    base_architecture(args)
    stock = TransformerModel.build_model(args, _task(symbols))
    stock.load_state_dict(model.state_dict(), strict=False)
    return Part(stock.train(), stock_criterion(symbols), FairseqAdam)


def stock_convolutions(model: nn.Module, variant: str, size: str, symbols: Dictionary) -> Part:
    """Return the step of fairseq's ``lightconv``; our model of the variant gets its weights."""
    cfg = configuration(variant, size)
    names = [f"{s}_{n}" for s in ("encoder", "decoder") for n in _SIZES]
    args = argparse.Namespace(**{n: getattr(cfg, n) for n in (*names, *_RATES)})
    for side in ("encoder", "decoder"):
        setattr(args, f"{side}_conv_type", STOCK_CONVOLUTIONS[variant])
        setattr(args, f"{side}_kernel_size_list", _kernel_sizes(model, side))
    args.max_source_positions, args.max_target_positions = 1024, 1024
    args.weight_dropout, args.weight_softmax = args.attention_dropout, True
    lightconv_iwslt_de_en(args)
    stock = LightConvModel.build_model(args, _task(symbols))

    def named(tensors: Named) -> Named:
        return convert(OfficialModel(tensors, vars(args)), {})[1].state

    model.load_state_dict(named(stock.state_dict()), strict=False)
    return Part(stock.train(), stock_criterion(symbols), FairseqAdam, named=named)


_SIZES = ("embed_dim", "ffn_embed_dim", "layers", "attention_heads", "glu", "normalize_before")
_RATES = ("dropout", "attention_dropout", "activation_dropout", "input_dropout")


def _kernel_sizes(model: Any, side: str) -> list[int]:
    return [layer.self_conv.conv.kernel_size for layer in getattr(model, side).layers]


# ---- what is compared --------------------------------------------------------------------------


def loss_and_gradients(part: Part, sample: Sample) -> tuple[Tensor, Named]:
    """Return the loss per token and its gradients by our parameters' names, without dropout."""
    part.model.eval()
    with part.within():
        loss = part.criterion(part.model, sample)[0] / sample["ntokens"]
        names, parameters = zip(*part.model.named_parameters(), strict=True)
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
    part.model.train()
    used = {name: grad for name, grad in zip(names, found, strict=True) if grad is not None}
    return loss.detach(), part.named(used)


def adam_settings() -> FairseqAdamConfig:
    """Return the settings of IWSLT, which fairseq's Adam and ours share."""
    return FairseqAdamConfig(adam_betas="(0.9, 0.98)", weight_decay=1e-4, lr=[5e-4], tpu=False)


def step(part: Part, sample: Sample) -> Callable[[], None]:
    """Return what fairseq's trainer does with a batch."""
    model, criterion = part.model, part.criterion
    optimiser = part.adam(adam_settings(), [*model.parameters()])

    def run() -> None:
        with part.within():
            optimiser.zero_grad()
            optimiser.backward(criterion(model, sample)[0])
            optimiser.multiply_grads(1 / sample["ntokens"])
            optimiser.clip_grad_norm(CLIP_NORM)
            optimiser.step()

    return run
