"""One conversion of scFoundation weights from beginning to end; nothing is left where it fails."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cellfm_torch import __version__
from cellfm_torch.data.vocab import bundled_symbols
from cellfm_torch.errors import UserError, nearest
from cellfm_torch.model import ScFoundation, ScFoundationConfig
from cellfm_torch.model.checkpoint import WEIGHTS, folder_texts

from .conversion import read_genes, sha256_of
from .folder import RECORD, check_output, fresh_folder
from .scf_ckpt import Part, read_part
from .scf_names import source_name, target_name

LICENCE = (
    "scFoundation's model licence, apart from the Apache-2.0 licence of its code: non-commercial research only, not to "
    "be redistributed"
)


@dataclass(frozen=True)
class Options:
    """What a user can ask of a conversion.

    Attributes
    ----------
    part
        Which weights of the file: "cell", "gene" or "rde".
    output
        Folder to write; None: beside the checkpoint, named after it and the part.
    dtype
        Of the written weights; None: as in the checkpoint.
    genes
        File with one gene symbol a line, where the vocabulary is not the published one.
    validate
        Read the result back and compare.
    """

    part: str = "cell"
    output: Path | None = None
    dtype: torch.dtype | None = None
    genes: Path | None = None
    validate: bool = True


@dataclass
class Done:
    """What a conversion did: the model folder, its sizes, and what stands in its conversion.json."""

    folder: Path
    config: ScFoundationConfig
    record: dict[str, Any]
    parameters: int
    num_bytes: int


def convert_part(checkpoint: Path, options: Options | None = None) -> Done:
    """Convert one part of models.ckpt into a model folder.

    Parameters
    ----------
    checkpoint
        A file of torch.save with the published layout.
    options
        See :class:`Options`.

    Raises
    ------
    UserError
        For everything that can be wrong with the file or the options; nothing is written then.
    """
    options = options or Options()
    genes = read_genes(options.genes) if options.genes else None
    part = read_part(checkpoint, options.part)
    where = f"{checkpoint}: part '{options.part}'"
    symbols = _symbols(part.config, genes, given=options.genes, where=where)
    names = match_names(part, where=where)
    folder = options.output or checkpoint.parent / f"{checkpoint.stem}-{options.part}"
    sha256 = sha256_of(checkpoint)
    check_output(folder, sha256=sha256, part=options.part)
    tensors = {target: _checked(part.tensors[source], source, options.dtype) for source, target in names.items()}
    record: dict[str, Any] = {
        "source": checkpoint.name,
        "part": options.part,
        "sha256": sha256,
        "bytes": checkpoint.stat().st_size,
        "tool": f"cellfm_torch {__version__}",
    }
    if genes is None:  # the published vocabulary: these weights are someone's property
        record["licence"] = LICENCE
    record |= {"names": names, "dropped": {}}
    with fresh_folder(folder) as new:
        save_file(tensors, new / WEIGHTS, metadata={"format": "pt"})
        for name, text in folder_texts(ScFoundation.__name__, part.config, symbols).items():
            (new / name).write_text(text, encoding="utf-8")
        if options.validate:
            record["validation"] = {"weights": _read_back(new / WEIGHTS, part, names, dtype=options.dtype)}
        (new / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    weights = [x for x in tensors.values() if x.is_floating_point()]
    num_bytes = sum(x.nbytes for x in tensors.values())
    return Done(folder, part.config, record, sum(x.numel() for x in weights), num_bytes)


def match_names(part: Part, *, where: str) -> dict[str, str]:
    """Return our name by official name, of every tensor.

    Raises
    ------
    UserError
        If one is missing, unknown or misshapen.
    """
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for source in part.tensors:
        target = target_name(source)
        if target is None:
            raise UserError(f"{where} holds {source}, which the name table does not know; nothing was written")
        if target in taken:
            raise UserError(f"{where} holds both {taken[target]} and {source}; nothing was written")
        names[source] = target
        taken[target] = source
    with torch.device("meta"):
        expected = ScFoundation(part.config).state_dict()
    for target, wanted in expected.items():
        official = str(source_name(target))
        if target not in taken:
            drawn = target.endswith("projection")
            why = (
                ": its outputs cannot be repeated without the saved ones" if drawn else nearest(official, part.tensors)
            )
            raise UserError(f"{where} lacks {official}{why}; nothing was written")
        found = part.tensors[taken[target]]
        if found.shape != wanted.shape or found.is_floating_point() != wanted.is_floating_point():
            what = f"shape {tuple(found.shape)} of {str(found.dtype).removeprefix('torch.')}"
            raise UserError(
                f"{where}: {taken[target]} has {what}, its configuration asks for {tuple(wanted.shape)} of "
                f"{str(wanted.dtype).removeprefix('torch.')}; nothing was written"
            )
    unknown = sorted(taken[target] for target in set(taken) - set(expected))
    if unknown:
        raise UserError(f"{where} holds {unknown[0]}, which its configuration has no place for; nothing was written")
    return {taken[target]: target for target in expected}


def _symbols(
    config: ScFoundationConfig, genes: Sequence[str] | None, *, given: Path | None, where: str
) -> Sequence[str]:
    """Return the vocabulary."""
    if genes is not None:
        if len(genes) != config.num_genes:
            raise UserError(f"--genes {given} has {len(genes):,} symbols, {where} has {config.num_genes:,} genes")
        return genes
    published = ScFoundationConfig().num_genes
    if config.num_genes != published:
        raise UserError(
            f"{where} has {config.num_genes:,} genes, not the published {published:,}; give their list with --genes "
            f"FILE ({config.num_genes:,} symbols, one a line, in the order of pos_emb)"
        )
    symbols = bundled_symbols(published)
    assert symbols is not None
    return symbols


def _checked(x: Tensor, name: str, dtype: torch.dtype | None) -> Tensor:
    """Return a copy to be written, of this type where it has decimals.

    Raises
    ------
    UserError
        For NaN or infinity, or a value too large for the type.
    """
    if not x.is_floating_point():
        return x.contiguous().clone()
    if not bool(x.isfinite().all()):
        raise UserError(f"{name} holds NaN or infinity: damaged weights; nothing was written")
    cast = x.to(dtype or x.dtype).contiguous().clone()
    if not bool(cast.isfinite().all()):
        raise UserError(f"{name} holds {float(x.abs().max()):g}, too large for {dtype}; choose another --dtype")
    return cast


def _read_back(path: Path, part: Part, names: dict[str, str], *, dtype: torch.dtype | None) -> float:
    """Compare what was written with the checkpoint: largest error over largest magnitude of a tensor."""
    found, worst = load_file(path), 0.0
    if sorted(found) != sorted(names.values()):
        raise UserError(f"{path.name} came back with other names: the disk is at fault, convert again")
    for source, target in names.items():
        exact, back = part.tensors[source], found[target]
        if not torch.equal(back, exact.to(dtype) if dtype and exact.is_floating_point() else exact):
            raise UserError(f"{target} came back with other numbers: the disk is at fault, convert again")
        error, largest = (back.double() - exact.double()).abs().max(), exact.double().abs().max()
        worst = max(worst, float(error / largest) if largest else 0.0)
    return worst
