"""Finding and opening h5ad files and what to read in them, with one clear line for everything that can be wrong."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import anndata
import h5py
import pandas as pd

from cellfm_torch.data import counts as ops
from cellfm_torch.data.genes import GeneMatch, GeneVocab
from cellfm_torch.errors import UserError, nearest

PathLike = str | os.PathLike[str]


def find_files(path: PathLike | Iterable[PathLike]) -> list[Path]:
    """Return the files a path, a glob or a list of them stands for, each once, in order.

    Raises
    ------
    UserError
        If one of them is missing or a folder, with the nearest name that exists.
    """
    given = [path] if isinstance(path, str | os.PathLike) else list(path)
    files = [file for item in given for file in _expand(Path(item).expanduser())]
    if not files:
        raise UserError("no input file given: set data.path=FILE_OR_GLOB")
    return list(dict.fromkeys(files))


def _expand(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        raise UserError(f"{path}: is a folder: give its files as data.path='{path}/*.h5ad'")
    matches = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if os.path.isfile(name))
    if matches:
        return matches
    what = "no file matches" if glob.has_magic(str(path)) else "no such file"
    if not path.parent.is_dir():
        raise UserError(f"{path}: {what}: there is no folder {path.parent}")
    raise UserError(f"{path}: {what}{nearest(path.name, os.listdir(path.parent))}")


def open_h5ad(path: Path) -> anndata.AnnData:
    """Read an h5ad file into memory.

    Raises
    ------
    UserError
        If the file is not readable, not HDF5, cut short, or not AnnData.
    """
    try:
        with h5py.File(path) as file:
            missing = [part for part in ("obs", "var") if part not in file]
    except PermissionError:
        raise UserError(f"{path}: no permission to read it") from None
    except OSError as error:
        if "truncated file" in str(error):
            raise UserError(f"{path}: is truncated (its end is missing): copy or download it again") from None
        raise UserError(f"{path}: is not an h5ad file: give a file written by AnnData.write_h5ad") from None
    if missing:
        raise UserError(
            f"{path}: is HDF5 but not h5ad (no {' and no '.join(missing)}): write it with AnnData.write_h5ad"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # repeated names and old formats are dealt with here or do not matter
        try:
            return anndata.read_h5ad(path)
        except Exception as error:  # whatever type the damaged part makes anndata or HDF5 raise
            reason = str(error).strip().partition("\n")[0][:200]
            raise UserError(f"{path}: is damaged or not a valid h5ad ({reason}): write or copy it again") from error


def choose_layer(adata: anndata.AnnData, layer: str | None, *, file: Path) -> tuple[object, pd.DataFrame]:
    """Return a matrix (cells, genes) and the table of its genes: ``X``, ``raw.X`` for ``"raw"``, or a layer.

    Raises
    ------
    UserError
        If there is none of that name, with those there are.
    """
    if layer is not None and layer in adata.layers:
        return adata.layers[layer], adata.var
    if layer == "raw" and adata.raw is not None:
        return adata.raw.X, adata.raw.var
    there = [*adata.layers, *(["raw"] if adata.raw is not None else [])]
    listed = f"it has {', '.join(there)}" if there else "it has X only: leave data.layer out"
    if layer is not None:
        raise UserError(f"{file}: has no layer '{layer}' ({listed}){nearest(layer, there)}")
    if adata.X is None:
        raise UserError(f"{file}: has no X ({listed}): choose with data.layer=NAME")
    return adata.X, adata.var


def gene_names(var: pd.DataFrame, column: str | None, *, file: Path) -> pd.Index:
    """Return the gene names: the index of `var`, or a column.

    Raises
    ------
    UserError
        If there is no such column, with those there are.
    """
    if column is None:
        return var.index.astype(str)
    if column not in var:
        there = [str(name) for name in var.columns]
        raise UserError(
            f"{file}: var has no column '{column}' (it has {', '.join(there) or 'none'}){nearest(column, there)}"
        )
    return pd.Index(var[column].astype(str))


def no_gene_matches(match: GeneMatch, var: pd.DataFrame, vocab: GeneVocab, *, file: Path) -> UserError:
    """Return the error for gene names foreign to the vocabulary, naming a column of `var` that would do."""
    examples = ", ".join(match.names[:3]) or "it has no genes"
    found = {str(column): len(vocab.match(var[column].astype(str)).matched) for column in var.columns}
    best = max(found, key=lambda column: found[column], default=None)
    if best is not None and found[best]:
        advice = f"use data.gene_column={best} ({found[best]:,} genes match)"
    else:
        advice = f"symbols (such as {vocab.symbols[0]}) or Ensembl ids are expected, in var_names or data.gene_column"
    return UserError(f"{file}: none of its {len(match.names):,} gene names ({examples}) is in the vocabulary: {advice}")


def layer_with_counts(adata: anndata.AnnData, *, other_than: str | None) -> str | None:
    """Return the name of a layer (or ``"raw"``) whose first cells hold whole counts, or None."""
    matrices = {name: adata.layers[name] for name in adata.layers}
    if adata.raw is not None:
        matrices["raw"] = adata.raw.X
    for name, matrix in matrices.items():
        values = ops.to_csr(matrix[:200]).data
        if name != other_than and len(values) and ops.is_whole(values) and values.min() > 0:
            return name
    return None


def where_counts_are(adata: anndata.AnnData, layer: str | None) -> str:
    """Advise on the matrix to read, after the one read turned out not to hold counts."""
    name = layer_with_counts(adata, other_than=layer)
    return f"use data.layer={name}, which holds whole counts" if name else "name the layer with counts: data.layer=NAME"
