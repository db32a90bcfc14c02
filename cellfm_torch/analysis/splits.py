"""Which cells to learn from and which to test on: folds, held-out groups, a few of each type.

Shapes: n cells; codes are classes 0 .. C - 1, or -1 for a cell without one, which takes no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.errors import UserError, examples

Codes = NDArray[np.integer[Any]]

HOLD_OUT, FOLDS, FEW = 11, 12, 13
"""First words of the seeds, so that the three draws have nothing to do with each other."""


def _shuffled(codes: Codes, stream: int, seed: int) -> list[NDArray[np.int64]]:
    """Return the rows of each class, shuffled."""
    rng = np.random.default_rng([stream, seed])
    return [rng.permutation(np.flatnonzero(codes == code)) for code in range(int(codes.max(initial=-1)) + 1)]


def hold_out(codes: Codes, fraction: float, *, seed: int) -> NDArray[np.bool_]:
    """Hold out a share of each class, (n,) bool; of every class at least one cell is left."""
    chosen = np.zeros(len(codes), dtype=bool)
    for rows in _shuffled(codes, HOLD_OUT, seed):
        chosen[rows[: min(round(fraction * len(rows)), len(rows) - 1)] if len(rows) else rows] = True
    return chosen


def folds(codes: Codes, number: int, names: Sequence[str], *, seed: int) -> NDArray[np.int64]:
    """Deal each class out to folds, (n,) fold of each cell, -1 for a cell without a class.

    Raises
    ------
    UserError
        If there is one fold, or a class has fewer cells than there are folds.
    """
    if number < 2:
        raise UserError(f"folds={number}: must be at least 2 folds")
    sizes = np.bincount(codes[codes >= 0], minlength=len(names))
    few = [f"'{name}' ({size})" for name, size in zip(names, sizes, strict=True) if 0 < size < number]
    if few:
        raise UserError(
            f"folds={number}: {len(few)} types have fewer cells than folds, such as {examples(few)}: use fewer folds, "
            "or join or leave out these types with a table of labels (labels_map)"
        )
    fold = np.full(len(codes), -1, dtype=np.int64)
    dealt = 0
    for rows in _shuffled(codes, FOLDS, seed):
        fold[rows] = (np.arange(len(rows)) + dealt) % number  # on from where the last class ended: folds of one size
        dealt += len(rows)
    return fold


def few_shot(codes: Codes, number: int, *, seed: int) -> NDArray[np.bool_]:
    """Choose some labelled cells of each class, (n,) bool; all of a class that has no more.

    Raises
    ------
    UserError
        If the number is below 1.
    """
    if number < 1:
        raise UserError(f"few_shot={number}: must be at least 1 cell of each type")
    chosen = np.zeros(len(codes), dtype=bool)
    for rows in _shuffled(codes, FEW, seed):
        chosen[rows[:number]] = True
    return chosen
