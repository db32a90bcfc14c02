"""Pictures of read depth."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cellfm_torch.plots.depth import depth_curves

matplotlib.use("Agg")


def test_a_way_has_one_colour_in_all_pictures() -> None:
    rows = [
        (share, seed, way) for share in (0.1, 0.2) for seed in (0, 1) for way in ("CellFM", "its embedding", "mean")
    ]
    scores = pd.DataFrame(rows, columns=["share", "seed", "model"])
    scores["pearson"] = np.where(scores["model"] == "its embedding", np.nan, scores["share"])
    scores["nmi"] = scores["share"]
    lines = {}
    for metric in ("pearson", "nmi"):
        ax = depth_curves(scores, metric, ax=Figure().add_subplot())
        drawn = {container.get_label(): container.lines[0] for container in ax.containers}
        lines[metric] = {name: line.get_color() for name, line in drawn.items()}
        np.testing.assert_allclose(drawn["mean"].get_ydata(), [0.1, 0.2])
    assert set(lines["pearson"]) == {"CellFM", "mean"} and set(lines["nmi"]) == {"CellFM", "its embedding", "mean"}
    assert lines["pearson"]["mean"] == lines["nmi"]["mean"] != lines["nmi"]["its embedding"]


def test_a_single_share_is_bars() -> None:
    scores = pd.DataFrame({"share": 0.1, "seed": [0, 1, 0, 1], "model": ["CellFM", "CellFM", "mean", "mean"]})
    scores["pearson"] = [0.2, 0.4, 0.5, 0.5]
    ax = depth_curves(scores, "pearson", ax=Figure().add_subplot())
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], [0.3, 0.5])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["CellFM", "mean"]
    assert [text.get_text() for text in ax.texts] == ["0.30", "0.50"] and ax.yaxis_inverted()
