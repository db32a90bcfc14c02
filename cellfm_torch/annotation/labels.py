"""Names of cell types: of a column, harmonised by a table, as codes.

Shapes: n cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.data.labelled import CellSet
from cellfm_torch.errors import UserError, examples, nearest


def read_labels_map(path: str | Path | None) -> dict[str, str]:
    """Read a csv with columns ``from`` and ``to``; an empty ``to`` means no label.

    Raises
    ------
    UserError
        If there is no such file, a column is missing, or a name stands in ``from`` twice.
    """
    if path is None:
        return {}
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"labels_map={path}: no such file: give a csv with columns from,to")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as problem:
        raise UserError(f"{path}: is no csv table ({' '.join(str(problem).split())[:100]})") from problem
    missing = [name for name in ("from", "to") if name not in table]
    if missing:
        raise UserError(f"{path}: has no column '{missing[0]}' (it has {', '.join(table)}): name its columns from,to")
    names = table["from"].str.strip()
    if (twice := names[names.duplicated()]).size:
        raise UserError(f"{path}: row {twice.index[0] + 2} names '{twice.iloc[0]}' a second time: leave one row")
    return dict(zip(names, table["to"].str.strip(), strict=True))


def labels_of(cells: CellSet, column: str, *, option: str, names: Mapping[str, str] | None = None) -> pd.Series:
    """Return the type of each cell, n rows, None where it has none.

    Raises
    ------
    UserError
        If there is no such column, or no cell has a label.
    """
    found = cells.column(column, option=option)
    labels = found.map(lambda name: None if name is None else ((names or {}).get(name, name) or None)).astype(object)
    labels = labels.where(labels.notna(), None)
    if labels.isna().all():
        raise UserError(f"{option}={column}: none of the {len(labels):,} cells has a label there")
    return labels


def classes_of(labels: pd.Series, *, option: str) -> tuple[str, ...]:
    """Return the types that occur, sorted.

    Raises
    ------
    UserError
        If there is only one.
    """
    classes = tuple(sorted(labels.dropna().unique()))
    if len(classes) < 2:
        raise UserError(f"{option}: all labelled cells are '{classes[0]}'; it takes two types to tell apart")
    return classes


def codes_of(labels: pd.Series, classes: Sequence[str]) -> NDArray[np.int64]:
    """Return the class of each cell, (n,); -1 for no label or one that is no class."""
    return pd.Categorical(labels, categories=list(classes)).codes.astype(np.int64)


def check_shared(labels: pd.Series, classes: Sequence[str], *, option: str) -> None:
    """Refuse a query none of whose types the reference has.

    Raises
    ------
    UserError
        With the nearest names of one of them.
    """
    there = sorted(labels.dropna().unique())
    if not set(there) & set(classes):
        raise UserError(
            f"{option}: reference and query share no type; the query has {examples(there)}, the reference "
            f"{examples(classes)}{nearest(there[0], classes)} give a table of columns from,to as labels_map"
        )
