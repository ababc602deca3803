"""``RUN/evaluation/SUBSET``: the translations of a test set as files, and what they came from.

hyp.txt             plain text, one line a sentence
hyp.tok.txt         the same as tokens, without subwords
ref.txt             plain references: the raw text of the test set, or detokenised tokens
ref.tok.txt         tokenised references
translations.jsonl  one object a sentence: id, source, tokens, text, reference, score
generation.json     checkpoint, data and options that made these files; written last

Everything is in corpus order, and as many lines come out as the test set has.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq.data import data_utils

from seqattn_fairseq.data.description import CorpusDescription, load_corpus_description
from seqattn_fairseq.data.files import (
    file_stamp,
    read_json_object,
    read_lines,
    subset_stamp,
    write_atomically,
    write_json,
)
from seqattn_fairseq.data.text_chain import TextChains
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.references import raw_reference
from seqattn_fairseq.evaluation.system import System
from seqattn_fairseq.evaluation.training import TrainingRecord
from seqattn_fairseq.evaluation.translation import Job, Sentence, translate

RECORD = "generation.json"
SCORES = "scores.json"
_TRANSLATIONS = "translations.jsonl"
BPE_KINDS = ("subword_nmt", "sentencepiece", "none")


@dataclass(frozen=True)
class Corpus:
    """What a data-bin tells about its text; ``chains`` and ``reference`` may be missing."""

    data_bin: Path
    remove_bpe: str
    chains: TextChains | None
    reference: list[str]

    @classmethod
    def of(cls, data_bin: Path, subset: str, remove_bpe: str | None = None) -> Corpus:
        """Read the description of a data-bin; ``remove_bpe`` overrides its kind of subwords.

        Raises:
            SeqAttnError: no such folder, or a file that the description names is missing.
        """
        if not data_bin.is_dir():
            raise SeqAttnError(
                f"{data_bin}: no such data-bin; give it with --data, or start where the path leads"
            )
        described = load_corpus_description(data_bin)
        kind = remove_bpe or _described_bpe(described)
        chain = described and described.text_chain
        chains = TextChains.load(data_bin / chain) if chain else None
        return cls(data_bin, kind, chains, raw_reference(data_bin, subset))

    def lowercased(self) -> bool:
        """Tell whether the target side was lower-cased."""
        return bool(self.chains and self.chains.target.lowercase)

    def plain(self, lines: Sequence[str], side: str = "target") -> list[str]:
        """Return plain text for tokens, which stay as they are where no text chain is known."""
        return (
            [getattr(self.chains, side).decode(line) for line in lines] if self.chains else [*lines]
        )


def _described_bpe(described: CorpusDescription | None) -> str:
    if described is None:
        return "subword_nmt"  # what papers use; it touches nothing but tokens that end in @@
    return described.bpe.kind if described.bpe else "none"


@dataclass(frozen=True)
class Generated:
    """The folder of a translated test set, and whether it had to be translated now."""

    folder: Path
    fresh: bool


def generate(
    training: TrainingRecord,
    job: Job,
    corpus: Corpus,
    folder: Path,
    processes: int = 1,
) -> Generated:
    """Translate a test set into ``folder``, unless the same was done before.

    Nothing in the folder changes before the last sentence is translated.

    Raises:
        SeqAttnError: model, data and dictionaries do not fit together.
    """
    identity = _identity(job, corpus)
    if _is_done(folder, identity):
        return Generated(folder, fresh=False)
    found = translate(job, processes)
    sentences = found.sentences
    record = {
        **identity,
        # no part of what decides whether it is done again
        "search_seconds": found.seconds,
        "hardware": hardware(job.cpu, processes),
        "pair": _pair(training, corpus.data_bin),
        "n": len(sentences),
        "lowercased": corpus.lowercased(),
        "reference": _kind_of_reference(corpus, sentences),
        "training": training.to_dict(),
    }
    _write(folder, corpus, sentences, record)
    return Generated(folder, fresh=True)


def hardware(cpu: bool, processes: int = 1) -> str:
    """Return what translates, in words; ``cpu`` stays off the GPU."""
    if torch.cuda.is_available() and not cpu:
        count = min(processes, torch.cuda.device_count())
        return f"{count} x {torch.cuda.get_device_name()}"
    threads = processes * torch.get_num_threads()
    return f"{platform.machine()} CPU, {threads} thread{'s' if threads > 1 else ''}"


def _pair(training: TrainingRecord, data_bin: Path) -> str:
    """Return the languages as sacreBLEU writes them: ``en-de``."""
    languages = [training.options.get(f"task.{side}_lang") for side in ("source", "target")]
    if None in languages:  # not named in the training: what fairseq infers from file names
        languages = list(data_utils.infer_language_pair(str(data_bin)))
    return "-".join(map(str, languages))


def _identity(job: Job, corpus: Corpus) -> dict[str, Any]:
    """Return what decides about the translations, with digests of all files that matter."""
    return {
        "checkpoint": file_stamp(job.checkpoint),
        "subset": job.subset,
        "data": {
            **subset_stamp(corpus.data_bin, job.subset),
            "raw reference": digest(corpus.reference),
        },
        "text_chain": corpus.chains.to_dict() if corpus.chains else None,
        "search": asdict(job.search),
        "remove_bpe": job.remove_bpe,
    }


def digest(lines: Iterable[str]) -> str:
    """Return the SHA-256 (hexadecimal) of lines of text."""
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def _is_done(folder: Path, identity: dict[str, Any]) -> bool:
    record = read_record(folder)
    same = all(record.get(key) == value for key, value in identity.items())
    return same and all((folder / name).is_file() for name in ("hyp.txt", _TRANSLATIONS))


def read_record(folder: Path) -> dict[str, Any]:
    """Return ``generation.json`` of a folder, or an empty dictionary when it is not complete."""
    return read_json_object(folder / RECORD)


def _kind_of_reference(corpus: Corpus, sentences: Sequence[Sentence]) -> str:
    if corpus.reference:
        if len(corpus.reference) != len(sentences):
            raise SeqAttnError(
                f"{corpus.data_bin}: the raw reference has {len(corpus.reference)} lines, the test "
                f"set {len(sentences)}; prepare the corpus again"
            )
        return "raw"
    if all(sentence.target is None for sentence in sentences):
        return "none"
    return "own" if corpus.chains else "tokens"


def _write(
    folder: Path, corpus: Corpus, sentences: Sequence[Sentence], record: dict[str, Any]
) -> None:
    """Write all files; without its record, which goes first and comes last, a folder is void."""
    for name in (RECORD, SCORES):
        (folder / name).unlink(missing_ok=True)
    tokens = [sentence.hypothesis for sentence in sentences]
    targets = [sentence.target or "" for sentence in sentences]
    text, sources = corpus.plain(tokens), corpus.plain([s.source for s in sentences], "source")
    references = corpus.reference or corpus.plain(targets)
    files = {"hyp.txt": text, "hyp.tok.txt": tokens}
    if record["reference"] != "none":
        files |= {"ref.txt": references, "ref.tok.txt": targets}
    for name, lines in files.items():
        _write_lines(folder / name, lines)
    rows = zip(sentences, sources, text, references, strict=True)
    objects = (
        {
            "id": sentence.ident,
            "source": source,
            "tokens": sentence.hypothesis,
            "text": line,
            "reference": reference if record["reference"] != "none" else None,
            "score": sentence.score,
        }
        for sentence, source, line, reference in rows
    )
    _write_lines(folder / _TRANSLATIONS, (json.dumps(row, ensure_ascii=False) for row in objects))
    write_json(folder / RECORD, record)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with write_atomically(path) as stream:
        stream.writelines(f"{line}\n" for line in lines)


def load_system(folder: Path, name: str) -> System:
    """Read what :func:`generate` wrote.

    Raises:
        SeqAttnError: there is nothing complete.
    """
    record = read_record(folder)
    if not record:
        raise SeqAttnError(
            f"{folder}: no complete translation ({RECORD}); run seqattn generate first"
        )
    there = record["reference"]

    def lines(file: str, wanted: bool = True) -> list[str]:
        return list(read_lines(folder / file)) if wanted else []

    return System(
        name=name,
        tokens=lines("hyp.tok.txt"),
        token_references=lines("ref.tok.txt", there != "none"),
        text=lines("hyp.txt"),
        # tokens that cannot be detokenised are no plain text
        references=lines("ref.txt", there in ("raw", "own")),
        sources=[json.loads(line)["source"] for line in read_lines(folder / _TRANSLATIONS)],
        own_reference=there == "own",
        lowercased=bool(record["lowercased"]),
    )
