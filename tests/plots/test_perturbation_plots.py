"""Pictures of predicted perturbations: what is drawn, what is refused."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from cellfm_torch.errors import UserError
from cellfm_torch.plots.cells import PALETTE
from cellfm_torch.plots.perturbation import delta_heat_map, effect_scatter, score_bars

matplotlib.use("Agg")

SUMMARY = pd.DataFrame(
    {
        "model": ["additive", "CellFM", "additive", "CellFM", "CellFM"],
        "group": ["unseen single", "unseen single", "combo seen 2", "combo seen 2", "combo seen 2"],
        "metric": ["pearson_delta"] * 4 + ["mse"],
        "mean": [0.2, 0.4, 0.6, 0.5, 0.01],
        "sd": [0.05, 0.1, np.nan, 0.02, 0.0],
    }
)


def axis() -> Any:
    return Figure(layout="constrained").add_subplot()


def test_bars_have_the_heights_of_the_table_and_the_model_comes_first() -> None:
    ax = score_bars(SUMMARY, model="CellFM", ax=axis())
    assert [round(bar.get_height(), 6) for bar in ax.patches] == [0.4, 0.5, 0.2, 0.6]
    assert to_hex(ax.patches[0].get_facecolor()) == PALETTE[0].lower()
    assert to_hex(ax.patches[2].get_facecolor()) != PALETTE[0].lower()
    assert [text.get_text() for text in ax.get_xticklabels()] == ["unseen single", "combo seen 2"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["CellFM", "additive"]
    assert ax.get_title(loc="left") == "Pearson of the change"
    lefts = [bar.get_x() for bar in ax.patches]
    assert lefts[0] < lefts[2] < lefts[1] < lefts[3]  # by group, the model first
    assert score_bars(SUMMARY, ax=axis(), legend=False).get_legend() is None
    with pytest.raises(UserError, match="the table lacks direction"):
        score_bars(SUMMARY, "direction", ax=axis())
    with pytest.raises(UserError, match="the table lacks sd"):
        score_bars(SUMMARY.drop(columns="sd"), ax=axis())


def test_scatter_has_all_genes_and_names_the_marked_ones() -> None:
    true, predicted = np.linspace(-1, 1, 30), np.linspace(-0.5, 0.5, 30)
    genes = [f"G{i}" for i in range(30)]
    ax = effect_scatter(predicted, true, genes, marked=[29, 0, 5], labels=2, ax=axis(), title="A+B")
    rest, marked = (collection.get_offsets() for collection in ax.collections)
    assert len(rest) == 27
    np.testing.assert_allclose(marked, np.stack([true, predicted], 1)[[29, 0, 5]])
    assert {text.get_text() for text in ax.texts} == {"G29", "G0"}
    assert ax.get_xlim() == ax.get_ylim() and ax.get_xlim()[0] < -1 < 1 < ax.get_xlim()[1]
    still = effect_scatter(np.zeros(3), np.zeros(3), list("abc"), marked=[0, 1], ax=axis())
    assert still.get_xlim()[0] < 0 < still.get_xlim()[1]


def test_names_do_not_cover_each_other() -> None:
    x = np.linspace(1, 1.01, 8)
    ax = effect_scatter(x, x, [f"G{i}" for i in range(8)], marked=list(range(8)), ax=axis())
    heights = sorted(text.get_position()[1] for text in ax.texts)
    assert min(np.diff(heights)) >= 0.05 * (ax.get_ylim()[1] - ax.get_ylim()[0])
    assert np.mean(heights) == pytest.approx(x.mean(), abs=1e-9)


def test_heat_map_has_pairs_of_rows() -> None:
    true, predicted = np.array([[1.0, -2.0, 0.0], [0.5, 0.0, 0.0]]), np.zeros((2, 3))
    ax = delta_heat_map(predicted, true, ["A", "A+B"], ["X", "Y", "Z"], ax=axis(), title="t")
    (image,) = ax.images
    assert image.get_clim() == (-2, 2)
    drawn = np.asarray(image.get_array().filled(np.nan))
    np.testing.assert_array_equal(drawn[[0, 3]], true)
    np.testing.assert_array_equal(drawn[[1, 4]], predicted)
    assert np.isnan(drawn[2]).all() and len(drawn) == 5
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels == ["A  measured", "predicted", "A+B  measured", "predicted"]
    with pytest.raises(UserError, match="no condition or no gene"):
        delta_heat_map(np.zeros((0, 3)), np.zeros((0, 3)), [], ["X"], ax=axis())
