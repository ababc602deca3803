"""A model as a folder that translates raw text.

The folder holds model.pt (weights and configuration, no optimiser state), the dictionaries, and
the subword model and text chain of the corpus. What does not fit together is refused: the folder
appears only after the model was loaded from it.
"""

from __future__ import annotations

import argparse
import io
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils, utils
from fairseq.data import Dictionary, data_utils, encoders
from omegaconf import OmegaConf

from seqattn_fairseq.checkpoint_files import non_finite, printable
from seqattn_fairseq.data.description import (
    BPE_FILE_OPTIONS,
    BpeDescription,
    CorpusDescription,
    load_corpus_description,
)
from seqattn_fairseq.data.files import partial_path
from seqattn_fairseq.data.text_chain import TextChains
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.checkpoints import find_checkpoint, save_checkpoint
from seqattn_fairseq.tasks.dictionaries import STATE_KEY, digest
from seqattn_fairseq.transformer.model import TEXT_CHAIN_FILE

# names under which fairseq's from_pretrained() finds a subword model by itself
HUB_NAMES = {"subword_nmt": "bpecodes", "sentencepiece": "sentencepiece.bpe.model"}

_MODEL_FILE = "model.pt"

_README = """\
A model that translates from {source} to {target}, written by `seqattn export`.

In Python, with this folder's path:

    from seqattn_fairseq.transformer.model import SeqAttnModel
    print(SeqAttnModel.from_pretrained("FOLDER").translate("a raw sentence"))

On the command line, in this folder:

    {command}
"""


@dataclass(frozen=True)
class TextFiles:
    """What turns raw text into tokens, where the data-bin does not tell; all optional.

    Attributes:
        bpe_kind: fairseq's ``--bpe`` name of the subword model.
        bpe: its codes or model.
        text_chain: text chain (JSON).
    """

    bpe_kind: str | None = None
    bpe: Path | None = None
    text_chain: Path | None = None


def export_run(run: Path, folder: Path, data: Path | None, text: TextFiles) -> str:
    """Write the folder and return the command line that translates with it.

    Args:
        run: checkpoint, or folder with checkpoint_best.pt or checkpoint_last.pt.
        folder: folder to write, new or empty.
        data: data-bin; by default the one trained on.
        text: files of the text's way to tokens, instead of those that the data-bin names.

    Raises:
        SeqAttnError: nothing to export, something that does not fit together, or no place for it.
    """
    checkpoint = find_checkpoint(run)
    _check_folder(folder)
    state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))
    files = _corpus_files(checkpoint, getattr(state["cfg"], "task", None), data, text)
    _check_model(checkpoint, state, files)
    with _appearing(folder) as hidden:
        description = _copy(files, hidden)
        _write_model(state, description, hidden / _MODEL_FILE)
        _load(hidden, checkpoint)
    return _command(description)


def _check_folder(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SeqAttnError(f"{folder}: exists and is not an empty folder; choose another")
    if folder.resolve() == Path.cwd():
        raise SeqAttnError(f"{folder}: is the current folder; name a new one")


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """Give a hidden folder beside ``folder`` to write into; it gets its name when complete."""
    hidden = partial_path(folder.resolve())
    try:
        hidden.mkdir(parents=True)
        yield hidden
        hidden.replace(folder.resolve())
    except OSError as error:
        raise SeqAttnError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


@dataclass(frozen=True)
class _CorpusFiles:
    """What of the corpus is exported: files where they lie now."""

    langs: tuple[str, str]
    dictionaries: list[Path]
    bpe_kind: str | None
    bpe: Path | None
    text_chain: Path | None


def _data_bin(checkpoint: Path, task: Any) -> Path:
    """Return the data-bin that a checkpoint was trained on; an exported one lies in it."""
    data = utils.split_paths(getattr(task, "data", None) or "")[0]
    if not data:
        raise SeqAttnError(f"{checkpoint}: its task names no data; give the data-bin with --data")
    return checkpoint.parent if data == "." else Path(data)


def _languages(task: Any, data: Path) -> tuple[str, str]:
    """Return source and target language: those trained with, or what fairseq infers from names."""
    source, target = (getattr(task, f"{side}_lang", None) for side in ("source", "target"))
    if not (source and target) and data.is_dir():
        source, target = data_utils.infer_language_pair(str(data))
    if not source or not target:
        raise SeqAttnError(
            f"{data}: holds no language pair, and the checkpoint's task names none; export takes "
            "translation models, give their data-bin with --data"
        )
    return source, target


def _corpus_files(checkpoint: Path, task: Any, data: Path | None, text: TextFiles) -> _CorpusFiles:
    data = data or _data_bin(checkpoint, task)
    langs = _languages(task, data)
    dictionaries = [data / f"dict.{language}.txt" for language in langs]
    for path in dictionaries:
        if not path.is_file():
            raise SeqAttnError(f"{path}: no such dictionary; give the data-bin with --data")
    if bool(text.bpe_kind) != bool(text.bpe):
        raise SeqAttnError("--bpe and --bpe-file go together")
    known = load_corpus_description(data)
    kind, bpe, chain = text.bpe_kind, text.bpe, text.text_chain
    if not kind and known and known.bpe:
        kind, bpe = known.bpe.kind, data / known.bpe.file
    if not chain and known and known.text_chain:
        chain = data / known.text_chain
    for path in filter(None, (bpe, chain)):
        if not path.is_file():
            raise SeqAttnError(f"{path}: no such file")
    if kind and bpe:
        _check_bpe(kind, bpe)
    if chain:
        TextChains.load(chain)
    return _CorpusFiles(langs, dictionaries, kind, bpe, chain)


def _check_bpe(kind: str, path: Path) -> None:
    with redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # fairseq leaves the file open
        valid = _is_bpe(kind, path)
    if not valid:
        raise SeqAttnError(f"{path}: no {kind} file; give the one that the corpus was made with")


def _is_bpe(kind: str, path: Path) -> bool:
    """Build fairseq's encoder on a file once; subword-nmt would end the whole program."""
    try:
        encoders.build_bpe(argparse.Namespace(bpe=kind, **{BPE_FILE_OPTIONS[kind]: str(path)}))
    except (Exception, SystemExit):  # each library refuses a foreign file in its own way
        return False
    return path.stat().st_size > 0


# ---- does it fit together? ---------------------------------------------------------------------


def _dictionary(path: Path) -> Dictionary:
    try:
        return Dictionary.load(str(path))
    except Exception as error:  # fairseq raises the class itself for invalid UTF-8
        raise SeqAttnError(f"{path}: no dictionary; give the data-bin with --data") from error


def _check_model(checkpoint: Path, state: dict[str, Any], files: _CorpusFiles) -> None:
    """Compare the dictionaries with those trained with, and refuse NaN."""
    saved = (state.get("task_state") or {}).get(STATE_KEY) or {}
    sides = zip(("source", "target"), ("encoder", "decoder"), files.dictionaries, strict=True)
    for side, stack, path in sides:
        dictionary = _dictionary(path)
        embedding = state["model"].get(f"{stack}.embed_tokens.weight")
        other_size = embedding is not None and len(embedding) != len(dictionary)
        there = saved.get(side, {}).get("sha256")
        if other_size or there not in (None, digest(dictionary.symbols)):
            raise SeqAttnError(
                f"{path}: not the {side} dictionary that {checkpoint} was trained with; give its "
                "data-bin with --data"
            )
    if key := non_finite(state["model"]):
        raise SeqAttnError(f"{checkpoint}: {key} holds NaN or infinity; export another checkpoint")


def _load(folder: Path, checkpoint: Path) -> None:
    """Load the exported model once, as from_pretrained() does; complain about its origin."""
    path = str(folder / _MODEL_FILE)
    try:
        checkpoint_utils.load_model_ensemble_and_task([path], {"data": str(folder)})
    except Exception as error:  # whatever it is, users of the folder would meet it
        reason = " ".join(str(error).split()).replace(path, str(checkpoint))
        if not reason.startswith(str(checkpoint)):
            reason = f"{checkpoint}: cannot be loaded ({type(error).__name__}: {printable(reason)})"
        raise SeqAttnError(f"{reason}; nothing exported") from error


# ---- writing -----------------------------------------------------------------------------------


def _copy(files: _CorpusFiles, folder: Path) -> CorpusDescription:
    copies = {path.name: path for path in files.dictionaries}
    bpe = None
    if files.bpe_kind and files.bpe:
        bpe = BpeDescription(files.bpe_kind, HUB_NAMES[files.bpe_kind])
        copies[bpe.file] = files.bpe
    if files.text_chain:
        copies[TEXT_CHAIN_FILE] = files.text_chain
    for name, path in copies.items():
        shutil.copyfile(path, folder / name)
    chain = TEXT_CHAIN_FILE if files.text_chain else None
    description = CorpusDescription(*files.langs, bpe, chain)
    description.save(folder)
    # fairseq finds the languages of a data folder in names of this form, so that nobody needs
    # --source-lang and --target-lang
    readme = folder / f"README.{'-'.join(files.langs)}.txt"
    source, target = files.langs
    text = _README.format(source=source, target=target, command=_command(description))
    readme.write_text(text, encoding="utf-8")
    return description


def _command(description: CorpusDescription) -> str:
    """Return the call of fairseq-interactive that translates raw text in the exported folder."""
    words = ['fairseq-interactive . --user-dir "$(seqattn path)" --path', _MODEL_FILE]
    langs = (description.source_lang, description.target_lang)
    if not all(map(str.isalnum, langs)):  # fairseq does not find zh-CN in a file's name
        words += ["--source-lang", langs[0], "--target-lang", langs[1]]
    if description.text_chain:
        words += ["--tokenizer seqattn_text --seqattn-text-chain", description.text_chain]
    if description.bpe:
        option = BPE_FILE_OPTIONS[description.bpe.kind].replace("_", "-")
        words += [f"--bpe {description.bpe.kind} --{option}", description.bpe.file]
    return " ".join(words)


def _options(cfg: dict[Any, Any], group: str) -> dict[str, Any]:
    """Return a group of options to change; those of stock architectures are a Namespace."""
    values = cfg.setdefault(group, {})
    options: dict[str, Any] = vars(values) if isinstance(values, argparse.Namespace) else values
    return options


def _write_model(state: dict[str, Any], description: CorpusDescription, path: Path) -> None:
    cfg = OmegaConf.to_container(state["cfg"], resolve=True, enum_to_str=True)
    assert isinstance(cfg, dict)
    langs = {"source_lang": description.source_lang, "target_lang": description.target_lang}
    _options(cfg, "task").update(data=".", **langs)
    _options(cfg, "common").update(user_dir=None)
    _options(cfg, "model").update(encoder_embed_path=None, decoder_embed_path=None)
    cfg["bpe"] = cfg["tokenizer"] = None
    if description.bpe:
        kind = description.bpe.kind
        cfg["bpe"] = {"_name": kind, BPE_FILE_OPTIONS[kind]: description.bpe.file}
    if description.text_chain:
        cfg["tokenizer"] = {"_name": "seqattn_text", "seqattn_text_chain": description.text_chain}
    keys = ("model", "task_state", "optimizer_history")
    kept = {key: state[key] for key in keys if state.get(key) is not None}
    exported = {**kept, "cfg": cfg, "args": None, "extra_state": {}}
    save_checkpoint(exported, path)
