"""The text of a gold alignment: cut as the corpus was, its words counted as the gold does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from fairseq.data import LanguagePairDataset

from seqattn_fairseq.analysis.alignment import analyse_alignment
from seqattn_fairseq.analysis.gold import Gold, file_text, subset_text
from seqattn_fairseq.analysis.subject import Subject, find_subject
from seqattn_fairseq.analysis.tables import alignment_lines
from seqattn_fairseq.data.description import BpeDescription, CorpusDescription
from seqattn_fairseq.data.text_chain import TextChain, TextChains
from seqattn_fairseq.errors import SeqAttnError
from tests.evaluation import corpus

pytestmark = pytest.mark.xdist_group("commands")

# "schön" is two pieces, "Haus" one; the escaped quotation mark is a word of the corpus
_MERGES = [
    "s c",
    "sc h",
    "ö n</w>",
    "D a",
    "Da s</w>",
    "H a",
    "Ha u",
    "Hau s</w>",
    "i s",
    "is t</w>",
]
_QUOTE = ["& q", "&q u", "&qu o", "&quo t", "&quot ;</w>"]
CODES = "".join(f"{line}\n" for line in ("#version: 0.2", *_MERGES, *_QUOTE))


def subject_of(folder: Path, lowercase: bool = False) -> Subject:
    run, data = corpus.run_copy(folder), folder / "data bin"
    shutil.copytree(corpus.data_bin(), data)
    chain = TextChain("de", lowercase=lowercase, tokenize=True)
    TextChains(chain, chain).save(data / "text_chain.json")
    (data / "bpe.codes").write_text(CODES, encoding="utf-8")
    bpe = BpeDescription("subword_nmt", "bpe.codes")
    CorpusDescription("src", "tgt", bpe, "text_chain.json").save(data)
    return find_subject(run, "test", data_bin=data, cpu=True)


def files(folder: Path, source: str, target: str, encoding: str = "utf-8") -> tuple[Path, Path]:
    paths = folder / "gold.src", folder / "gold.tgt"
    for path, text in zip(paths, (source, target), strict=True):
        path.write_bytes(text.encode(encoding))
    return paths


def test_words_of_files(tmp_path: Path) -> None:
    subject = subject_of(tmp_path)
    both = files(tmp_path, 'Das Haus ist schön\n" Das\n\n', "schön schön\n&quot; x\nist\n")
    text = file_text(subject.loaded, subject.data_bin, both)
    dictionary = subject.loaded.task.source_dictionary
    pieces = [[dictionary[int(i)] for i in text.pairs.read(n).source] for n in range(3)]
    assert pieces[0] == ["Das", "Haus", "ist", "sch@@", "ön", "</s>"]
    assert pieces[1] == ["&quot;", "Das", "</s>"]
    assert pieces[2] == ["</s>"]
    assert text.words(0) == ([0, 1, 2, 3, 3], [0, 0, 1, 1], 4, 2)
    # escaped already, and not again; what the corpus lacks is unknown, but a word
    assert text.words(1) == ([0, 1], [0, 1], 2, 2)
    assert text.words(2) == ([], [0], 0, 1)
    target = text.pairs.read(1).target.tolist()
    assert target == [dictionary.index("&quot;"), dictionary.unk(), dictionary.eos()]
    assert text.pairs.lengths[0] == (6, 5)


def test_words_are_lower_cased_where_the_corpus_is(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, lowercase=True)
    text = file_text(subject.loaded, subject.data_bin, files(tmp_path, "IST\n", "Ist\n"))
    ist = subject.loaded.task.source_dictionary.index("ist")
    assert [ids[0] for ids in text.pairs.read(0)] == [ist, ist]


def test_words_of_the_set_itself(tmp_path: Path) -> None:
    subject = subject_of(tmp_path)
    text, lines = subset_text(subject), corpus.sentences(13, 2)
    for number, line in enumerate(lines):
        words = text.words(number)
        assert words.source_count == words.target_count or words.target_count > 0
        assert words.source_count == len(line.replace("@@ ", "").split())
        assert len(words.source) == len(line.split())


def test_unknown_pieces_make_words_uncertain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = subject_of(tmp_path)
    read, unk = LanguagePairDataset.__getitem__, subject.loaded.task.source_dictionary.unk()

    def first_unknown(self: Any, number: int) -> Any:
        item = read(self, number)
        if number == 0:
            item["source"][0] = unk
        return item

    assert not subset_text(subject).uncertain(0)
    monkeypatch.setattr(LanguagePairDataset, "__getitem__", first_unknown)
    text = subset_text(subject)
    assert text.uncertain(0) and not text.uncertain(1)
    assert text.words(0).source_count == len(set(text.words(0).source)) + 1
    (tmp_path / "gold").write_text("0-0\n" * 13)
    result = analyse_alignment(subject, Gold(tmp_path / "gold", "pharaoh")).result
    assert result["uncertain"] == 1
    assert "1 sentence pairs hold unknown pieces" in alignment_lines(result)[-1]


def test_gold_text_against_gold_links(tmp_path: Path) -> None:
    subject = subject_of(tmp_path)
    text = files(tmp_path, "Das Haus ist schön\n\n", "Haus schön\n.\n")
    (tmp_path / "gold").write_text("2-1 4p2\n\n")
    result = analyse_alignment(subject, Gold(tmp_path / "gold", "talp", text=text)).result
    assert result["sentences"] == 2
    assert len(result["layers"]) == 2
    # one pair of two words at most links two target words each
    assert all(layer["normal"]["mean"]["links"] <= 4 for layer in result["layers"])


def test_files_that_cannot_be(tmp_path: Path) -> None:
    subject = subject_of(tmp_path)
    with pytest.raises(SeqAttnError, match=r"gold.src:1:4: invalid UTF-8 .*iconv -t UTF-8"):
        file_text(subject.loaded, subject.data_bin, files(tmp_path, "schön\n", "a\n", "latin-1"))
    both = files(tmp_path, "a\nb\n", "a\n")
    with pytest.raises(SeqAttnError, match=r"gold.src has 2 lines but .*gold.tgt has 1"):
        file_text(subject.loaded, subject.data_bin, both)
    (subject.data_bin / "corpus.json").unlink()
    with pytest.raises(SeqAttnError, match=r"has no corpus.json, which names the subword model"):
        file_text(subject.loaded, subject.data_bin, files(tmp_path, "a\n", "a\n"))


def test_links_outside_of_the_text_name_their_line(tmp_path: Path) -> None:
    subject = subject_of(tmp_path)
    text = files(tmp_path, "Das Haus\nist\n", "Das\nist alt\n")
    (tmp_path / "gold").write_text("1-1\n2-1\n")
    gold = Gold(tmp_path / "gold", "talp", text=text)
    message = "gold:2: links source word 2 to target word 1, but the pair has 1 and 2 words"
    with pytest.raises(SeqAttnError, match=message):
        analyse_alignment(subject, gold)
    (tmp_path / "gold").write_text("1-1\n2-1\n")
    assert analyse_alignment(subject, Gold(tmp_path / "gold", "talp", True, text)).fresh is True
