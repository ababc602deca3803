"""Raw references of test sets: from the data-bin, or from sacreBLEU's own collection."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import sacrebleu

from seqattn_fairseq.data.description import load_corpus_description
from seqattn_fairseq.data.files import read_lines
from seqattn_fairseq.errors import SeqAttnError, nearest


def raw_reference(data_bin: Path, subset: str) -> list[str]:
    """Return the raw target side of a subset, as ``corpus.json`` names it; empty if it does not.

    Raises:
        SeqAttnError: the description is malformed or names a file that is not there.
    """
    description = load_corpus_description(data_bin)
    known = description.references.get(subset) if description else None
    return list(read_lines(data_bin / known.file)) if known and known.file else []


def official_reference(test_set: str, pair: str) -> list[str]:
    """Return the reference of one of sacreBLEU's test sets (``wmt14/full``, ``en-de``).

    sacreBLEU keeps test sets in its own folder and downloads one that is not there.

    Raises:
        SeqAttnError: sacreBLEU does not know it, or it cannot be downloaded.
    """
    known = sacrebleu.get_available_testsets()
    if test_set not in known:
        raise SeqAttnError(
            f"{test_set}: sacreBLEU knows no such test set{nearest(test_set, known)}; "
            "sacrebleu --list prints them"
        )
    pairs = sacrebleu.get_langpairs_for_testset(test_set)
    if pair not in pairs:
        raise SeqAttnError(f"{test_set}: holds no {pair}; it has {', '.join(sorted(pairs))}")
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            path = sacrebleu.get_reference_files(test_set, pair)[0]
    except (Exception, SystemExit) as error:  # sacreBLEU exits when a download is damaged
        raise SeqAttnError(
            f"{test_set}: not at hand, and sacreBLEU cannot download it ({error}); give the raw "
            "reference with --ref FILE, or fetch it where there is a network: "
            f"sacrebleu -t {test_set} -l {pair} --echo ref"
        ) from None
    return list(read_lines(Path(path)))
