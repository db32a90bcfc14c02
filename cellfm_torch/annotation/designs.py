"""Which cells an evaluation learns from and which it is asked about.

Shapes: n reference cells, q query cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.analysis.splits import few_shot, folds
from cellfm_torch.errors import UserError, examples

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """One fit: reference rows to learn from, and rows of the query or of the reference to ask about."""

    train: Rows
    test: Rows
    of_query: bool


@dataclass(frozen=True)
class Design:
    """An evaluation of one seed: its parts are scored together."""

    name: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Labelled:
    """Codes of usable reference cells and, where it has labels, of the query.

    Attributes
    ----------
    classes
        Names of the types of the reference.
    codes : (n,)
        Class of each reference cell; -1 where it has no label, or no counts.
    query : (q,) bool or None
        Which query cells have a label (of any type) and counts; None without labels.
    """

    classes: tuple[str, ...]
    codes: NDArray[np.int64]
    query: NDArray[np.bool_] | None


def designs(
    cells: Labelled,
    *,
    seed: int,
    split: int | None = None,
    groups: pd.Series | None = None,
    few: Sequence[int] = (),
) -> list[Design]:
    """Return the evaluations asked for.

    Parameters
    ----------
    cells
        Their labels.
    seed
        Of folds and of the few.
    split
        Folds within the reference.
    groups
        Value of each reference cell whose cells are left out together, such as its batch; its name is the column's.
    few
        Numbers of labelled cells per type; asked about are the labelled query, or without it the other cells of the
        reference.

    Raises
    ------
    UserError
        If there are too few cells or groups.
    """
    known = np.flatnonzero(cells.codes >= 0)
    query = None if cells.query is None else np.flatnonzero(cells.query)
    found = []
    if query is not None:
        found.append(Design("query", (Part(known, query, True),)))
    if split is not None:
        fold = folds(cells.codes, split, cells.classes, seed=seed)
        parts = [Part(known[fold[known] != i], np.flatnonzero(fold == i), False) for i in range(split)]
        found.append(Design(f"{split}-fold", tuple(parts)))
    if groups is not None:
        found += _left_out(cells.codes, groups)
    for number in few:
        chosen = few_shot(cells.codes, number, seed=seed)
        train = np.flatnonzero(chosen)
        test = np.flatnonzero(~chosen & (cells.codes >= 0)) if query is None else query
        if not len(test):
            raise UserError(f"few_shot={number}: no cell is left to test on: ask for fewer, or give a labelled query")
        found.append(Design(f"{number} per type", (Part(train, test, query is not None),)))
    return found


def _left_out(codes: NDArray[np.int64], groups: pd.Series) -> list[Design]:
    names = sorted(groups.dropna().unique())
    if len(names) < 2:
        raise UserError(f"leave_out={groups.name}: has one value only ({examples(names)}): it takes two")
    found = []
    for name in names:
        out = (groups == name).to_numpy()
        train, test = np.flatnonzero(~out & (codes >= 0)), np.flatnonzero(out & (codes >= 0))
        if len(np.unique(codes[train])) < 2 or not len(test):
            raise UserError(
                f"leave_out={groups.name}: without '{name}' fewer than two types are left to learn from, or it has no "
                "labelled cell: choose another column"
            )
        found.append(Design(f"without {groups.name} {name}", (Part(train, test, False),)))
    return found
