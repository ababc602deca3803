"""``maps.jsonl.gz``: the cross-attention of some sentences, all layers and heads, in few bytes.

Shapes: L layers, H heads, T target positions, S source positions.
"""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from seqattn_fairseq.analysis.record import Made, made
from seqattn_fairseq.analysis.subject import Loaded, Pair, Pairs, Subject
from seqattn_fairseq.data.files import partial_path, read_json_object, read_lines
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.pipeline import FOLDER as EVALUATION
from seqattn_fairseq.evaluation.translation import Search, generation
from seqattn_fairseq.transformer.attention import AttentionLog, Site

FILE = "maps.jsonl.gz"
RECORD = "maps.json"  # what they were made from; written last
DEFAULT, MOST = 20, 50
LONGEST = 60  # source pieces of a sentence that is chosen by itself
_LEVELS = 255


class Quantised(NamedTuple):
    """Weights as bytes: a weight is ``byte / 255 * scale``."""

    scale: float
    values: bytes


def choose(source_lengths: Sequence[int], count: int) -> list[int]:
    """Return the numbers of up to ``count`` sentences, spread evenly over the set.

    Empty sentences and those of more than ``LONGEST`` pieces are passed over. Nothing but the
    lengths of the sources has a part in the choice, so that all runs choose the same.

    Args:
        source_lengths: pieces of every source, eos included.
        count: how many.
    """
    fit = [n for n, length in enumerate(source_lengths) if 2 <= length <= LONGEST + 1]
    count = min(count, len(fit))
    return [fit[(2 * place + 1) * len(fit) // (2 * count)] for place in range(count)]


def quantise(weights: Tensor) -> Quantised:
    """Return magnitudes in 255 steps of the largest one."""
    weights = weights.abs().float()
    scale = float(weights.max()) if weights.numel() else 0.0
    steps = weights * (_LEVELS / scale) if scale else weights
    return Quantised(scale, steps.round().to(torch.uint8).cpu().numpy().tobytes())


def check_count(wanted: int) -> None:
    """Check that attention can be kept of so many sentences.

    Raises:
        SeqAttnError: it cannot.
    """
    if not 1 <= wanted <= MOST:
        raise SeqAttnError(f"{wanted} sentences: attention is kept of 1 to {MOST}; choose others")


def analyse_maps(
    subject: Subject, sentences: Sequence[int] | None = None, count: int = DEFAULT
) -> Made:
    """Write the cross-attention of some sentences, unless the same is there; return its record.

    The targets are what the model translates, searched for as in the run's evaluation, else the
    references; ``differing`` lists the sentences whose translations are not those that the
    evaluation wrote.

    Args:
        subject: what is analysed.
        sentences: their numbers, from 0; None: chosen by :func:`choose`.
        count: how many are chosen.

    Raises:
        SeqAttnError: too many, no such sentence, a sentence longer than the model's positions, or
            a model without cross-attention.
    """
    check_count(count if sentences is None else len(sentences))
    record, path = subject.folder / RECORD, subject.folder / FILE
    search = subject.evaluation.get("search")
    made_from = {
        **subject.stamp,
        "subset": subject.subset,
        "sentences": count if sentences is None else list(sentences),
        "chosen": sentences is None,
        "search": search,
    }
    if not path.is_file():
        record.unlink(missing_ok=True)
    return made(record, made_from, lambda: _write_maps(subject, sentences, count, search))


def _write_maps(
    subject: Subject, sentences: Sequence[int] | None, count: int, search: dict[str, Any] | None
) -> dict[str, Any]:
    loaded, pairs = subject.loaded, subject.pairs()
    fitting = set(loaded.fitting(pairs))
    if sentences is None:
        numbers = [n for n in choose([s for s, _ in pairs.lengths], count) if n in fitting]
    else:
        numbers = sorted(set(sentences))
        _check(numbers, pairs, fitting)
    (subject.folder / RECORD).unlink(missing_ok=True)
    chosen = {number: pairs.read(number) for number in numbers}
    differing: list[int] = []
    if search:
        chosen = _translated(loaded, chosen, Search(**search))
        differing = _differing(subject, chosen)
    shown = tqdm(chosen.items(), desc=f"attention maps of {subject.subset}", unit="line")
    _write(subject.folder / FILE, (_map(loaded, number, pair) for number, pair in shown))
    target = "hypothesis" if search else "reference"
    return {
        "subset": subject.subset,
        "ids": numbers,
        "target": target,
        "differing": differing,
    }


def _check(numbers: Sequence[int], pairs: Pairs, fitting: set[int]) -> None:
    for number in numbers:
        if not 0 <= number < len(pairs.lengths):
            raise SeqAttnError(
                f"--sentences {number}: {pairs.name} has {len(pairs.lengths):,} sentences, "
                "counted from 0"
            )
        if number not in fitting:
            raise SeqAttnError(
                f"--sentences {number}: longer than the model's positions; choose another"
            )


def _translated(loaded: Loaded, chosen: dict[int, Pair], search: Search) -> dict[int, Pair]:
    """Return the pairs with the system's own translations as targets."""
    sources = list(chosen.values())
    batch = loaded.collate(list(chosen), sources)
    pad = loaded.task.source_dictionary.pad()
    lengths = batch.source.ne(pad).sum(dim=1)
    sample = {"net_input": {"src_tokens": batch.source, "src_lengths": lengths}}
    generator = loaded.task.build_generator([loaded.model], generation(search))
    found = loaded.task.inference_step(generator, [loaded.model], sample)
    return {
        number: Pair(pair.source, hypotheses[0]["tokens"].cpu())
        for (number, pair), hypotheses in zip(chosen.items(), found, strict=True)
    }


def _differing(subject: Subject, chosen: dict[int, Pair]) -> list[int]:
    """Return the sentences whose translations are not, word for word, those of the evaluation.

    Another device, precision or batch may tip a search where two hypotheses are all but equal.
    """
    written = list(read_lines(subject.run / EVALUATION / subject.subset / "hyp.tok.txt"))
    dictionary, kind = subject.loaded.task.target_dictionary, subject.evaluation["remove_bpe"]
    return [
        number
        for number, pair in chosen.items()
        if dictionary.string(pair.target.tolist(), kind) != written[number]
    ]


class _CrossLog(AttentionLog):
    """Keeps the cross-attention of one sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Tensor] = []

    def add(self, site: Site, weights_BHTS: Tensor, reach: Tensor | None = None) -> None:
        """See :class:`AttentionLog`."""
        if site is Site.CROSS:
            self.layers.append(weights_BHTS[0].cpu())


def cross_weights(loaded: Loaded, pair: Pair) -> Tensor:
    """Return the (L, H, T, S) cross-attention of one pair.

    Raises:
        SeqAttnError: the model has none.
    """
    log = _CrossLog()
    loaded.show(loaded.collate([0], [pair]), log)
    if not log.layers:
        raise no_cross_attention(loaded)
    return torch.stack(log.layers)


def no_cross_attention(loaded: Loaded) -> SeqAttnError:
    """Return the error of an analysis that needs what the model lacks."""
    return SeqAttnError(
        f"{loaded.model.seqattn_variant}: the model tells no cross-attention, which maps and "
        "alignments show; leave these out with --only"
    )


def _map(loaded: Loaded, number: int, pair: Pair) -> dict[str, Any]:
    weights = cross_weights(loaded, pair)
    scale, values = quantise(weights)
    task = loaded.task
    return {
        "id": number,
        "source": [task.source_dictionary[int(token)] for token in pair.source],
        "target": [task.target_dictionary[int(token)] for token in pair.target],
        "shape": list(weights.shape),
        "scale": scale,
        "weights": base64.b64encode(values).decode("ascii"),
    }


def _write(path: Path, maps: Iterable[dict[str, Any]]) -> None:
    """Write one object a line, atomically; the same maps make the same bytes."""
    lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in maps)
    content = gzip.compress("".join(lines).encode(), mtime=0)  # a few megabytes
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_maps(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the maps in an analysis' folder; none where they are not complete.

    Raises:
        SeqAttnError: the file is damaged.
    """
    path = folder / FILE
    if not (read_json_object(folder / RECORD) and path.is_file()):
        return
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            for line in stream:
                yield json.loads(line)
    except (EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise SeqAttnError(
            f"{path}: damaged or cut short ({error}); delete it and run seqattn analyse again"
        ) from None
