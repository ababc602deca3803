"""``--tokenizer seqattn_text`` through fairseq's own doors: command line and hub."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from fairseq import options, tasks
from fairseq.data import encoders
from fairseq.dataclass.utils import convert_namespace_to_omegaconf, overwrite_args_by_name
from fairseq.hub_utils import GeneratorHubInterface

import seqattn_fairseq.data.fairseq_tokenizer  # noqa: F401  (registers the tokenizer)
from seqattn_fairseq.data.description import load_corpus_description
from seqattn_fairseq.data.prepare import prepare
from seqattn_fairseq.data.segmentation import segment_lines
from seqattn_fairseq.data.text_chain import TextChain
from seqattn_fairseq.errors import SeqAttnError
from tests.data.corpus import RECIPE, write_raw

RAW = 'The Small dog\u2019s "house": R&D ...'


@pytest.fixture(scope="module")
def data_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus with spaces")
    return prepare(RECIPE, folder / "to", write_raw(folder / "from"), workers=1).data_bin


def command_line(data_bin: Path, *extra: str) -> Any:
    parser = options.get_interactive_generation_parser()
    arguments = [str(data_bin), "--path", "model.pt", "--task", "translation", *extra]
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, arguments))


def raw_text_options(data_bin: Path) -> dict[str, str]:
    corpus = load_corpus_description(data_bin)
    assert corpus is not None
    return corpus.fairseq_arguments(data_bin)


def assert_translates_raw_text(cfg: Any, data_bin: Path) -> None:
    """The hub's two ends, without a model between: raw text to ids, ids to plain text."""
    hub = GeneratorHubInterface(cfg, tasks.setup_task(cfg.task), [])
    tokens = TextChain(
        "en", lowercase=True, normalize_punctuation=True, tokenize=True, final_dot="keep"
    ).encode(RAW)
    pieces = segment_lines(data_bin / "bpe.codes", "", [tokens])[0]
    assert "@@ " in pieces
    assert hub.src_dict.string(hub.encode(RAW)) == hub.src_dict.string(
        hub.src_dict.encode_line(pieces, add_if_not_exist=False)
    )
    reference = (data_bin.parent / "bpe" / "valid.de").read_text("utf-8").split("\n")[0]
    ids = hub.tgt_dict.encode_line(reference, add_if_not_exist=False)
    plain = TextChain("de", tokenize=True).decode(reference.replace("@@ ", ""))
    assert hub.decode(ids) == plain
    assert "&quot;" not in plain


def test_command_line(data_bin: Path) -> None:
    flags = [
        text
        for name, value in raw_text_options(data_bin).items()
        for text in (f"--{name.replace('_', '-')}", value)
    ]
    assert_translates_raw_text(command_line(data_bin, *flags), data_bin)


def test_overrides_of_from_pretrained(data_bin: Path) -> None:
    cfg = command_line(data_bin)
    assert cfg.tokenizer is None
    overwrite_args_by_name(cfg, raw_text_options(data_bin))
    assert_translates_raw_text(cfg, data_bin)


def test_missing_chain_file_is_one_line(data_bin: Path) -> None:
    namespace = argparse.Namespace(
        tokenizer="seqattn_text", seqattn_text_chain=str(data_bin / "nothing.json")
    )
    with pytest.raises(SeqAttnError, match=r"nothing\.json: no such file"):
        encoders.build_tokenizer(namespace)


def test_missing_option_is_one_line(data_bin: Path) -> None:
    cfg = command_line(data_bin, "--tokenizer", "seqattn_text")
    with pytest.raises(SeqAttnError, match="needs --seqattn-text-chain FILE"):
        encoders.build_tokenizer(cfg.tokenizer)
