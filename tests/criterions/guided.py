"""Pairs whose word alignment is known, batches of them, and the alignment error of a model."""

from __future__ import annotations

from typing import Any

import torch
from fairseq.data import Dictionary, LanguagePairDataset, ListDataset
from torch import Tensor

from seqattn_fairseq.transformer.model import SeqAttnModel
from tests.criterions.support import criterion
from tests.support.models import EOS, PAD, toy_dictionary

WORDS = range(4, 14)


def dictionary() -> Dictionary:
    return toy_dictionary(WORDS.stop)


def pair_dataset(sides: list[list[Tensor]], links: list[Tensor], **options: Any) -> Any:
    """Return fairseq's dataset of token rows and (K, 2) links between their positions."""
    sizes = [[len(row) for row in rows] for rows in sides]
    symbols = dictionary()
    return LanguagePairDataset(
        ListDataset(sides[0]), sizes[0], symbols, ListDataset(sides[1]), sizes[1], symbols,
        align_dataset=ListDataset(links), **options,
    )  # fmt: skip


def known_pairs(count: int, seed: int, reverse: bool = False) -> Any:
    """Return pairs whose target is the source, or its reverse, every word aligned with itself."""
    generator = torch.Generator().manual_seed(seed)
    sources, targets, links = [], [], []
    for _ in range(count):
        length = int(torch.randint(3, 8, (1,), generator=generator))
        words = torch.randperm(len(WORDS), generator=generator)[:length] + WORDS.start
        positions = torch.arange(length)
        order = positions.flip(0) if reverse else positions
        sources.append(torch.cat([words, torch.tensor([EOS])]))
        targets.append(torch.cat([words[order], torch.tensor([EOS])]))
        links.append(torch.stack([order, positions], dim=1))
    return pair_dataset([sources, targets], links)


def batches(pairs: Any, size: int = 64) -> list[dict[str, Any]]:
    """Return all pairs in fairseq's batches."""
    order = pairs.ordered_indices()
    starts = range(0, len(order), size)
    return [pairs.collater([pairs[int(i)] for i in order[at : at + size]]) for at in starts]


def train(model: SeqAttnModel, updates: int, reverse: bool = False, **options: Any) -> None:
    """Train with guided alignment of the first head of the last layer but one."""
    loss_of = criterion("seqattn_alignment", dictionary(), label_smoothing=0.1, **options)
    pairs = known_pairs(640, seed=1, reverse=reverse)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3 if reverse else 1e-2)
    model.train()
    done = 0
    while done < updates:
        for sample in batches(pairs)[: updates - done]:
            loss, size, _ = loss_of(model, sample)
            optimizer.zero_grad()
            (loss / size).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            done += 1


def alignment_error(model: SeqAttnModel, layer: int = 0, reverse: bool = False) -> float:
    """Return the AER of a layer's first head on unseen pairs, all of whose links are sure.

    A row links its target word to the source word of largest weight; a null row links none.
    """
    right = linked = wanted = 0
    model.eval()
    for sample in batches(known_pairs(64, seed=2, reverse=reverse)):
        found = model.attention_weights(**sample["net_input"])["cross"][layer][:, 0]
        source = sample["net_input"]["src_tokens"]
        words = source.ne(PAD) & source.ne(EOS)
        gold = sample["alignments"]
        rows = found.masked_fill(~words[:, None], 0.0).flatten(0, 1)[gold[:, 1]]
        full = rows.sum(dim=1) > 0
        right += int((rows.argmax(dim=1).eq(gold[:, 0]) & full).sum())
        linked, wanted = linked + int(full.sum()), wanted + len(gold)
    return 1 - 2 * right / (linked + wanted)
