"""The files, or objects in memory, that a path, a glob, a manifest, an AnnData or a list of them stands for."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
from anndata import AnnData

from cellfm_torch.data.sources.formats import is_cell_folder
from cellfm_torch.data.sources.text import read_header
from cellfm_torch.errors import UserError, examples, nearest

PathLike = str | os.PathLike[str]

PATH_COLUMN = "path"
"""Column of a manifest with the files; the others are annotations of their cells."""

_TABLES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_SIDE_TABLE = re.compile(r"(barcodes|features|genes)\.tsv(\.gz)?$")


@dataclass(frozen=True)
class Input:
    """A file of cells, a folder that is one, or cells in memory.

    Attributes
    ----------
    path : Path
        Of cells in memory what messages call them.
    obs : dict
        Annotations that a manifest gives to all of its cells.
    adata : AnnData, optional
        The cells in memory.
    """

    path: Path
    obs: dict[str, Any] = field(default_factory=dict)
    adata: AnnData | None = None


Given: TypeAlias = str | os.PathLike[str] | AnnData | Input
"""A path, a glob, a manifest, or cells in memory, whose place is known or not."""


def as_list(given: Given | Iterable[Given]) -> list[Given]:
    """Return a list of what was given, one or several."""
    return [given] if isinstance(given, str | os.PathLike | AnnData | Input) else list(given)


def find_inputs(path: Given | Iterable[Given]) -> list[Input]:
    """Return the files a path, a glob, a manifest or a list of them stands for, each once, in order.

    A manifest is a csv, tsv or parquet table with a column ``path``: files or globs, relative to its folder.

    Raises
    ------
    UserError
        If one of them is missing, with the nearest name that exists, or is a folder of files.
    """
    found: dict[Path, Input] = {}
    for number, item in enumerate(given := as_list(path)):
        if isinstance(item, AnnData):
            name = Path("AnnData" if len(given) == 1 else f"AnnData {number}")
            found[name] = Input(name, adata=item)
            continue
        if isinstance(item, Input):
            found[item.path] = item
            continue
        for file in _expand(Path(item).expanduser()):
            for entry in _read_manifest(file) if is_manifest(file) else [Input(file)]:
                found.setdefault(entry.path, entry)
    if not found:
        raise UserError("no input file given: set data.path=FILE_OR_GLOB")
    return list(found.values())


def find_files(path: Given | Iterable[Given]) -> list[Path]:
    """Return the paths of :func:`find_inputs`."""
    return [entry.path for entry in find_inputs(path)]


def one_file(given: PathLike | Iterable[PathLike]) -> Path:
    """Return the one file that a path, or a list of one, stands for.

    Raises
    ------
    UserError
        If there is none, or there are several.
    """
    found = find_files(given)
    if len(found) != 1:
        raise UserError(f"give one file of cells, not {len(found)} ({examples(found, most=2, longest=80)})")
    return found[0]


def _expand(path: Path) -> list[Path]:
    if path.is_file() or (path.is_dir() and is_cell_folder(path)):
        return [path]
    if path.is_dir():
        raise UserError(f"{path}: is a folder: give its files as data.path='{path}/*.h5ad'")
    matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    # The tables beside a Matrix Market file are read with it.
    files = [match for match in matches if match.is_file() and not _SIDE_TABLE.search(match.name)]
    folders = [match for match in matches if match.is_dir() and is_cell_folder(match)]
    inside = tuple(f"{folder}{os.sep}" for folder in folders)
    if kept := sorted(match for match in [*files, *folders] if not str(match).startswith(inside)):
        return kept
    what = "no file matches" if glob.has_magic(str(path)) else "no such file"
    if not path.parent.is_dir():
        raise UserError(f"{path}: {what}: there is no folder {path.parent}")
    raise UserError(f"{path}: {what}{nearest(path.name, os.listdir(path.parent))}")


def is_manifest(path: Path) -> bool:
    """Whether a file is a table of files rather than of counts."""
    if path.suffix == ".parquet":
        return True
    if not path.is_file() or not path.name.endswith(_TABLES):
        return False
    try:
        return PATH_COLUMN in read_header(path)[0]
    except Exception:  # whatever it is, the reader of tables says what is wrong with it
        return False


def _read_manifest(path: Path) -> list[Input]:
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else _read_table(path)
    except ImportError:
        raise UserError(f"{path}: reading parquet takes pyarrow: pip install pyarrow, or give a csv file") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: is damaged or not a valid manifest ({reason}): write it again") from error
    if PATH_COLUMN not in table:
        there = ", ".join(map(str, table.columns)) or "none"
        raise UserError(f"{path}: has no column '{PATH_COLUMN}' (it has {there}): name the column of files so")
    if not len(table):
        raise UserError(f"{path}: names no file: give one a row, in the column '{PATH_COLUMN}'")
    entries = []
    for line, row in enumerate(table.to_dict("records"), start=2):
        name = row.pop(PATH_COLUMN)
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{path}: row {line} names no file: fill in its '{PATH_COLUMN}', or take the row out")
        file = Path(name.strip()).expanduser()
        try:
            files = _expand(file if file.is_absolute() else path.parent / file)
        except UserError as error:
            raise UserError(f"{path}: row {line}: {error}") from None
        entries += [Input(each, {str(column): value for column, value in row.items()}) for each in files]
    return entries


def _read_table(path: Path) -> pd.DataFrame:
    names, separator = read_header(path)
    table = pd.read_csv(path, sep=separator, skiprows=1, header=None, names=names, index_col=False, dtype={0: str})
    return table.astype({PATH_COLUMN: object})
