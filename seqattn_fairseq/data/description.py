"""``corpus.json``: what lies beside the dictionaries of a data-bin, for export and raw text.

The file, in a folder that also holds the files it names::

    {"source_lang": "en", "target_lang": "de",
     "bpe": {"kind": "subword_nmt", "file": "bpe.codes"},
     "text_chain": "text_chain.json"}

``kind`` is fairseq's ``--bpe`` name. ``bpe`` and ``text_chain`` are null when the corpus has none.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
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
class CorpusDescription:
    """Languages of a data-bin and the files that turn raw text into its tokens."""

    source_lang: str
    target_lang: str
    bpe: BpeDescription | None = None
    text_chain: str | None = None

    def files(self) -> list[str]:
        """Return the names of the described files, as an exporter copies them."""
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
    except (ValueError, KeyError, TypeError) as error:
        raise SeqAttnError(
            f"{path}: not a corpus description ({error!r}); run seqattn prepare again"
        ) from None
    for name in description.files():
        if not (data_bin / name).is_file():
            raise SeqAttnError(
                f"{path} names {name}, which is not there; run seqattn prepare again"
            )
    return description


def _parse(values: dict[str, Any]) -> CorpusDescription:
    bpe = values["bpe"] and BpeDescription(values["bpe"]["kind"], values["bpe"]["file"])
    if bpe and bpe.kind not in BPE_FILE_OPTIONS:
        raise ValueError(f"bpe kind is none of {', '.join(BPE_FILE_OPTIONS)}")
    return CorpusDescription(
        values["source_lang"], values["target_lang"], bpe or None, values["text_chain"]
    )
