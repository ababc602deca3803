"""Reports that nobody measured: plausible figures from a seed, as large as a test needs."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from seqattn_fairseq.report.data import (
    Agreement,
    AlignmentRow,
    AttentionMap,
    Curve,
    HeatMaps,
    LengthBin,
    LengthRow,
    Report,
    Run,
    ScoreCell,
)

VARIANTS = ("softmax", "rela_g", "topk", "entmax15", "luna")
SIGNATURES = {
    "bleu": "nrefs:1|case:lc|eff:no|tok:none|smooth:none|version:2.6.0",
    "sacrebleu": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0",
    "chrf": "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0",
    "ter": "nrefs:1|case:lc|tok:tercom|norm:no|punct:yes|asian:no|version:2.6.0",
}
NAMES = {
    "bleu": "BLEU, tokenised",
    "sacrebleu": "sacreBLEU",
    "chrf": "chrF2",
    "ter": "TER",
}
LEVELS = {"bleu": 38.0, "sacrebleu": 37.1, "chrf": 61.0, "ter": 44.0}
WORDS = (
    "ein hund zwei männer frau läuft springt über den zaun im schnee rote jacke auf der straße "
    "kinder spielen ball am strand mit einem großen braunen pferd und schaut nach oben während "
    "menschen sitzen an tischen vor gebäude steht junge mädchen trägt blaues hemd fährt fahrrad"
).split()


def rich(runs: int = 5, sentences: int = 200, maps: int = 4, seed: int = 1) -> Report:
    """A report in which everything is there."""
    chance = random.Random(seed)
    references = [_sentence(chance) for _ in range(sentences)]
    sources = [" ".join(word[::-1] for word in line.split()) for line in references]
    outputs = [_outputs(references, 0.15 + 0.3 * chance.random(), chance) for _ in range(runs)]
    return Report(
        title="Attention variants on a made-up corpus",
        made="2026-11-20 15:30",
        version="0.1.0",
        subset="test",
        pair="en-de",
        baseline=0,
        runs=[_run(index, chance) for index in range(runs)],
        agreement=[
            Agreement("sacreBLEU of one against the other", _matrix(runs, chance)),
            Agreement("sentences with the same output (%)", _matrix(runs, chance)),
        ],
        sources=sources,
        references=references,
        hypotheses=outputs,
        maps={
            sentence: [_map(run, sources[sentence], outputs[run][sentence]) for run in range(runs)]
            for sentence in range(0, min(3 * maps, sentences), 3)
        },
        notes=[],
    )


def bare(runs: int = 1, sentences: int = 0, text: str = "") -> Report:
    """A report of runs about which nothing is known."""
    return Report(
        title="Nothing measured yet",
        made="2026-11-20 15:30",
        version="0.1.0",
        subset="test",
        pair="en-de",
        baseline=0,
        runs=[_bare_run(f"run{index}") for index in range(runs)],
        agreement=[],
        sources=[text] * sentences,
        references=[text] * sentences,
        hypotheses=[[text] * sentences for _ in range(runs)],
        maps={},
        notes=["no attention statistics: seqattn analyse RUN"],
    )


def _bare_run(name: str) -> Run:
    return Run(
        name=name,
        variant="softmax",
        folder=f"runs/{name}",
        parameters=None,
        updates=None,
        tokens_per_second=None,
        train_hours=None,
        train_memory_mib=None,
        decode_sentences_per_second=None,
        hardware=None,
        scores=[],
        curves=[],
        attention=[],
        lengths=[],
        alignment=[],
        generalisation=[],
        length_ratio=None,
        repetition=None,
        notes=[f"no scores: seqattn evaluate runs/{name}"],
    )


def _sentence(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(4, 28))) + " ."


def _outputs(references: Sequence[str], noise: float, chance: random.Random) -> list[str]:
    return [_changed(line, noise, chance) for line in references]


def _changed(line: str, noise: float, chance: random.Random) -> str:
    words = line.split()
    for _ in range(round(noise * len(words))):
        place = int(chance.random() * len(words))
        kind = chance.random()
        if kind < 0.5:
            words[place] = WORDS[int(chance.random() * len(WORDS))]
        elif kind < 0.75:
            words.insert(place, WORDS[int(chance.random() * len(WORDS))])
        elif len(words) > 1:
            del words[place]
    return " ".join(words)


def _run(index: int, chance: random.Random) -> Run:
    variant = VARIANTS[index % len(VARIANTS)]
    name = variant if index < len(VARIANTS) else f"{variant}/seed{index // len(VARIANTS) + 1}"
    better = 0.0 if index == 0 else chance.uniform(-1.5, 2.5)
    return Run(
        name=name,
        variant=variant,
        folder=f"runs/toy_en_de/{name}/seed1",
        parameters=36_500_000 + 131_072 * index,
        updates=8_000 + 500 * index,
        tokens_per_second=chance.uniform(9_000, 21_000),
        train_hours=chance.uniform(0.4, 2.5),
        train_memory_mib=chance.uniform(2_000, 9_000),
        decode_sentences_per_second=chance.uniform(90, 420),
        hardware="one GPU of 80 GB",
        scores=[_score(key, index, better, chance) for key in NAMES],
        curves=_curves(better, chance),
        attention=[_heat_maps(site, variant, chance) for site in _sites(variant)],
        lengths=_lengths(better, chance),
        alignment=_alignment(chance),
        generalisation=_generalisation(better, chance),
        length_ratio=chance.uniform(0.94, 1.04),
        repetition=_repetition(chance),
        notes=[],
    )


def _repetition(chance: random.Random) -> dict[str, float]:
    names = [*(f"rep{n}" for n in range(1, 5)), "loops"]
    found = {name: chance.uniform(0.001, 0.1) for name in names}
    return found | {f"reference {name}": 0.02 for name in names}


def _sites(variant: str) -> tuple[str, ...]:
    return ("encoder_self", "decoder_self", "cross") if variant != "luna" else ("cross",)


def _score(key: str, index: int, better: float, chance: random.Random) -> ScoreCell:
    value = LEVELS[key] + (-better if key == "ter" else better)
    p_value = None if index == 0 else min(1.0, math.exp(-2.2 * abs(better)) * chance.random() * 2)
    return ScoreCell(
        key, NAMES[key], value, SIGNATURES[key], value + chance.gauss(0, 0.05), 0.9, p_value
    )


def _curves(better: float, chance: random.Random) -> list[Curve]:
    x = [100.0 * step for step in range(1, 81)]
    loss = [2.1 - better / 20 + 9 * math.exp(-step / 900) + chance.gauss(0, 0.04) for step in x]
    rate = [0.005 * min(step / 2_000, math.sqrt(2_000 / step)) for step in x]
    return [
        Curve("train loss", x, loss),
        Curve("valid loss", x[::4], [value + 0.2 + 0.05 * chance.random() for value in loss[::4]]),
        Curve("valid ppl", x[::4], [2 ** (value + 0.2) for value in loss[::4]]),
        Curve("learning rate", x, rate),
    ]


def _heat_maps(site: str, variant: str, chance: random.Random) -> HeatMaps:
    layers, heads = 6, 4 if variant == "softmax" else 8
    sparse = variant in ("rela_g", "topk", "entmax15")

    def table(low: float, high: float, columns: int = heads) -> list[list[float | None]]:
        return [[chance.uniform(low, high) for _ in range(columns)] for _ in range(layers)]

    values = {
        "sparsity": table(0.4, 0.98) if sparse else table(0.0, 0.0),
        "null": table(0.0, 0.3) if variant == "rela_g" else table(0.0, 0.0),
        "entropy": table(0.2, 2.4),
        "diversity": table(0.1, 1.2, columns=1),
    }
    values["entropy"][0][0] = None
    return HeatMaps(site, layers, heads, values)


def _lengths(better: float, chance: random.Random) -> list[LengthBin]:
    counts = (1480, 961, 438, 215, 94, 42, 11, 6, 2)
    labels = ("0-5", "6-10", "11-15", "16-20", "21-30", "31-40", "41-50", "51-60", "61+")
    bins = list(zip(labels, counts, strict=True))
    return [
        LengthBin(label, count, 39 + better - 2 * place + chance.gauss(0, 0.8), 0.98)
        for place, (label, count) in enumerate(bins)
    ]


def _alignment(chance: random.Random) -> list[AlignmentRow]:
    return [
        AlignmentRow(
            layer, kind, chance.randint(1, 8), best := chance.uniform(0.25, 0.8), best + 0.08
        )
        for layer in range(1, 7)
        for kind in ("normal", "shifted")
    ]


def _generalisation(better: float, chance: random.Random) -> list[LengthRow]:
    return [
        LengthRow(
            k,
            14.0 * k,
            38 + better - 5 * math.log2(k),
            5_000 / k**0.4,
            chance.uniform(300, 900) * k,
        )
        for k in (1, 2, 4, 8, 16)
    ]


def _matrix(runs: int, chance: random.Random) -> list[list[float | None]]:
    return [
        [100.0 if row == column else chance.uniform(40, 70) for column in range(runs)]
        for row in range(runs)
    ]


def _map(run: int, source: str, target: str) -> AttentionMap:
    pieces, outputs = [*source.split(), "</s>"], [*target.split(), "</s>"]
    layers, heads = 3, 4
    weights = bytearray()
    for index in range(layers * heads):
        for row in range(len(outputs)):
            centre = row * len(pieces) / len(outputs)
            weights += bytes(
                int(255 * max(0.0, 1 - abs(column - centre) / (1 + index / 3)))
                for column in range(len(pieces))
            )
    shape = (layers, heads, len(outputs), len(pieces))
    return AttentionMap(run, pieces, outputs, shape, 0.9, bytes(weights))
