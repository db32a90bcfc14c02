"""Scores of integration: by hand, on cases whose score is known, and beside scib-metrics."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import numpy as np
import pytest
from blobs import Blobs, make_blobs
from sklearn.decomposition import PCA

from cellfm_torch.analysis.batch_methods import METHODS, Cells, available
from cellfm_torch.analysis.integration import (
    NAMES,
    asw_batch,
    batch_variance,
    clustering_agreement,
    graph_connectivity,
    pcr_comparison,
    scores,
)
from cellfm_torch.errors import UserError


@pytest.fixture(scope="module")
def blobs() -> Blobs:
    return make_blobs()


def by_own(x: np.ndarray, blobs: Blobs, **options: object) -> dict[str, float]:
    before = options.pop("before", blobs.embedding)
    return scores(x, blobs.types, blobs.batches, before=before, scorer="own", **options)


def test_perfect_and_spoilt(blobs: Blobs) -> None:
    found = by_own(blobs.embedding, blobs)
    assert list(found) == list(NAMES)
    assert found["nmi"] == found["ari"] == found["graph_connectivity"] == 1  # three clusters far apart
    assert found["pcr"] == 0  # nothing was done
    corrected = blobs.embedding.copy()
    for batch in "xy":
        corrected[blobs.batches == batch, 7] -= corrected[blobs.batches == batch, 7].mean()
    better = by_own(corrected, blobs)
    assert better["pcr"] > 0.5 and better["asw_batch"] > found["asw_batch"] and better["total"] > found["total"]
    noise = by_own(np.random.default_rng(0).normal(size=(300, 8)), blobs)
    assert noise["nmi"] < 0.15 and noise["biology"] < 0.3 and noise["batch"] > found["batch"]
    assert found["total"] == pytest.approx(0.6 * found["biology"] + 0.4 * found["batch"], rel=1e-12)


def test_clusters_are_the_same_each_time(blobs: Blobs) -> None:
    x = np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32)
    assert clustering_agreement(x, blobs.types, seed=4) == clustering_agreement(x, blobs.types, seed=4)


def test_batch_variance_is_regression_on_components(blobs: Blobs) -> None:
    """The long way: each principal component regressed on the batch, weighted by its variance."""
    fitted = PCA().fit(blobs.embedding.astype(np.float64))
    parts = fitted.transform(blobs.embedding.astype(np.float64))
    explained = []
    for part in parts.T:
        means = {b: part[blobs.batches == b].mean() for b in "xy"}
        residual = part - np.array([means[b] for b in blobs.batches])
        explained.append(1 - residual.var() / part.var())
    expected = float(np.sum(fitted.explained_variance_ * explained) / fitted.explained_variance_.sum())
    assert batch_variance(blobs.embedding, blobs.batches) == pytest.approx(expected, rel=1e-6)  # float32 input
    assert pcr_comparison(blobs.embedding, blobs.embedding * 3, blobs.batches) == pytest.approx(0, abs=1e-6)
    assert pcr_comparison(blobs.embedding[:, :7], blobs.embedding, blobs.batches) == 0  # grown, not negative


def test_connectivity_of_a_split_type() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(place, 0.1, (n, 2)) for place, n in ((0, 60), (50, 30), (99, 40))]).astype(
        np.float32
    )
    labels = np.array(["split"] * 90 + ["whole"] * 40, dtype=object)
    assert graph_connectivity(x.astype(np.float32), labels) == pytest.approx((60 / 90 + 1) / 2, rel=1e-9)


def test_a_type_in_one_batch_does_not_count(blobs: Blobs) -> None:
    chosen = ~((blobs.types == "C") & (blobs.batches == "y"))
    x, types, batches = blobs.embedding[chosen], blobs.types[chosen], blobs.batches[chosen]
    without = types != "C"
    assert asw_batch(x, types, batches) == pytest.approx(asw_batch(x[without], types[without], batches[without]))


@pytest.mark.skipif(find_spec("scib_metrics") is None, reason="scib-metrics (extra 'analysis') is not installed")
def test_beside_scib_metrics(blobs: Blobs) -> None:
    rng = np.random.default_rng(5)
    x = (blobs.embedding + rng.normal(size=(300, 8)) * 2).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of JAX, for want of a GPU
        theirs = scores(x, blobs.types, blobs.batches, before=blobs.embedding, scorer="scib-metrics")
    ours = by_own(x, blobs)
    for name in ("nmi", "ari", "asw_label", "asw_batch", "pcr"):
        assert ours[name] == pytest.approx(theirs[name], abs=2e-4), name  # theirs is float32 throughout
    # Theirs asks for a directed path both ways, ours (as scIB on scanpy's graph) for an undirected one.
    assert theirs["graph_connectivity"] - 1e-6 <= ours["graph_connectivity"] <= theirs["graph_connectivity"] + 0.1


@pytest.mark.parametrize("option", METHODS)
def test_methods_take_batches_out(option: str, blobs: Blobs) -> None:
    if not available(option):
        pytest.skip(f"{METHODS[option][1]} is not installed")
    import scipy.sparse as sp

    counts = sp.csr_matrix(np.random.default_rng(0).poisson(2.0, (300, 20)).astype(np.float32))
    found = METHODS[option][2](Cells(counts, blobs.embedding, blobs.batches, 0))
    assert found.shape[0] == 300 and np.isfinite(found).all() and found.dtype == np.float32
    if option == "harmony":
        assert batch_variance(found, blobs.batches) < 0.5 * batch_variance(blobs.embedding, blobs.batches)


def test_refusals(blobs: Blobs) -> None:
    with pytest.raises(UserError, match="at least two values of batch; there is only 'x'"):
        scores(blobs.embedding, blobs.types, np.full(300, "x", object), before=blobs.embedding)
    with pytest.raises(UserError, match="choose auto, own or scib-metrics"):
        scores(blobs.embedding, blobs.types, blobs.batches, before=blobs.embedding, scorer="scib")  # type: ignore[arg-type]
