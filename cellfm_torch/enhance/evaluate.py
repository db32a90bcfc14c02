"""Cells that are downsampled, enhanced, and compared with what they were.

Shapes: n cells, g genes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.analysis.expression import fitted_pca
from cellfm_torch.data.labelled import CellSet
from cellfm_torch.enhance import baselines
from cellfm_torch.enhance.network import at_depth
from cellfm_torch.enhance.scores import cluster_scores, expression_scores
from cellfm_torch.errors import UserError
from cellfm_torch.model.loading import untrained

Floats = NDArray[np.float32]

RANDOM = "random weights"
LEAST_CELLS = 50


def downsampled(cells: CellSet, share: float, *, seed: int) -> CellSet:
    """Return the same cells with each count kept with a probability.

    Raises
    ------
    UserError
        If the share is no share.
    """
    if not 0 < share <= 1:
        raise UserError(f"downsample={share}: give shares of the counts above 0 and at most 1, such as 0.1")
    rng = np.random.default_rng([seed, round(share * 1e6)])
    counts = cells.counts.copy()
    counts.data = rng.binomial(counts.data, share).astype(counts.data.dtype)
    counts.eliminate_zeros()
    return CellSet(dataclasses.replace(cells.cells, counts=counts), cells.spec, token_budget=cells.token_budget)


def evaluate(
    network: Any,
    cells: CellSet,
    shares: Sequence[float],
    *,
    seeds: Sequence[int] = (0,),
    labels: NDArray[np.object_] | None = None,
    reference: CellSet | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """Downsample cells and score what is made of them, beside baselines.

    The network is told the true depth, as a rule: the share's inverse times the counts that are left. Scored are genes
    that at least one of the cells expresses, cells that keep a count at every share.

    Parameters
    ----------
    network
        That reads depths.
    cells
        Full cells; best ones that the network was not trained on.
    shares
        Of the counts that are kept.
    seeds
        Of the downsampling.
    labels : (n,) str, optional
        Known types, for scores of clusters; None for cells without one.
    reference
        Other full cells, for their mean; None: half of the cells are taken for it and not scored.
    say
        Told what is about to be done.

    Returns
    -------
    DataFrame, a row per share, seed and way: the metrics of :func:`~cellfm_torch.enhance.scores.expression_scores`
    and, with labels, ``nmi``, ``ari`` and ``silhouette`` on 50 principal components of the expression; for the
    network's embedding in a row of its own.

    Raises
    ------
    UserError
        If there are too few cells.
    """
    if len(cells) < LEAST_CELLS:
        raise UserError(f"downsample: {len(cells)} cells are too few to score, {LEAST_CELLS} are needed")
    if reference is None:
        half = np.random.default_rng(0).permutation(len(cells)) < len(cells) // 2
        reference, cells = subset(cells, np.flatnonzero(half)), subset(cells, np.flatnonzero(~half))
        labels = None if labels is None else labels[~half]
    columns = np.flatnonzero(cells.counts.getnnz(axis=0))
    other: Any = untrained(network, seed=0)
    rows = []
    for share in shares:
        for seed in seeds:
            thin = downsampled(cells, share, seed=seed)
            used = np.flatnonzero(thin.lengths > 0)
            thin, full = subset(thin, used), subset(cells, used)
            own = None if labels is None else labels[used]
            truth = baselines.as_it_is(full.counts[:, columns])
            counts = thin.counts[:, columns]
            ways: dict[str, Callable[[], tuple[Floats, Floats | None]]] = {
                type(network).__name__: lambda thin=thin, share=share: at_depth(  # type: ignore[misc]
                    network, thin, f"f{1 / share:.9g}", columns=columns
                ),
                "downsampled cell": lambda counts=counts: (baselines.as_it_is(counts), None),  # type: ignore[misc]
                "neighbours, pooled": lambda counts=counts, seed=seed: (  # type: ignore[misc]
                    baselines.pooled_neighbours(counts, seed=seed),
                    None,
                ),
                "neighbours, mean": lambda counts=counts, seed=seed: (  # type: ignore[misc]
                    baselines.mean_of_neighbours(counts, seed=seed),
                    None,
                ),
                "mean of others": lambda thin=thin: (  # type: ignore[misc]
                    baselines.mean_of_others(reference.counts[:, columns], len(thin)),
                    None,
                ),
                RANDOM: lambda thin=thin, share=share: at_depth(  # type: ignore[misc]
                    other, thin, f"f{1 / share:.9g}", columns=columns
                ),
            }
            for name, way in ways.items():
                say(f"{share:.0%} of the counts, seed {seed}: {name}")
                expression, embedding = way()
                row: dict[str, Any] = {"share": share, "seed": seed, "model": name, "cells": len(used)}
                row |= expression_scores(expression, truth)
                if own is not None:
                    row |= _clusters(expression, own, seed)
                rows.append(row)
                if own is not None and embedding is not None:
                    known = np.array([label is not None for label in own])
                    said = cluster_scores(embedding[known], own[known], seed=seed)
                    keys = {"share": share, "seed": seed, "model": f"{name}, embedding", "cells": len(used)}
                    rows.append(keys | said)
            if own is not None:
                said = _clusters(truth, own, seed)
                rows.append({"share": share, "seed": seed, "model": "full cell", "cells": len(used)} | said)
    return pd.DataFrame(rows)


def _clusters(expression: Floats, labels: NDArray[np.object_], seed: int) -> dict[str, float]:
    known = np.array([label is not None for label in labels])
    x = expression[known]
    if x.std(0).max() < 1e-9:  # the same for all cells: there is nothing to cluster
        return {"nmi": 0.0, "ari": 0.0, "silhouette": float("nan")}
    return cluster_scores(fitted_pca(x, seed=seed).transform(x).astype(np.float32), labels[known], seed=seed)


def subset(cells: CellSet, rows: NDArray[np.int64]) -> CellSet:
    """Return some cells."""
    counts: sp.csr_matrix = cells.counts[rows]
    part = dataclasses.replace(
        cells.cells, counts=counts, totals=cells.cells.totals[rows], obs=cells.cells.obs.iloc[rows]
    )
    return CellSet(part, cells.spec, token_budget=cells.token_budget)
