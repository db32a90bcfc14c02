"""Scores of an integrated embedding: kept biology, removed batches (scIB: Luecken et al., Nat. Methods 19, 2022).

Shapes: B cells, C width of the embedding, P components before integration.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from cellfm_torch.analysis.graph import connectivities, leiden, nearest_neighbours
from cellfm_torch.errors import UserError

BIOLOGY = ("nmi", "ari", "asw_label")
BATCH = ("asw_batch", "graph_connectivity", "pcr")
NAMES = {
    "nmi": "NMI",
    "ari": "ARI",
    "asw_label": "ASW label",
    "asw_batch": "ASW batch",
    "graph_connectivity": "graph connectivity",
    "pcr": "PCR",
    "biology": "mean biology",
    "batch": "mean batch",
    "total": "total (0.6, 0.4)",
}
"""Columns of a table of scores, each between 0 and 1, 1 the best."""

NEIGHBOURS = 15
RESOLUTIONS = tuple(0.2 * i for i in range(1, 11))
Scorer = Literal["auto", "own", "scib-metrics"]
Strings = NDArray[Any]


def scores(
    embedding: Any, labels: Strings, batches: Strings, *, before: Any, scorer: Scorer = "auto", seed: int = 0
) -> dict[str, float]:
    """Score one embedding.

    Parameters
    ----------
    embedding : (B, C)
    labels, batches : (B,)
        Cell type and batch of each cell.
    before : (B, P)
        The cells before integration (principal components), for `pcr`.
    scorer
        ``"own"``: what is in this file. ``"scib-metrics"``: that package. ``"auto"``: the package where it is
        installed. Both take the same clusters for NMI and ARI.
    seed
        Of the clustering.

    Returns
    -------
    dict with the keys of :data:`NAMES`:

    - ``nmi``, ``ari``: agreement of Leiden clusters (15 neighbours) with the labels, at the one of ten resolutions
      (0.2 to 2) whose NMI is highest;
    - ``asw_label``: silhouette of the labels, (s + 1) / 2;
    - ``asw_batch``: 1 - |s| of the batches within a label, averaged over its cells and then over labels;
    - ``graph_connectivity``: share of a label's cells in its largest connected part of the neighbour graph;
    - ``pcr``: share of the variance by batch that integration has removed, 0 where it has grown;
    - ``biology``, ``batch``: means of three each; ``total`` = 0.6 biology + 0.4 batch.

    Raises
    ------
    UserError
        If there are fewer than two labels or batches, or the package asked for is missing.
    """
    for kind, values in (("label", labels), ("batch", batches)):
        if len(np.unique(values)) < 2:
            raise UserError(f"scores need at least two values of {kind}; there is only '{values[0]}'")
    x = np.asarray(embedding, dtype=np.float32)
    found = dict(zip(("nmi", "ari"), clustering_agreement(x, labels, seed=seed), strict=True))
    if chosen_scorer(scorer) == "scib-metrics":
        found |= _by_package(x, labels, batches, np.asarray(before, dtype=np.float32))
    else:
        found |= {
            "asw_label": asw_label(x, labels),
            "asw_batch": asw_batch(x, labels, batches),
            "graph_connectivity": graph_connectivity(x, labels),
            "pcr": pcr_comparison(before, x, batches),
        }
    found["biology"] = float(np.mean([found[name] for name in BIOLOGY]))
    found["batch"] = float(np.mean([found[name] for name in BATCH]))
    found["total"] = 0.6 * found["biology"] + 0.4 * found["batch"]
    return {name: float(found[name]) for name in NAMES}


def chosen_scorer(scorer: Scorer) -> str:
    """Return which of the two computes the scores here.

    Raises
    ------
    UserError
        If there is no such scorer, or it is not installed.
    """
    if scorer not in ("auto", "own", "scib-metrics"):
        raise UserError(f"scorer={scorer}: choose auto, own or scib-metrics")
    there = find_spec("scib_metrics") is not None
    if scorer == "scib-metrics" and not there:
        raise UserError("scorer=scib-metrics is not installed: pip install 'cellfm_torch[analysis]'")
    return "scib-metrics" if there and scorer != "own" else "own"


def clustering_agreement(x: NDArray[np.float32], labels: Strings, *, seed: int = 0) -> tuple[float, float]:
    """Return NMI and ARI of Leiden clusters with the labels, at the resolution whose NMI is highest."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    graph = connectivities(x, NEIGHBOURS, seed=seed)
    clusters = [leiden(graph, resolution=resolution, seed=seed) for resolution in RESOLUTIONS]
    best = max(clusters, key=lambda found: float(normalized_mutual_info_score(labels, found)))
    return float(normalized_mutual_info_score(labels, best)), float(adjusted_rand_score(labels, best))


def asw_label(x: NDArray[np.float32], labels: Strings) -> float:
    """Return the mean silhouette of the labels, brought to between 0 and 1."""
    from sklearn.metrics import silhouette_score

    return float((silhouette_score(x, labels) + 1) / 2)


def asw_batch(x: NDArray[np.float32], labels: Strings, batches: Strings) -> float:
    """Return how little the silhouette tells batches of one label apart; labels seen in one batch do not count."""
    from sklearn.metrics import silhouette_samples

    of_labels = []
    for label in np.unique(labels):
        cells = labels == label
        number = len(np.unique(batches[cells]))
        if 1 < number < cells.sum():
            of_labels.append(1 - np.abs(silhouette_samples(x[cells], batches[cells])).mean())
    return float(np.mean(of_labels)) if of_labels else float("nan")


def graph_connectivity(x: NDArray[np.float32], labels: Strings) -> float:
    """Return the mean share of a label's cells in the largest connected part of its neighbour graph (undirected)."""
    indices, _ = nearest_neighbours(x, NEIGHBOURS - 1)
    rows = np.repeat(np.arange(len(x)), indices.shape[1])
    graph = sp.csr_matrix((np.ones(indices.size, dtype=np.int8), (rows, indices.ravel())), shape=(len(x), len(x)))
    shares = []
    for label in np.unique(labels):
        cells = np.flatnonzero(labels == label)
        parts = connected_components(graph[cells][:, cells], directed=False)[1]
        shares.append(np.bincount(parts).max() / len(cells))
    return float(np.mean(shares))


def batch_variance(x: Any, batches: Strings) -> float:
    """Return the share of the variance between batch means, over all dimensions together.

    Regressing every principal component on the batches and weighting by its variance gives the same number.
    """
    centred = np.asarray(x, dtype=np.float64) - np.mean(x, axis=0, dtype=np.float64)
    codes = pd.factorize(batches)[0]
    sums = np.zeros((codes.max() + 1, centred.shape[1]))
    np.add.at(sums, codes, centred)
    return float((sums**2 / np.bincount(codes)[:, None]).sum() / (centred**2).sum())


def pcr_comparison(before: Any, after: Any, batches: Strings) -> float:
    """Return the share of the variance by batch that is gone, 0 where it has grown."""
    old, new = batch_variance(before, batches), batch_variance(after, batches)
    return max(0.0, (old - new) / old) if old > 0 else 0.0


def _by_package(x: NDArray[np.float32], labels: Strings, batches: Strings, before: Any) -> dict[str, float]:
    import scib_metrics
    from scib_metrics.nearest_neighbors import NeighborsResults

    indices, distances = nearest_neighbours(x, NEIGHBOURS - 1)
    rows = np.arange(len(x))[:, None]
    near = NeighborsResults(np.hstack([rows, indices]), np.hstack([np.zeros((len(x), 1)), distances]))
    codes = {"labels": pd.factorize(labels)[0], "batch": pd.factorize(batches)[0]}
    return {
        "asw_label": float(scib_metrics.silhouette_label(x, codes["labels"])),
        "asw_batch": float(scib_metrics.silhouette_batch(x, codes["labels"], codes["batch"])),
        "graph_connectivity": float(scib_metrics.graph_connectivity(near, codes["labels"])),
        "pcr": float(scib_metrics.pcr_comparison(before, x, batches, categorical=True)),
    }
