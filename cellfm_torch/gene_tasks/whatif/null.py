"""Is the shift by a gene more than that by genes of the same expression: a permutation test.

Shapes: E edits of all cells, m cells in which a gene was edited, R permutations.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.analysis.markers import benjamini_hochberg

LEAST_SHIFT = 1e-14
"""Below is rounding: an embedding in float32 is exact to 1e-7 of its length."""

NEIGHBOURS = 10
"""Edits of a cell nearest in value among which a label is permuted."""


def permutation_test(
    edits: pd.DataFrame, genes: NDArray[np.int64], *, permutations: int = 1000, least_cells: int = 3, seed: int = 0
) -> pd.DataFrame:
    """Test each gene's mean shift against that of genes in its place.

    In each cell in which a gene was edited, one of the edits of the cell is drawn in its place, from the ten of other
    genes whose value was nearest; the mean of these over cells is what a gene of the same expression would do. The
    higher a gene, the further it moves a cell, and the highest have none but lower ones near: what is drawn is moved
    along the cell's trend (a straight line of log shift on value) to the value of the gene it stands for. Means are of
    logarithms, as single genes move a cell a thousand times as far as most.

    Parameters
    ----------
    edits
        ``cell``, ``gene`` (id), ``value`` before, ``shift``.
    genes : (M,)
        Ids of those tested; edits of others serve as comparison only.
    permutations
        R; the least p is 1 / (R + 1).
    least_cells
        Genes edited in fewer cells are not tested: NaN.
    seed
        Of the permutations.

    Returns
    -------
    DataFrame with ``gene`` (id), ``cells``, ``shift`` (geometric mean), ``null`` (that of the permutations), ``z`` (of
    the mean logarithm), ``p`` (one-sided) and ``fdr`` (Benjamini-Hochberg), by falling z.
    """
    edits = edits.sort_values(["cell", "value", "gene"], kind="stable", ignore_index=True)
    cell, gene, shift = (edits[name].to_numpy() for name in ("cell", "gene", "shift"))
    starts = np.searchsorted(cell, cell, side="left")
    ends = np.searchsorted(cell, cell, side="right")
    logs = np.log(np.maximum(shift, LEAST_SHIFT))
    trend = _trend(cell, edits["value"].to_numpy(dtype=np.float64), logs)
    aside = logs - trend
    rng, rows = np.random.default_rng(seed), []
    for one in genes:
        at = np.flatnonzero(gene == one)
        at = at[ends[at] - starts[at] > 1]  # alone in its cell there is nothing to compare with
        own = logs[at].mean() if len(at) else np.nan
        row = {"gene": one, "cells": len(at), "shift": np.exp(own), "null": np.nan, "z": np.nan, "p": np.nan}
        if len(at) >= least_cells:
            drawn = _in_its_place(at, starts[at], ends[at], permutations, rng)
            null = (trend[at] + aside[drawn]).mean(1)
            spread = null.std(ddof=1)
            row["null"] = np.exp(null.mean())
            row["z"] = (own - null.mean()) / spread if spread > 0 else 0.0
            row["p"] = (1 + (null >= own).sum()) / (permutations + 1)
        rows.append(row)
    table = pd.DataFrame(rows, columns=["gene", "cells", "shift", "null", "z", "p"])
    tested = table["p"].notna().to_numpy()
    table["fdr"] = np.nan
    table.loc[tested, "fdr"] = benjamini_hochberg(table.loc[tested, "p"].to_numpy(dtype=np.float64))
    return table.sort_values("z", ascending=False, kind="stable", na_position="last", ignore_index=True)


def _trend(cell: NDArray[np.int64], value: NDArray[np.float64], logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the straight line through each cell's edits at each value, (E,); a constant where values do not differ."""
    _, which, number = np.unique(cell, return_inverse=True, return_counts=True)

    def mean(x: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = (np.bincount(which, x) / number)[which]
        return found

    x, y = value - mean(value), logs - mean(logs)
    spread = mean(x * x)
    slope = np.where(spread > 1e-9, mean(x * y) / np.where(spread > 1e-9, spread, 1), 0)
    return logs - y + slope * x


def _in_its_place(
    at: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    permutations: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw for each edit another one of the same cell, near in value: (R, m) rows."""
    # A window of the nearest in order of value, moved inside where it would leave the cell.
    size = np.minimum(NEIGHBOURS + 1, ends - starts)
    low = np.clip(at - size // 2, starts, ends - size)
    drawn = low + np.floor(rng.random((permutations, len(at))) * (size - 1)).astype(np.int64)
    return drawn + (drawn >= at)
