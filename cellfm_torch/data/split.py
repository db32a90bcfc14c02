"""Which cells are held out for validation: single cells, or whole groups of them such as donors or data sets.

Shapes: n cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.errors import UserError, nearest

SPLIT_STREAM = 4
"""First word of the seed of the split (see :data:`cellfm_torch.data.order.ORDER_STREAM`)."""


def split_cells(total: int, fraction: float, *, seed: int) -> NDArray[np.bool_]:
    """Hold out a share of the cells, drawn evenly, (n,) bool.

    Raises
    ------
    UserError
        If that leaves no cell to train on or none to validate on.
    """
    held_out = round(fraction * total)
    if not 0 < held_out < total:
        raise UserError(
            f"data.val_fraction={fraction} of {total:,} cells leaves {total - held_out:,} to train on and "
            f"{held_out:,} to validate on: change it, or give more cells"
        )
    chosen = np.zeros(total, dtype=bool)
    chosen[np.random.default_rng([SPLIT_STREAM, seed]).permutation(total)[:held_out]] = True
    return chosen


def split_groups(
    groups: pd.Categorical, fraction: float, *, seed: int, names: Sequence[str] | None = None, by: str
) -> NDArray[np.bool_]:
    """Hold out whole groups, (n,) bool: those named, or a random choice with about a share of the cells.

    Parameters
    ----------
    groups
        The group of each cell (n,). Cells without one are trained on.
    names
        Groups to hold out; None draws them.
    by
        What the groups are, for messages.

    Raises
    ------
    UserError
        If there is no such group, or none is left to train on.
    """
    categories = [str(name) for name in groups.categories]
    sizes = np.bincount(groups.codes[groups.codes >= 0], minlength=len(categories))
    if names is not None:
        for name in names:
            if str(name) not in categories:
                raise UserError(f"data.val_groups: there is no {by} '{name}'{nearest(str(name), categories)}")
        wanted = {str(name) for name in names}
        chosen = np.array([name in wanted for name in categories], dtype=bool)
    else:
        chosen = np.zeros(len(categories), dtype=bool)
        left = fraction * len(groups)
        for group in np.random.default_rng([SPLIT_STREAM, seed]).permutation(len(categories)):
            if sizes[group] <= 2 * left:  # nearer to the wanted number with it than without it
                chosen[group] = True
                left -= sizes[group]
        if not chosen.any() and len(sizes):
            chosen[np.argmin(np.where(sizes > 0, sizes, len(groups) + 1))] = True
    if not chosen.any() or sizes[chosen].sum() == len(groups):
        listed = ", ".join(f"{name} ({size:,} cells)" for name, size in zip(categories[:5], sizes[:5], strict=True))
        raise UserError(
            f"data.split_by={by}: no way to hold out about {fraction:.0%} of {len(groups):,} cells in "
            f"{len(categories)} groups ({listed}): change data.val_fraction, or name groups in data.val_groups"
        )
    return np.append(chosen, False)[groups.codes]
