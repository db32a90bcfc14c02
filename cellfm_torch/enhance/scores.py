"""How near enhanced expression is to that of the full cell.

Shapes: n cells, g genes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.analysis.integration import asw_label, clustering_agreement

Floats = NDArray[np.float32]


def expression_scores(predicted: Floats, full: Floats) -> dict[str, float]:
    """Return errors and correlations, means over cells.

    - ``mae``: mean absolute error over all genes.
    - ``mae_expressed``, ``mre_expressed``: mean absolute error, and mean of error over true value, over the genes that
      the full cell expresses (as scFoundation's read-depth enhancement is scored).
    - ``pearson``, ``pearson_expressed``: correlation over genes, all and expressed.
    - ``gene_pearson``: correlation over cells, mean over genes that at least one cell in ten expresses: whether it
      tells cells apart, which a profile that is the same for all cells does not.

    Parameters
    ----------
    predicted, full : (n, g)
        log1p(CP10K).
    """
    error = np.abs(predicted.astype(np.float64) - full)
    there = full > 0
    number = np.maximum(there.sum(1), 1)
    relative = np.where(there, error / np.where(there, full, 1), 0)
    often = there.mean(0) >= 0.1
    return {
        "mae": float(error.mean()),
        "mae_expressed": float((np.where(there, error, 0).sum(1) / number).mean()),
        "mre_expressed": float((relative.sum(1) / number).mean()),
        "pearson": float(np.mean(_pearson(predicted, full, np.ones_like(there)))),
        "pearson_expressed": float(np.mean(_pearson(predicted, full, there))),
        "gene_pearson": float(np.mean(_pearson(predicted.T[often], full.T[often], np.ones_like(there.T[often])))),
    }


def cluster_scores(x: Floats, labels: NDArray[np.object_], *, seed: int = 0) -> dict[str, float]:
    """Return NMI and ARI of clusters with known types, and the silhouette of the types."""
    nmi, ari = clustering_agreement(x, labels, seed=seed)
    return {"nmi": nmi, "ari": ari, "silhouette": asw_label(x, labels)}


def _pearson(predicted: Floats, true: Floats, there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the correlation of each row over the genes that count; 0 where either does not vary."""
    number = np.maximum(there.sum(1, keepdims=True), 1)

    def centred(x: Floats) -> NDArray[np.float64]:
        values = np.where(there, x.astype(np.float64), 0)
        return np.where(there, values - values.sum(1, keepdims=True) / number, 0)

    a, b = centred(predicted), centred(true)
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.where(size > 1e-12, (a * b).sum(1) / np.maximum(size, 1e-12), 0.0)
