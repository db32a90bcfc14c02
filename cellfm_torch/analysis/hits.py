"""Neighbourhoods with a condition enriched, put together: by cell type and direction, with their genes.

Shapes: B cells, H neighbourhoods, G genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.analysis.markers import top_genes
from cellfm_torch.analysis.neighbourhoods import Neighbourhoods

MIXED = "mixed"
PURE = 0.7
"""Share of a neighbourhood's cells that one type must have to name it."""


def name_neighbourhoods(areas: Neighbourhoods, labels: NDArray[Any]) -> pd.DataFrame:
    """Return the commonest type of each neighbourhood (``type``, "mixed" below 70 %) and its share (``type_share``)."""
    codes, names = pd.factorize(pd.Series(labels).fillna("none"))
    one_hot = sp.csr_matrix((np.ones(len(codes)), (np.arange(len(codes)), codes)), shape=(len(codes), len(names)))
    counts = np.asarray((areas.members @ one_hot).toarray())
    best, share = counts.argmax(1), counts.max(1) / counts.sum(1)
    named = np.where(share >= PURE, np.asarray(names, dtype=object)[best], MIXED)
    return pd.DataFrame({"type": named, "type_share": share})


def hit_groups(
    areas: Neighbourhoods,
    tested: pd.DataFrame,
    x: sp.csr_matrix,
    genes: Sequence[str],
    labels: NDArray[Any],
    *,
    fdr: float,
    number: int = 5,
) -> pd.DataFrame:
    """Put the significant neighbourhoods together by type and direction.

    Parameters
    ----------
    tested
        H rows: ``log2_odds``, ``fdr``, ``type``.
    x : (B, G)
        log1p(CP10K) of the cells.
    genes, labels
        Names of the genes (G,) and types of the cells (B,).
    fdr
        Of the hits.
    number
        Top genes per group.

    Returns
    -------
    DataFrame, one row per group: ``type``, ``direction`` ("more" or "less" in the case), ``neighbourhoods`` (hits),
    ``of`` (neighbourhoods of that type), ``cells``, ``log2_odds`` (median of the hits), ``fdr`` (least), ``genes``:
    higher in the group's cells than in the other cells of the type, or than in all others where these are fewer than
    ten. They are found on cells chosen by their neighbours and describe the hits; they are no test over donors.
    """
    rows = []
    for (kind, more), hits in tested[tested["fdr"] <= fdr].groupby(["type", tested["log2_odds"] > 0]):
        inside = np.asarray(areas.members[hits.index.to_numpy()].sum(0)).ravel() > 0
        others = ~inside if kind == MIXED else ~inside & (labels == kind)
        if others.sum() < 10:
            others = ~inside
        found = top_genes(x, inside, genes, against=others, number=number)
        rows.append(
            {
                "type": kind,
                "direction": "more" if more else "less",
                "neighbourhoods": len(hits),
                "of": int((tested["type"] == kind).sum()),
                "cells": int(inside.sum()),
                "log2_odds": float(hits["log2_odds"].median()),
                "fdr": float(hits["fdr"].min()),
                "genes": ", ".join(found["gene"]) or "-",
            }
        )
    columns = ["type", "direction", "neighbourhoods", "of", "cells", "log2_odds", "fdr", "genes"]
    return pd.DataFrame(rows, columns=columns).sort_values("neighbourhoods", ascending=False, ignore_index=True)
