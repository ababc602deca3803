"""corpus.json: what an exporter finds beside the dictionaries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqattn_fairseq.data.description import (
    BpeDescription,
    CorpusDescription,
    Reference,
    load_corpus_description,
)
from seqattn_fairseq.errors import SeqAttnError

SUBWORD_NMT = CorpusDescription(
    "en", "de", BpeDescription("subword_nmt", "bpe.codes"), "text_chain.json"
)
WITH_REFERENCES = CorpusDescription(
    "en",
    "de",
    references={
        "valid": Reference("reference.valid.de"),
        "test": Reference("reference.test.de", "wmt14/full"),
        "test1": Reference(sacrebleu="wmt16"),
    },
)
SENTENCEPIECE = CorpusDescription("de", "en", BpeDescription("sentencepiece", "spm.model"))


@pytest.mark.parametrize(
    "corpus", [SUBWORD_NMT, SENTENCEPIECE, WITH_REFERENCES, CorpusDescription("en", "de")]
)
def test_round_trip(tmp_path: Path, corpus: CorpusDescription) -> None:
    references = [known.file for known in corpus.references.values() if known.file]
    for name in [*corpus.files(), *references]:
        (tmp_path / name).touch()
    corpus.save(tmp_path)
    assert load_corpus_description(tmp_path) == corpus


def test_file_of_before_there_were_references(tmp_path: Path) -> None:
    old = {"source_lang": "en", "target_lang": "de", "bpe": None, "text_chain": None}
    (tmp_path / "corpus.json").write_text(json.dumps(old))
    assert load_corpus_description(tmp_path) == CorpusDescription("en", "de")


def test_missing_reference_is_named(tmp_path: Path) -> None:
    WITH_REFERENCES.save(tmp_path)
    with pytest.raises(SeqAttnError, match=r"names reference\.valid\.de, which is not there"):
        load_corpus_description(tmp_path)


def test_foreign_data_bin_has_none(tmp_path: Path) -> None:
    assert load_corpus_description(tmp_path) is None
    assert load_corpus_description(tmp_path / "nowhere") is None


def test_fairseq_arguments_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert SUBWORD_NMT.fairseq_arguments(Path("bin")) == {
        "bpe": "subword_nmt",
        "bpe_codes": str(tmp_path / "bin" / "bpe.codes"),
        "tokenizer": "seqattn_text",
        "seqattn_text_chain": str(tmp_path / "bin" / "text_chain.json"),
    }
    model = str(tmp_path / "spm.model")
    expected = {"bpe": "sentencepiece", "sentencepiece_model": model}
    assert SENTENCEPIECE.fairseq_arguments(tmp_path) == expected
    assert CorpusDescription("en", "de").fairseq_arguments(tmp_path) == {}


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"source_lang": "en"}',
        '{"source_lang": "en", "target_lang": "de", "bpe": {"kind": "x", "file": "y"}}',
        '{"source_lang": "a", "target_lang": "b", "bpe": null, "text_chain": null,'
        ' "references": {"test": "reference.test.de"}}',
        '{"source_lang": "a", "target_lang": "b", "bpe": null, "text_chain": null,'
        ' "references": []}',
    ],
)
def test_malformed_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "corpus.json").write_text(content)
    with pytest.raises(SeqAttnError, match=r"corpus\.json: not a corpus description"):
        load_corpus_description(tmp_path)


def test_missing_described_file_is_named(tmp_path: Path) -> None:
    SUBWORD_NMT.save(tmp_path)
    with pytest.raises(SeqAttnError, match=r"names bpe\.codes, which is not there"):
        load_corpus_description(tmp_path)
