"""Counts, components, genes and clusters."""

from __future__ import annotations

from importlib.util import find_spec

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from blobs import make_blobs
from sklearn.metrics import adjusted_rand_score

from cellfm_torch.analysis.expression import is_counts, log_normalised, moments, pca, variable_genes
from cellfm_torch.analysis.graph import connectivities, leiden, nearest_neighbours
from cellfm_torch.analysis.hits import hit_groups, name_neighbourhoods
from cellfm_torch.analysis.markers import rank_genes, top_genes
from cellfm_torch.analysis.neighbourhoods import Neighbourhoods
from cellfm_torch.analysis.subpopulations import cluster_cells, stratified_sample
from cellfm_torch.paths import PBMC3K


@pytest.fixture(scope="module")
def cells() -> anndata.AnnData:
    return anndata.read_h5ad(PBMC3K)[:200].copy()


def test_log_normalised() -> None:
    counts = sp.csr_matrix(np.array([[1, 3, 0], [0, 0, 0], [0, 0, 5]], dtype=np.float32))
    found = log_normalised(counts)
    np.testing.assert_allclose(
        found.toarray(), np.log1p([[2500, 7500, 0], [0, 0, 0], [0, 0, 1e4]]), rtol=1e-6
    )  # float32
    assert counts.max() == 5  # the counts are as they were
    assert not is_counts(found) and abs(log_normalised(found) - found).max() == 0


def test_moments_and_components(cells: anndata.AnnData) -> None:
    x = log_normalised(cells.X)
    mean, variance = moments(x)
    np.testing.assert_allclose(mean, x.toarray().astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(variance, x.toarray().astype(float).var(0, ddof=1), atol=1e-9)
    assert len(variable_genes(x, 100)) == 100
    found = pca(x, components=10, genes=100)
    assert found.shape == (200, 10) and np.all(np.diff(found.var(0)) <= 1e-6)
    assert pca(x[:5], components=10).shape == (5, 4)


@pytest.mark.skipif(find_spec("scanpy") is None, reason="scanpy is not installed")
def test_genes_are_those_of_scanpy(cells: anndata.AnnData) -> None:
    import scanpy

    x, group = log_normalised(cells.X), (cells.obs["cell_type"] == "B").to_numpy()
    ours = rank_genes(x, group, list(cells.var_names)).set_index("gene")
    adata = anndata.AnnData(x, obs=cells.obs.assign(g=np.where(group, "in", "out")), var=cells.var)
    scanpy.tl.rank_genes_groups(adata, "g", groups=["in"], reference="rest", method="t-test")
    theirs = scanpy.get.rank_genes_groups_df(adata, "in").set_index("names")
    expressed = theirs.index[np.asarray(x[:, adata.var_names.get_indexer(theirs.index)].sum(0)).ravel() > 0]
    # scanpy keeps scores in float32.
    np.testing.assert_allclose(ours.loc[expressed, "t"], theirs.loc[expressed, "scores"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        ours.loc[expressed, "log2_fold"], theirs.loc[expressed, "logfoldchanges"], rtol=1e-2, atol=1e-2
    )
    assert list(ours.index[:5]) == list(theirs.index[:5])
    assert {"CD79A", "MS4A1"} & set(ours.index[:5])


def test_top_genes_are_significant(cells: anndata.AnnData) -> None:
    x, names = log_normalised(cells.X), list(cells.var_names)
    rng = np.random.default_rng(0)
    assert top_genes(x, rng.random(200) < 0.5, names).empty  # a group by chance
    assert rank_genes(x, np.arange(200) < 2, names).empty  # too few
    b, nk = ((cells.obs["cell_type"] == name).to_numpy() for name in ("B", "NK"))
    against = top_genes(x, b, names, against=nk, number=3)
    assert len(against) == 3 and (against["share"] > against["share_others"]).all()


def test_neighbours_and_clusters() -> None:
    blobs = make_blobs()
    indices, distances = nearest_neighbours(blobs.embedding, 10)
    assert indices.shape == (300, 10) and (indices != np.arange(300)[:, None]).all()
    assert (np.diff(distances, axis=1) >= 0).all()
    graph = connectivities(blobs.embedding, 15)
    assert abs(graph - graph.T).max() < 1e-6 and 0 < graph.max() <= 1
    found = leiden(graph, resolution=0.2, seed=3)
    assert adjusted_rand_score(blobs.types, found) == 1
    assert np.all(np.diff(np.bincount(found)) <= 0)  # largest first
    np.testing.assert_array_equal(found, leiden(graph, resolution=0.2, seed=3))


def test_approximate_neighbours_are_nearly_the_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)
    exact, _ = nearest_neighbours(x, 8)
    monkeypatch.setattr("cellfm_torch.analysis.graph.MOST_EXACT", 100)
    near, distances = nearest_neighbours(x, 8)
    assert near.shape == (500, 8) and (near != np.arange(500)[:, None]).all() and (distances > 0).all()
    assert np.mean([len(set(a) & set(b)) for a, b in zip(exact, near, strict=True)]) > 0.95 * 8  # descent is not exact


def test_unknown_cells_are_clustered_by_themselves() -> None:
    blobs = make_blobs()
    chosen = blobs.types != "A"
    codes = cluster_cells(blobs.embedding, chosen)
    assert (codes[~chosen] == -1).all() and adjusted_rand_score(blobs.types[chosen], codes[chosen]) > 0.8
    few = np.arange(300) < 7
    assert set(cluster_cells(blobs.embedding, few)[few]) == {0}
    assert (cluster_cells(blobs.embedding, np.zeros(300, bool)) == -1).all()


def test_samples_keep_small_groups() -> None:
    groups = np.array(["big"] * 9000 + ["small"] * 50 + ["middle"] * 950, object)
    rows = stratified_sample(groups, 1000, least=100)
    assert (np.diff(rows) > 0).all()
    names, counts = np.unique(groups[rows].astype(str), return_counts=True)
    assert dict(zip(names, counts, strict=True)) == {"big": 900, "middle": 100, "small": 50}
    np.testing.assert_array_equal(stratified_sample(groups, 10_000), np.arange(10_000))


def test_hits_are_grouped_with_their_genes(cells: anndata.AnnData) -> None:
    labels = cells.obs["cell_type"].astype(str).to_numpy(dtype=object)
    x, names = log_normalised(cells.X), list(cells.var_names)
    b, others = np.flatnonzero(labels == "B"), np.flatnonzero(labels != "B")
    sets = [b[:12], b[6:18], np.concatenate([b[:6], others[:6]]), others[20:32]]
    members = sp.csr_matrix((np.ones(48), (np.repeat(np.arange(4), 12), np.concatenate(sets))), shape=(4, len(labels)))
    areas = Neighbourhoods(np.array([s[0] for s in sets]), members, np.ones(4))
    named = name_neighbourhoods(areas, np.where(np.isin(labels, ["B"]), "B", "rest"))
    assert named["type"].tolist() == ["B", "B", "mixed", "rest"] and named["type_share"].tolist() == [1, 1, 0.5, 1]
    tested = pd.DataFrame({"log2_odds": [1.0, 3.0, -1.0, 2.0], "fdr": [0.01, 0.02, 0.05, 0.5]}).join(named)
    groups = hit_groups(areas, tested, x, names, np.where(labels == "B", "B", "rest"), fdr=0.1)
    assert groups[["type", "direction", "neighbourhoods", "of", "cells"]].values.tolist() == [
        ["B", "more", 2, 2, 18],
        ["mixed", "less", 1, 1, 12],
    ]
    assert groups["log2_odds"].tolist() == [2, -1] and groups["fdr"].tolist() == [0.01, 0.05]
    assert hit_groups(areas, tested, x, names, labels, fdr=0.001).empty
