"""Pictures of gene function and of modules: what is drawn, what is refused."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from cellfm_torch.errors import UserError
from cellfm_torch.plots.gene_function import function_bars
from cellfm_torch.plots.gene_modules import activity_heat_map, gene_network

matplotlib.use("Agg")

SUMMARY = pd.DataFrame(
    {
        "features": ["majority", "static", "static", "pca", "pca"],
        "probe": ["none", "mlp", "knn", "mlp", "knn"],
        "auroc": [0.5, 0.8, 0.7, 0.6, 0.65],
        "auroc_sd": [0.0, 0.05, 0.1, np.nan, 0.02],
    }
)
EDGES = pd.DataFrame({"a": ["A", "A", "C"], "b": ["B", "C", "B"], "weight": [0.9, 0.5, 0.1]})


def axis() -> Any:
    return Figure(layout="constrained").add_subplot()


def test_bars_have_the_lengths_of_the_table() -> None:
    ax = function_bars(SUMMARY, ax=axis(), title="t")
    widths = sorted(round(float(bar.get_width()), 6) for bar in ax.patches if np.isfinite(bar.get_width()))
    assert widths == [0.5, 0.6, 0.65, 0.7, 0.8]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["majority", "static", "pca"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["mlp", "knn"]
    assert function_bars(SUMMARY, ax=axis(), legend=False).get_legend() is None
    with pytest.raises(UserError, match="the table lacks aupr, aupr_sd"):
        function_bars(SUMMARY, ax=axis(), metric="aupr")
    with pytest.raises(UserError, match="the table lacks rows"):
        function_bars(SUMMARY.iloc[:0], ax=axis())


def test_heat_map_is_symmetric_about_zero() -> None:
    table = pd.DataFrame([[0.1, -0.4], [0.2, 0.0]], index=["M1", "M2"], columns=["B", "T"])
    ax = activity_heat_map(table, ax=axis(), title="t")
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), table.to_numpy())
    assert image.get_clim() == (-0.4, 0.4)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["B", "T"]
    with pytest.raises(UserError, match="no module or no group"):
        activity_heat_map(table.iloc[:0], ax=axis())


def test_network_has_a_dot_a_gene_and_a_line_an_edge() -> None:
    drawn = [gene_network(EDGES, ax=axis(), title="t", seed=3) for _ in range(2)]
    first, second = (ax.collections[0].get_offsets() for ax in drawn)
    np.testing.assert_array_equal(first, second)
    assert len(first) == 3 and len(drawn[0].lines) == 3
    assert sorted(text.get_text() for text in drawn[0].texts) == ["A", "B", "C"]
    widths = [line.get_linewidth() for line in drawn[0].lines]
    assert widths[0] > widths[1] > widths[2]
    with pytest.raises(UserError, match="the table lacks weight"):
        gene_network(EDGES.drop(columns="weight"), ax=axis())
    with pytest.raises(UserError, match="the table lacks rows"):
        gene_network(EDGES.iloc[:0], ax=axis())


def test_names_of_a_crowded_network_do_not_lie_on_one_another() -> None:
    pairs = [(f"GENE{i}", f"GENE{j}", 1.0) for i in range(4) for j in range(4, 40)]
    ax = gene_network(pd.DataFrame(pairs, columns=["a", "b", "weight"]), ax=axis())
    boxes = [text.get_window_extent() for text in ax.texts]
    assert {f"GENE{i}" for i in range(4)} & {text.get_text() for text in ax.texts} and 5 < len(boxes) < 40
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
