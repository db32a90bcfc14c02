"""What a user asks of the cells, where it depends on the model: masks, target depth, totals.

Shapes: n cells.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.batch import InputSpec, Masking
from cellfm_torch.data.collection import Collection
from cellfm_torch.data.options import ReadOptions
from cellfm_torch.errors import UserError, nearest, shortened
from cellfm_torch.read_depth import TargetDepth

OPTION_OF = {"fraction": "mask_fraction"}
MAY_BE_ZERO = ("random_share", "zero_fraction")


def choose_masking(spec: InputSpec, shares: Mapping[str, float | None]) -> Masking:
    """Return the model's masking with the shares that are not None changed.

    Raises
    ------
    UserError
        If one is out of its range.
    """
    given = {name: share for name, share in shares.items() if share is not None}
    for name, share in given.items():
        zero = name in MAY_BE_ZERO
        if share < 0 or share > 1 or (share == 0 and not zero):
            least = "at least 0" if zero else "above 0"
            raise UserError(f"data.{OPTION_OF.get(name, name)}={share}: must be {least} and at most 1")
    chosen = dataclasses.replace(spec.masking, **given)  # type: ignore[arg-type]
    if chosen.hidden_share + chosen.random_share > 1 + 1e-9:
        raise UserError(
            f"data.hidden_share={chosen.hidden_share} and data.random_share={chosen.random_share}: shares of the same "
            "targets, together at most 1"
        )
    if chosen.zero_fraction and not spec.expressed_only:
        raise UserError("data.zero_fraction: this model reads unexpressed genes anyway; leave it out")
    return chosen


def choose_target_depth(spec: InputSpec, rule: str | None) -> TargetDepth | None:
    """Return the rule for T, by default the model's own.

    Raises
    ------
    UserError
        If it is none, or the model reads no depths.
    """
    if rule is None:
        return None if spec.target_depth is None else TargetDepth.parse(spec.target_depth)
    if not spec.read_depth:
        raise UserError(f"data.target_depth={rule}: this model reads no depths; leave it out")
    return TargetDepth.parse(rule)


def choose_downsample(spec: InputSpec, asked: bool | None, read: ReadOptions, *, totals: str | None) -> bool:
    """Return whether cells are downsampled in training, by default where the model reads depths.

    Raises
    ------
    UserError
        If counts are needed, for that or for the depths, and there are none.
    """
    lost = read.counts == "normalised"
    if lost and spec.read_depth and totals is None:
        raise UserError(
            "the model reads the total counts of cells, and data.counts=normalised has none: name the column of obs "
            "that holds them with data.totals=COLUMN"
        )
    if lost and asked:
        raise UserError("data.downsample=true needs counts, and data.counts=normalised has none: leave it out")
    return spec.read_depth and not lost if asked is None else asked


def total_counts(collection: Collection, column: str) -> NDArray[np.float64]:
    """Return the total counts of each cell, (n,), from a column of obs.

    Raises
    ------
    UserError
        If there is no such column, or a value is no number of counts.
    """
    there = collection.columns
    if column not in there:
        raise UserError(
            f"data.totals={column}: no such column in obs (it has {', '.join(there)}){nearest(column, there)}"
        )
    totals = pd.to_numeric(collection.column(column), errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~(np.isfinite(totals) & (totals >= 1))
    if wrong.any():
        first = int(np.argmax(wrong))
        value = shortened(collection.column(column).iloc[first])
        raise UserError(
            f"data.totals={column}: is {value} for cell {first + 1:,} of those kept; totals are counts, at least 1"
        )
    return totals
