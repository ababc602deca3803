"""Write a run as a folder that translates raw text.

The folder holds model.pt (weights and configuration, no optimiser state), the dictionaries, and
the subword model and text chain of the corpus, so that

    SeqAttnModel.from_pretrained(FOLDER).translate("a raw sentence")

gives what the command line gives. It also serves as the data folder of fairseq-interactive.
"""

from __future__ import annotations

import argparse
import shutil
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
    data = args.data or Path(task.data)
    sources = _sources(args, data, task.source_lang, task.target_lang)
    args.folder.mkdir(parents=True, exist_ok=True)
    description = _copy_corpus(sources, args.folder, task.source_lang, task.target_lang)
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


def _sources(
    args: argparse.Namespace, data: Path, source: str, target: str
) -> dict[str, Path | BpeDescription]:
    """Return what to copy: exported name -> file; "bpe" -> kind and file."""
    files: dict[str, Path | BpeDescription] = {}
    for language in (source, target):
        path = data / f"dict.{language}.txt"
        if not path.is_file():
            raise SeqAttnError(f"{path}: no such dictionary; give the data-bin with --data")
        files[path.name] = path
    known = load_corpus_description(data)
    if bool(args.bpe) != bool(args.bpe_file):
        raise SeqAttnError("--bpe and --bpe-file go together")
    if args.bpe:
        files["bpe"] = BpeDescription(args.bpe, str(args.bpe_file))
    elif known and known.bpe:
        files["bpe"] = BpeDescription(known.bpe.kind, str(data / known.bpe.file))
    if args.text_chain:
        files[TEXT_CHAIN_FILE] = args.text_chain
    elif known and known.text_chain:
        files[TEXT_CHAIN_FILE] = data / known.text_chain
    return files


def _copy_corpus(
    sources: dict[str, Path | BpeDescription], folder: Path, source: str, target: str
) -> CorpusDescription:
    bpe = None
    for name, file in sources.items():
        if isinstance(file, BpeDescription):
            bpe = BpeDescription(file.kind, _HUB_NAMES[file.kind])
            shutil.copyfile(file.file, folder / bpe.file)
        else:
            shutil.copyfile(file, folder / name)
    chain = TEXT_CHAIN_FILE if TEXT_CHAIN_FILE in sources else None
    description = CorpusDescription(source, target, bpe, chain)
    description.save(folder)
    return description


def _write_model(state: dict[str, Any], description: CorpusDescription, path: Path) -> None:
    cfg = OmegaConf.to_container(state["cfg"], resolve=True, enum_to_str=True)
    assert isinstance(cfg, dict)
    cfg["task"]["data"] = "."
    cfg["common"]["user_dir"] = None
    cfg["bpe"] = cfg["tokenizer"] = None
    if description.bpe:
        kind = description.bpe.kind
        cfg["bpe"] = {"_name": kind, BPE_FILE_OPTIONS[kind]: description.bpe.file}
    if description.text_chain:
        cfg["tokenizer"] = {"_name": "seqattn_text", "seqattn_text_chain": description.text_chain}
    kept = {key: state.get(key) for key in ("model", "task_state", "optimizer_history")}
    exported = {**kept, "cfg": cfg, "args": None, "extra_state": {}}
    checkpoint_utils.torch_persistent_save(exported, str(path))
