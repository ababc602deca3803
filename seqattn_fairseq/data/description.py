"""``corpus.json``: what lies beside the dictionaries of a data-bin, for export and raw text.

The file, in a folder that also holds the files it names::

    {"source_lang": "en", "target_lang": "de",
     "bpe": {"kind": "subword_nmt", "file": "bpe.codes"},
     "text_chain": "text_chain.json",
     "references": {"test": {"file": "reference.test.de", "sacrebleu": "wmt14/full"}}}

``kind`` is fairseq's ``--bpe`` name. ``bpe`` and ``text_chain`` are null when the corpus has none.
``references`` lists the splits whose raw target text is known: a file of the data-bin (untokenised,
cased, one sentence a line) and sacreBLEU's name of the test set, each of them or null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seqattn_fairseq.data.files import write_atomically
from seqattn_fairseq.errors import SeqAttnError

CORPUS_FILE = "corpus.json"

# fairseq's --bpe name -> its option that takes the file.
BPE_FILE_OPTIONS = {"subword_nmt": "bpe_codes", "sentencepiece": "sentencepiece_model"}


@dataclass(frozen=True)
class BpeDescription:
    """Kind of subword segmentation (fairseq's ``--bpe`` name) and its file in the data-bin."""

    kind: str
    file: str


@dataclass(frozen=True)
class Reference:
    """Raw target side of a split: a file in the data-bin, and sacreBLEU's name of the test set."""

    file: str | None = None
    sacrebleu: str | None = None


@dataclass(frozen=True)
class CorpusDescription:
    """Languages of a data-bin, the files that turn raw text into its tokens, raw references."""

    source_lang: str
    target_lang: str
    bpe: BpeDescription | None = None
    text_chain: str | None = None
    references: Mapping[str, Reference] = field(default_factory=dict)

    def files(self) -> list[str]:
        """Return the names of the files that a model needs, as an exporter copies them."""
        return [name for name in (self.bpe and self.bpe.file, self.text_chain) if name]

    def fairseq_arguments(self, folder: Path) -> dict[str, str]:
        """Return fairseq's options for raw text in and out, e.g. for ``from_pretrained(**...)``."""
        arguments: dict[str, str] = {}
        if self.bpe:
            option = BPE_FILE_OPTIONS[self.bpe.kind]
            arguments |= {"bpe": self.bpe.kind, option: str((folder / self.bpe.file).resolve())}
        if self.text_chain:
            chain = str((folder / self.text_chain).resolve())
            arguments |= {"tokenizer": "seqattn_text", "seqattn_text_chain": chain}
        return arguments

    def save(self, folder: Path) -> None:
        """Write ``corpus.json`` into ``folder``, atomically."""
        with write_atomically(folder / CORPUS_FILE) as stream:
            stream.write(json.dumps(asdict(self), indent=2) + "\n")


def load_corpus_description(data_bin: Path) -> CorpusDescription | None:
    """Read ``corpus.json`` of a data-bin; None when there is none (a data-bin made elsewhere).

    Raises:
        SeqAttnError: the file is malformed, or a file that it names is missing.
    """
    path = data_bin / CORPUS_FILE
    try:
        description = _parse(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SeqAttnError(
            f"{path}: not a corpus description ({error!r}); run seqattn prepare again"
        ) from None
    references = [reference.file for reference in description.references.values()]
    for name in filter(None, [*description.files(), *references]):
        if not (data_bin / name).is_file():
            raise SeqAttnError(
                f"{path} names {name}, which is not there; run seqattn prepare again"
            )
    return description


def _parse(values: dict[str, Any]) -> CorpusDescription:
    bpe = values["bpe"] and BpeDescription(values["bpe"]["kind"], values["bpe"]["file"])
    if bpe and bpe.kind not in BPE_FILE_OPTIONS:
        raise ValueError(f"bpe kind is none of {', '.join(BPE_FILE_OPTIONS)}")
    references = {
        split: Reference(known["file"], known["sacrebleu"])
        for split, known in values.get("references", {}).items()
    }
    return CorpusDescription(
        values["source_lang"], values["target_lang"], bpe or None, values["text_chain"], references
    )
