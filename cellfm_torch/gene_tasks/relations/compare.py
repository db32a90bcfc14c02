"""The retention map beside co-expression and embeddings: which tells best which genes belong together.

Shapes: M genes of the map.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.data.gene_sets import GeneSets
from cellfm_torch.gene_tasks.relations.result import GeneRelations
from cellfm_torch.gene_tasks.relations.score import score_pairs

Floats = NDArray[np.floating[Any]]


def cosine(embedding: Floats) -> Floats:
    """Return the cosine of each two rows, centred on their mean, (M, M); 0 for a row of zeros."""
    centred = np.nan_to_num(np.asarray(embedding, dtype=np.float64))
    centred = centred - centred.mean(0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return np.asarray(unit @ unit.T)


def compare_relations(
    found: GeneRelations,
    sets: GeneSets,
    *,
    co_expression: Floats,
    static: Floats,
    random: Floats | None = None,
    least_cells: int = 10,
) -> pd.DataFrame:
    """Score the map of a group, and what is simpler, against membership of a common gene set.

    Parameters
    ----------
    found
        Of a group.
    sets
        Over its M genes.
    co_expression : (M, M)
        Pearson's r of log1p(CP10K) over the same cells.
    static : (M, D)
        Rows of the model's gene embedding.
    random : (M, M), optional
        The map of the same network with random weights.
    least_cells
        Only pairs are scored that so many cells express together.

    Returns
    -------
    DataFrame, see :func:`~cellfm_torch.gene_tasks.relations.score.score_pairs`.
    """
    share = found.expressed / max(found.cells, 1)
    relations = {
        "retention, all layers": found.strength(least_cells=least_cells),
        **{f"retention, layer {i}": found.strength(i, least_cells=least_cells) for i in found.layers},
        "retention, shares as they are": found.map(),
        "contextual embedding, cosine": cosine(found.context),
        "static embedding, cosine": cosine(static),
        "co-expression, Pearson": co_expression,
        "co-expression, |Pearson|": np.abs(co_expression),
        "frequency alone": np.outer(share, share),
    }
    if random is not None:
        relations["retention of random weights"] = random
    return score_pairs(relations, sets, among=found.both >= least_cells)
