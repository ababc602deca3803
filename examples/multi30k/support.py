"""How much of what a query sees has any weight, and how strongly its attention is trained.

    python examples/multi30k/support.py DATA_BIN CHECKPOINT...

prints, for the model as initialised and as trained, the share of visible keys with weight (layer by
layer), and the norm of the loss's gradient over query and key projections, for each kind of
attention. It is what the table's notes on sparse attention in README.md quote.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seqattn_fairseq.evaluation import attention_map
from seqattn_fairseq.transformer.model import SeqAttnModel

SITES = {"encoder_self": "encoder.", "decoder_self": ".self_attn.", "cross": ".encoder_attn."}


def share(weights_BHTS: Tensor, queries_BT: Tensor, keys_BS: Tensor, causal: bool) -> float:
    """Return the mean share of visible keys with weight, over queries that see at least two."""
    visible = keys_BS[:, None, None, :].expand_as(weights_BHTS)
    if causal:
        visible = visible.tril()
    seen = visible.sum(-1)
    kept = ((weights_BHTS > 0) & visible).sum(-1)
    counted = queries_BT[:, None].expand_as(seen) & (seen > 1)
    return float((kept[counted] / seen[counted]).mean())


def gradient_norm(model: torch.nn.Module, site: str) -> float:
    """Return the norm over the query and key projections of one kind of attention."""
    squares = [
        float(p.grad.norm() ** 2)
        for name, p in model.named_parameters()
        if p.grad is not None
        and name.endswith(("q_proj.weight", "k_proj.weight"))
        and SITES[site] in name
        and name.startswith("encoder") == (site == "encoder_self")
    ]
    return float(sum(squares) ** 0.5)


def report(model: SeqAttnModel, batch: dict[str, Any], padding: int) -> str:
    """Return one line on a batch."""
    source, target = (batch["net_input"][k] for k in ("src_tokens", "prev_output_tokens"))
    real = {"source": source.ne(padding), "target": target.ne(padding)}
    weights = model.attention_weights(source, None, target)
    model.eval().zero_grad()
    logits, _ = model(source, None, target)
    F.cross_entropy(logits.transpose(1, 2), batch["target"], ignore_index=padding).backward()
    parts = []
    for site in SITES:
        queries = real["source" if site == "encoder_self" else "target"]
        keys = real["target" if site == "decoder_self" else "source"]
        shares = [share(w, queries, keys, site == "decoder_self") for w in weights[site]]
        layers = "/".join(f"{value:.2f}" for value in shares)
        parts.append(f"{site} {layers} (gradient {gradient_norm(model, site):.3f})")
    return ", ".join(parts)


def main() -> None:
    """Print two lines a checkpoint."""
    data, *checkpoints = map(Path, sys.argv[1:])
    for path in checkpoints:
        trained, task = attention_map.load(path, data)
        task.load_dataset("valid")
        dataset = task.dataset("valid")
        batch = dataset.collater([dataset[i] for i in range(0, 400, 7)])
        torch.manual_seed(1)
        fresh = type(trained).build(trained.cfg, task.source_dictionary, task.target_dictionary)
        padding = task.source_dictionary.pad()
        for name, model in (("initial", fresh), ("trained", trained)):
            print(f"{path.parent.name} {name}: {report(model, batch, padding)}")


if __name__ == "__main__":
    main()
