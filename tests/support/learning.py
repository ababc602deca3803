"""Train a model on copying or reversing, and score what fairseq's beam search makes of it."""

from __future__ import annotations

import sacrebleu
import torch
from fairseq.models import FairseqEncoderDecoderModel
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor
from torch.nn import functional as F

from tests.support.models import EOS, PAD

SYMBOLS, BATCH = range(4, 23), 64


def _batch(generator: torch.Generator, reverse: bool) -> tuple[Tensor, Tensor]:
    length = int(torch.randint(3, 9, (1,), generator=generator))
    words = torch.randint(SYMBOLS.start, SYMBOLS.stop, (BATCH, length), generator=generator)
    eos = torch.full((BATCH, 1), EOS)
    target = words.flip(1) if reverse else words
    return torch.cat([words, eos], 1), torch.cat([target, eos], 1)


def _train(model: FairseqEncoderDecoderModel, reverse: bool, updates: int) -> None:
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, updates)
    model.train()
    for _ in range(updates):
        source, target = _batch(generator, reverse)
        start = target.roll(1, dims=1)
        logits, _ = model(source, None, start)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _text(tokens: Tensor) -> str:
    return " ".join(str(int(t)) for t in tokens if t not in (EOS, PAD))


def learn_and_score(model: FairseqEncoderDecoderModel, reverse: bool, updates: int = 400) -> float:
    """Return the BLEU on unseen sequences after ``updates`` steps."""
    torch.manual_seed(1)
    _train(model, reverse, updates)
    model.eval()
    search = SequenceGenerator([model], model.decoder.dictionary, beam_size=2, max_len_b=12)
    generator = torch.Generator().manual_seed(99)
    outputs, references = [], []
    for _ in range(3):
        source, target = _batch(generator, reverse)
        sample = {"net_input": {"src_tokens": source, "src_lengths": source.ne(PAD).sum(1)}}
        found = search.generate([model], sample)
        outputs += [_text(hypotheses[0]["tokens"]) for hypotheses in found]
        references += [_text(row) for row in target]
    score = sacrebleu.corpus_bleu(outputs, [references], tokenize="none", force=True)
    return float(score.score)
