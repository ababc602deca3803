"""Draw the cross-attention of one sentence as a PNG.

  seqattn attention --checkpoint CKPT --data DATA_BIN --sentence 7 -o map.png
  seqattn attention --checkpoint CKPT --data DATA_BIN --text "Das Haus ist alt." -o map.png

A sentence of the corpus is shown with its reference (or, with --decode, with the translation of
the model), a text with its translation. Weights are drawn as they are: those of rectified
attention do not sum to one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from fairseq.data import encoders
from torch import Tensor

from seqattn_fairseq.data.description import load_corpus_description
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation import attention_map


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``seqattn attention``."""
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE")
    parser.add_argument("--data", type=Path, required=True, metavar="DATA_BIN")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--sentence", type=int, metavar="N", help="sentence of the subset, from 0")
    what.add_argument("--text", help="a raw sentence (needs DATA_BIN/corpus.json)")
    parser.add_argument("--subset", default="test", help="binarised subset (default: test)")
    parser.add_argument("--decode", action="store_true", help="the model's translation as target")
    parser.add_argument("--layer", type=int, metavar="L", help="from 1 (default: the last)")
    parser.add_argument("--head", type=int, metavar="H", help="from 1 (default: mean of the heads)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PNG")


def _encode(task: Any, data_bin: Path, text: str) -> Tensor:
    """Return the ids of a raw sentence, segmented as the corpus was."""
    description = load_corpus_description(data_bin)
    if description is None:
        raise SeqAttnError(
            f"{data_bin}: has no corpus.json, which says how text becomes tokens; "
            "use --sentence N instead of --text"
        )
    if not text.strip():
        raise SeqAttnError("--text is empty; give a sentence")
    arguments = description.fairseq_arguments(data_bin)
    options = argparse.Namespace(**{"tokenizer": None, "bpe": None, **arguments})
    for encoder in (encoders.build_tokenizer(options), encoders.build_bpe(options)):
        text = encoder.encode(text) if encoder else text
    ids: Tensor = task.source_dictionary.encode_line(text, add_if_not_exist=False).long()
    return ids


def run(args: argparse.Namespace) -> int:
    """Load the model, choose source and target, draw."""
    model, task = attention_map.load(args.checkpoint, args.data)
    if args.text is not None:
        source = _encode(task, args.data, args.text)
        target = attention_map.translate(model, task, source)
    else:
        source, target = attention_map.corpus_sentence(task, args.subset, args.sentence)
        if args.decode:
            target = attention_map.translate(model, task, source)
    with torch.inference_mode():
        weights = attention_map.cross_attention(model, task, source, target, args.layer, args.head)
    attention_map.draw(weights, args.output)
    print(f"{args.output}: cross-attention, {weights.title}")
    return 0
