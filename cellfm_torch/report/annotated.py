"""What a report says of annotated cells: the tables behind it.

Shapes: B cells, C width of the embedding, G genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.analysis.markers import top_genes
from cellfm_torch.analysis.subpopulations import cluster_cells

UNKNOWN = "unknown"
RARE_SHARE = 0.01
"""Share of the cells below which a predicted type is called rare."""

TOP_GENES = 5
Words = NDArray[np.object_]


@dataclass(frozen=True)
class Annotated:
    """Annotated cells.

    Attributes
    ----------
    names : (B,)
        Of the cells.
    embedding : (B, C)
        NaN for cells without counts.
    coordinates : (B, 2)
        In the plane, NaN where the embedding is.
    label : (B,)
        The likeliest type of each cell, whether or not it was rejected.
    unknown : (B,) bool
        Rejected: no known type fits.
    probability : (B,) or None
        Of the likeliest type.
    runner_up : (B,) or None
    truth, batch : (B,) or None
        Given columns; a true type may be None.
    expression : (B, G)
        log1p(CP10K).
    genes : (G,)
    """

    names: Words
    embedding: NDArray[np.float32]
    coordinates: NDArray[np.float32]
    label: Words
    unknown: NDArray[np.bool_]
    probability: NDArray[np.float64] | None
    runner_up: Words | None
    truth: Words | None
    batch: Words | None
    expression: sp.csr_matrix
    genes: Words

    @property
    def prediction(self) -> Words:
        """The type of each cell, "unknown" for rejected ones, (B,)."""
        return np.where(self.unknown, UNKNOWN, self.label)

    @property
    def placed(self) -> NDArray[np.bool_]:
        """Which cells have coordinates, (B,)."""
        return np.asarray(np.isfinite(self.coordinates).all(1))

    def with_truth(self) -> tuple[Words, Words]:
        """Return true type and prediction of the cells that have a true type."""
        assert self.truth is not None
        known = np.array([word is not None for word in self.truth])
        return self.truth[known], self.prediction[known]


def genes_of(cells: Annotated, group: NDArray[np.bool_], against: NDArray[np.bool_] | None = None) -> str:
    """Return the top genes of a group, comma separated; "-" where none stand out."""
    found = top_genes(cells.expression, group, list(cells.genes), against=against, number=TOP_GENES)
    return ", ".join(str(gene) for gene in found["gene"]) or "-"


def predicted_types(cells: Annotated) -> pd.DataFrame:
    """Return one row per predicted type, most cells first: cells, share, probability, rejected cells, top genes.

    Rejected cells count for no type; the genes are those of the accepted cells against all others.
    """
    rows = []
    for name in sorted(set(cells.label)):
        every = cells.label == name
        mine = every & ~cells.unknown
        sure = np.nan if cells.probability is None or not mine.any() else float(np.nanmean(cells.probability[mine]))
        rows.append(
            (name, int(mine.sum()), mine.mean(), sure, int((every & cells.unknown).sum()), genes_of(cells, mine))
        )
    columns = ["type", "cells", "share", "probability", "rejected", "genes"]
    return pd.DataFrame(rows, columns=columns).sort_values("cells", ascending=False, kind="stable", ignore_index=True)


def rare_types(types: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of :func:`predicted_types` with at least one and less than 1 % of the cells."""
    return types[(types["cells"] > 0) & (types["share"] < RARE_SHARE)]


def unknown_clusters(cells: Annotated, *, seed: int = 0) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Cluster the rejected cells.

    Returns
    -------
    table
        One row per cluster, most cells first: ``cluster``, ``cells``, ``probability`` (mean), ``nearest`` (the types
        that its cells are likeliest of, with their shares), ``batches`` (where given), ``genes`` (against all other
        cells).
    codes : (B,)
        Cluster of each cell, -1 for the others.
    """
    chosen = cells.unknown & np.isfinite(cells.embedding).all(1)
    codes = cluster_cells(cells.embedding, chosen, seed=seed)
    rows = []
    for cluster in range(codes.max() + 1):
        mine = codes == cluster
        sure = np.nan if cells.probability is None else float(np.nanmean(cells.probability[mine]))
        rows.append(
            {
                "cluster": f"unknown {cluster + 1}",
                "cells": int(mine.sum()),
                "probability": sure,
                "nearest": shares_of(cells.label[mine]),
                "batches": "" if cells.batch is None else shares_of(cells.batch[mine]),
                "genes": genes_of(cells, mine),
            }
        )
    return pd.DataFrame(rows, columns=["cluster", "cells", "probability", "nearest", "batches", "genes"]), codes


def shares_of(words: Words, most: int = 3) -> str:
    """Say how often the commonest words occur: ``B 80 %, NK 20 %``."""
    shares = pd.Series(words).value_counts(normalize=True).head(most)
    return ", ".join(f"{name} {share:.0%}".replace("%", " %") for name, share in shares.items())


def flat(node: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return what ``uns`` says as pairs of dotted name and words; text that is JSON is read."""
    import json

    if isinstance(node, bytes):
        node = node.decode("utf-8", "replace")
    if isinstance(node, str) and node[:1] in "{[":
        try:
            node = json.loads(node)
        except ValueError:
            return [(prefix, node)]
    if isinstance(node, dict):
        return [pair for key, child in node.items() for pair in flat(child, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(node, np.ndarray | list | tuple):
        return [(prefix, ", ".join(str(item) for item in list(node)[:20]))]
    return [(prefix, str(node))]
