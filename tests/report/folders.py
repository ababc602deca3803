"""Run folders that nobody trained: logs, translations and analyses written by hand."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

REFERENCES = [
    "Ein Mann fährt auf einem roten Rad.",
    "Zwei Hunde laufen durch den tiefen Schnee.",
    "Die Frau trägt einen großen blauen Hut.",
    "Kinder spielen am Strand mit einem Ball.",
]
SOURCES = [
    "A man rides a red bike.",
    "Two dogs run through the deep snow.",
    "The woman wears a big blue hat.",
    "Children play on the beach with a ball.",
]
CHECKPOINT = {"file": "checkpoint_best.pt", "sha256": "1" * 64}


def write(path: Path, text: str) -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, value: Mapping[str, Any]) -> Path:
    """Write a JSON file."""
    return write(path, json.dumps(value))


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def translated(
    run: Path,
    hypotheses: Sequence[str],
    references: Sequence[str] = REFERENCES,
    sources: Sequence[str] = SOURCES,
    subset: str = "test",
    **record: Any,
) -> Path:
    """Write what ``seqattn generate`` leaves; ``record`` replaces fields of generation.json."""
    folder = run / "evaluation" / subset
    for side, lines in {"hyp": hypotheses, "ref": references}.items():
        write(folder / f"{side}.txt", _lines(lines))
        write(folder / f"{side}.tok.txt", _lines(line.replace(".", " .") for line in lines))
    rows = [{"id": number, "source": source} for number, source in enumerate(sources)]
    write(folder / "translations.jsonl", _lines(json.dumps(row) for row in rows))
    values = {
        "checkpoint": CHECKPOINT,
        "subset": subset,
        "data": {},
        "search": {"beam": 5, "length_penalty": 1.0},
        "remove_bpe": "none",
        "pair": "en-de",
        "n": len(hypotheses),
        "lowercased": False,
        "reference": "raw",
        "training": {"options": {"model._name": "seqattn_rela_g_tiny"}, "seed": 1},
    }
    write_json(folder / "generation.json", values | record)
    return run


def rates(**values: float | None) -> dict[str, float | None]:
    """Return the fields of ``Rates``, 0.25 each where nothing else is said."""
    names = ("sparsity", "null", "entropy", "diversity", "diversity_share", "dense_diversity")
    return dict.fromkeys(names, 0.25) | values


def analysed(run: Path, subset: str = "test", made_from: Mapping[str, Any] | None = None) -> Path:
    """Write what ``seqattn analyse`` leaves: a layer of two heads, two kinds of attention."""
    folder = run / "analysis" / subset
    stamp = {"made_from": made_from or {"checkpoint": CHECKPOINT}}
    layer = {"all": rates(diversity=0.5), "heads": [rates(sparsity=0.75), rates(entropy=None)]}
    sites = {site: {"all": rates(), "layers": [layer]} for site in ("encoder_self", "cross")}
    write_json(folder / "attention.json", {**stamp, "sites": sites})
    errors = [{"aer": 0.5}, {"aer": 0.25}, {"aer": None}]
    kinds = {kind: {"heads": errors, "mean": {"aer": 0.4}} for kind in ("normal", "shifted")}
    write_json(folder / "alignment.json", {**stamp, "layers": [kinds]})
    repetition = {"hypothesis": {"rep4": 0.1}, "reference": {"rep4": 0.05}}
    bins = [
        {"from": 0, "to": 5, "sentences": 3, "bleu": 20.0, "length_ratio": 1.5},
        {"from": 6, "to": None, "sentences": 1, "bleu": 10.0, "length_ratio": None},
    ]
    texts = {**stamp, "lengths": bins, "length_ratio": 0.9, "repetition": repetition}
    write_json(folder / "text.json", texts)
    row = {"k": 2, "source_tokens": 20.5, "bleu": 9.0, "tokens_per_second": 100.0}
    rows = [{**row, "peak_memory_mib": None}]
    write_json(folder / "generalisation.json", {**stamp, "rows": rows})
    return run


def mapped(run: Path, sentences: Sequence[int], subset: str = "test") -> Path:
    """Write maps of some sentences: two heads, two targets, three sources, weights 0 to 11."""
    folder = run / "analysis" / subset
    write_json(folder / "maps.json", {"made_from": {"checkpoint": CHECKPOINT}, "ids": [*sentences]})
    one = {
        "source": ["a", "b", "</s>"],
        "target": ["x", "</s>"],
        "shape": [1, 2, 2, 3],
        "scale": 0.5,
        "weights": base64.b64encode(bytes(range(12))).decode(),
    }
    with gzip.open(folder / "maps.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.write(_lines(json.dumps({"id": number, **one}) for number in sentences))
    return run


# ---- logs --------------------------------------------------------------------------------------


def inner(update: int, loss: float | str = 5.0, more: str = "", wps: float = 1000) -> str:
    """Return a line of ``--log-format simple`` with Hydra's prefix."""
    return (
        f"[2026-11-20 09:33:57,513][train_inner][INFO] - epoch 005:      4 / 199 loss={loss}, "
        f"nll_loss=4.782, ppl=27.5, wps={wps}, ups=1.03, wpb=2186.4, num_updates={update}, "
        f"lr=0.0015, gnorm=0.7, train_wall=44, wall={2 * update}{more}\n"
    )


def valid(update: int, loss: float = 4.0, subset: str = "valid") -> str:
    """Return a validation's line of ``--log-format simple``."""
    return (
        f"2026-11-20 09:33:57 | INFO | {subset} | epoch 005 | valid on '{subset}' subset | "
        f"loss {loss} | ppl 17.17 | bleu 30.5 | attn_cross_sparsity 0.25 | wps 3083 | "
        f"num_updates {update} | best_loss 3.9\n"
    )


def loaded(update: int) -> str:
    """Return what a resumed training says of its checkpoint."""
    return (
        "[2026-11-20 09:33:53,631][fairseq.trainer][INFO] - Loaded checkpoint "
        f"/run/checkpoint_last.pt (epoch 4 @ {update} updates)\n"
    )
