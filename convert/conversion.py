"""One conversion from beginning to end: read, recognise, write, validate, record; nothing is left where it fails."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from cellfm_torch import __version__
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.vocab import bundled_symbols
from cellfm_torch.errors import UserError
from cellfm_torch.model.checkpoint import WEIGHTS, folder_texts

from .folder import RECORD, TRAINING, check_output, fresh_folder
from .heads import HEADS
from .mindspore_backend import through_mindspore
from .mindspore_ckpt import SUFFIXES, Source
from .network import Layout, recognise
from .options import MODES
from .outputs import FLOAT32, FLOAT32_LORA, HALF, compare_outputs, recording_of
from .report import copying
from .training_state import write_training_state
from .write import LORA, Writer

LICENCE = (
    "CC BY-NC-ND 4.0 (https://creativecommons.org/licenses/by-nc-nd/4.0/): converted from weights that CellFM's "
    "authors published or that derive from them; do not redistribute"
)


@dataclass(frozen=True)
class Options:
    """What a user can ask of a conversion.

    Attributes
    ----------
    output
        Folder to write; None: beside the checkpoint, named after it.
    num_heads
        H; None: D / 32.
    dtype
        Of the written weights; None: as in the checkpoint.
    genes
        File with one gene symbol a line, where the vocabulary is not a published one.
    merge_lora, training_state, validate
        Merge adapters; also write training.ckpt; read the result back and compare.
    backend, key, key_mode
        "mindspore": let an installed MindSpore read the file, with a key where it is encrypted.
    hash
        Record the SHA-256 of the source; the command always does.
    """

    output: Path | None = None
    num_heads: int | None = None
    dtype: torch.dtype | None = None
    genes: Path | None = None
    merge_lora: bool = False
    training_state: bool = False
    validate: bool = True
    backend: str = "own"
    key: Path | None = None
    key_mode: str = MODES[0]
    hash: bool = True


@dataclass
class Done:
    """What a conversion did, for the report at the end.

    Attributes
    ----------
    folder, layout, record
        The model folder, what it holds, and what stands in its conversion.json.
    tensors, parameters, num_bytes
        Counts of what was written, heads included; bytes of the weight files.
    warnings
        Lines that the user should read.
    """

    folder: Path
    layout: Layout
    record: dict[str, Any]
    tensors: int
    parameters: int
    num_bytes: int
    warnings: list[str] = field(default_factory=list)

    @property
    def dropped(self) -> Counter[str]:
        """How many names were dropped, by reason."""
        return Counter(self.record["dropped"].values())


def read_genes(path: Path) -> Sequence[str]:
    """Read a gene list, one symbol a line.

    Raises
    ------
    UserError
        If there is none, or a symbol stands there twice.
    """
    if not path.is_file():
        raise UserError(f"--genes {path}: no such file")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        return GeneVocab(line.strip() for line in lines if line.strip()).symbols
    except UnicodeDecodeError as problem:
        raise UserError(f"--genes {path}: not UTF-8 text, one symbol a line") from problem
    except UserError as problem:
        raise UserError(f"--genes {path}: {problem}") from problem


def convert_file(checkpoint: Path, options: Options | None = None) -> Done:
    """Convert a checkpoint into a model folder.

    Parameters
    ----------
    checkpoint
        A MindSpore ``.ckpt`` or ``.safetensors``, or a folder of ``rank_N`` copies.
    options
        See :class:`Options`.

    Raises
    ------
    UserError
        For everything that can be wrong with the file or the options; nothing is written then.
    """
    options = options or Options()
    genes = read_genes(options.genes) if options.genes else None
    if options.key and options.backend != "mindspore":
        raise UserError("--key is for encrypted files, which only MindSpore opens: add --backend mindspore")
    named = checkpoint.stem if checkpoint.suffix in SUFFIXES else checkpoint.name
    folder = options.output or checkpoint.parent / (named if not checkpoint.is_dir() else f"{named}-model")
    with ExitStack() as stack:
        readable = checkpoint
        if options.backend == "mindspore":
            readable = stack.enter_context(through_mindspore(checkpoint, key=options.key, mode=options.key_mode))
        source = stack.enter_context(Source(readable))
        layout = recognise(source.entries, num_heads=options.num_heads, genes=genes)
        if options.merge_lora and not layout.config.lora_rank:
            raise UserError("--merge-lora: the checkpoint has no adapters")
        original = source.path if options.backend == "own" else checkpoint
        sha256 = sha256_of(original) if options.hash else None
        check_output(folder, sha256=sha256)
        source.verify_checksum()
        source.verify_copies()
        record = _record(checkpoint, source, layout, options=options) | {
            "sha256": sha256,
            "bytes": original.stat().st_size,
        }
        with fresh_folder(folder) as part:
            done = _write(part, source, layout, options=options, record=record)
            if options.validate:
                record["validation"] = _validate(part, source, layout, options=options, recorded=checkpoint)
            text = json.dumps(record, indent=2) + "\n"
            (part / RECORD).write_text(text, encoding="utf-8")
    done.folder = folder
    if genes is not None:
        fewest, most = layout.config.num_rows - 8, layout.config.num_rows - 1
        done.warnings.append(
            f"{options.genes} has {len(genes):,} symbols; lists of {fewest:,} to {most:,} would fit these "
            f"{most + 1:,} rows as well: it must be the list the model was trained with, in the same order"
        )
    return done


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record(checkpoint: Path, source: Source, layout: Layout, *, options: Options) -> dict[str, Any]:
    """Return what conversion.json says of the source; digest and size come from the caller."""
    names, dropped = dict(layout.names), dict(layout.dropped)
    if options.merge_lora:
        for name, target in layout.names.items():
            if target.endswith(LORA):
                del names[name]
                dropped[name] = f"merged into {target.rsplit('.', 1)[0]}.weight"
    record: dict[str, Any] = {"source": source.path.name if options.backend == "own" else checkpoint.name}
    if source.copies:
        record["identical_copies"] = [str(path.relative_to(checkpoint)) for path in (source.path, *source.copies)]
    record |= {"sha256": None, "bytes": None, "tool": f"cellfm_torch {__version__}", "task": layout.task}
    if layout.published:
        record["licence"] = LICENCE
    return record | {"names": names, "dropped": dropped}


def _write(part: Path, source: Source, layout: Layout, *, options: Options, record: dict[str, Any]) -> Done:
    """Write every file of the folder but conversion.json."""
    config = layout.config
    if options.merge_lora:
        config = replace(config, lora_rank=0)
    symbols = layout.genes if layout.genes is not None else bundled_symbols(config.num_genes)
    assert symbols is not None  # recognise() has refused sizes without a list
    writer = Writer(source, layout.names, dtype=options.dtype, merge_lora=options.merge_lora)
    files = _files(layout)
    total = sum(writer.num_bytes(heads=heads) for heads in files.values())
    with copying(total) as progress:
        for name, heads in files.items():
            metadata = {"format": "pt"} | ({"task": str(layout.task)} if heads else {})
            writer.write(part / name, heads=heads, metadata=metadata, progress=progress)
    if options.training_state:
        record["steps"] = write_training_state(source, layout, part / TRAINING)
    for name, text in folder_texts("CellFM", config, symbols).items():
        (part / name).write_text(text, encoding="utf-8")
    targets = [target for heads in files.values() for target in writer.targets(heads=heads)]
    parameters = sum(source.entries[writer.source_of[target]].numel for target in targets)
    return Done(part, layout, record, len(targets), parameters, total)


def _files(layout: Layout) -> dict[str, bool]:
    """Return the weight files, and whether each holds heads."""
    return {WEIGHTS: False} | ({HEADS: True} if layout.task else {})


def _validate(part: Path, source: Source, layout: Layout, *, options: Options, recorded: Path) -> dict[str, Any]:
    """Compare what was written with the checkpoint and, where there is a recording, its outputs with that."""
    writer = Writer(source, layout.names, dtype=options.dtype, merge_lora=options.merge_lora)
    error = max(writer.validate(part / name, heads=heads) for name, heads in _files(layout).items())
    found: dict[str, Any] = {"weights": error}
    arrays = recording_of(recorded)
    if arrays is not None:
        limit = FLOAT32_LORA if layout.config.lora_rank else FLOAT32
        if {writer.kind(target) for target in writer.targets(heads=False)} != {"Float32"}:
            limit = HALF
        found["outputs"] = compare_outputs(part, arrays, limit=limit)
    return found
