"""Write a run as a folder that translates raw text.

The folder holds model.pt (weights and configuration, no optimiser state), the dictionaries, and
the subword model and text chain of the corpus, so that

    SeqAttnModel.from_pretrained(FOLDER).translate("a raw sentence")

gives what the command line gives. It also serves as the data folder of fairseq-interactive.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils
from omegaconf import OmegaConf

from seqattn_fairseq.data.description import (
    BPE_FILE_OPTIONS,
    BpeDescription,
    CorpusDescription,
    load_corpus_description,
)
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.transformer.model import TEXT_CHAIN_FILE

# names under which fairseq's from_pretrained() finds a subword model by itself
_HUB_NAMES = {"subword_nmt": "bpecodes", "sentencepiece": "sentencepiece.bpe.model"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "run", type=Path, help="checkpoint, or folder with checkpoint_best.pt or checkpoint_last.pt"
    )
    parser.add_argument("folder", type=Path, help="folder to write, new or empty")
    parser.add_argument("--data", type=Path, help="data-bin (default: the one trained on)")
    parser.add_argument(
        "--bpe", choices=sorted(_HUB_NAMES), help="subword kind, if the data-bin does not tell"
    )
    parser.add_argument("--bpe-file", type=Path, help="its codes or model")
    parser.add_argument(
        "--text-chain", type=Path, help="text chain (JSON), if the data-bin does not tell"
    )


def run(args: argparse.Namespace) -> int:
    """Write the folder and say how to use it."""
    checkpoint = find_checkpoint(args.run)
    if args.folder.exists() and (not args.folder.is_dir() or any(args.folder.iterdir())):
        raise SeqAttnError(f"{args.folder}: exists and is not an empty folder; choose another")
    state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))
    task = state["cfg"].task
    files = _corpus_files(args, args.data or Path(task.data), (task.source_lang, task.target_lang))
    args.folder.mkdir(parents=True, exist_ok=True)
    description = _copy(files, args.folder)
    _write_model(state, description, args.folder / "model.pt")
    print(f"{args.folder}: {', '.join(sorted(p.name for p in args.folder.iterdir()))}")
    return 0


def find_checkpoint(run: Path) -> Path:
    """Return the checkpoint that ``run`` (a file or a run's folder) stands for.

    Raises:
        SeqAttnError: nothing there.
    """
    if run.is_file():
        return run
    for name in ("checkpoint_best.pt", "checkpoint_last.pt"):
        if (run / name).is_file():
            return run / name
    raise SeqAttnError(f"{run}: no checkpoint, and no folder with a checkpoint_best.pt or _last.pt")


@dataclass(frozen=True)
class _CorpusFiles:
    """What of the corpus is exported: files where they lie now."""

    langs: tuple[str, str]
    dictionaries: list[Path]
    bpe_kind: str | None
    bpe: Path | None
    text_chain: Path | None


def _corpus_files(args: argparse.Namespace, data: Path, langs: tuple[str, str]) -> _CorpusFiles:
    dictionaries = [data / f"dict.{language}.txt" for language in langs]
    for path in dictionaries:
        if not path.is_file():
            raise SeqAttnError(f"{path}: no such dictionary; give the data-bin with --data")
    if bool(args.bpe) != bool(args.bpe_file):
        raise SeqAttnError("--bpe and --bpe-file go together")
    known = load_corpus_description(data)
    kind, bpe, chain = args.bpe, args.bpe_file, args.text_chain
    if not kind and known and known.bpe:
        kind, bpe = known.bpe.kind, data / known.bpe.file
    if not chain and known and known.text_chain:
        chain = data / known.text_chain
    for path in filter(None, (bpe, chain)):
        if not path.is_file():
            raise SeqAttnError(f"{path}: no such file")
    return _CorpusFiles(langs, dictionaries, kind, bpe, chain)


def _copy(files: _CorpusFiles, folder: Path) -> CorpusDescription:
    copies = {path.name: path for path in files.dictionaries}
    bpe = None
    if files.bpe_kind and files.bpe:
        bpe = BpeDescription(files.bpe_kind, _HUB_NAMES[files.bpe_kind])
        copies[bpe.file] = files.bpe
    if files.text_chain:
        copies[TEXT_CHAIN_FILE] = files.text_chain
    for name, path in copies.items():
        shutil.copyfile(path, folder / name)
    chain = TEXT_CHAIN_FILE if files.text_chain else None
    description = CorpusDescription(*files.langs, bpe, chain)
    description.save(folder)
    return description


def _write_model(state: dict[str, Any], description: CorpusDescription, path: Path) -> None:
    cfg = OmegaConf.to_container(state["cfg"], resolve=True, enum_to_str=True)
    assert isinstance(cfg, dict)
    cfg["task"]["data"] = "."
    cfg["common"]["user_dir"] = None
    cfg["model"]["encoder_embed_path"] = cfg["model"]["decoder_embed_path"] = None
    cfg["bpe"] = cfg["tokenizer"] = None
    if description.bpe:
        kind = description.bpe.kind
        cfg["bpe"] = {"_name": kind, BPE_FILE_OPTIONS[kind]: description.bpe.file}
    if description.text_chain:
        cfg["tokenizer"] = {"_name": "seqattn_text", "seqattn_text_chain": description.text_chain}
    kept = {key: state.get(key) for key in ("model", "task_state", "optimizer_history")}
    exported = {**kept, "cfg": cfg, "args": None, "extra_state": {}}
    checkpoint_utils.torch_persistent_save(exported, str(path))
