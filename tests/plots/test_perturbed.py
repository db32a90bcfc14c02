"""Pictures of perturbed cells show what they are given."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from cellfm_torch.plots.perturbed import KINDS, perturbed_cells


def test_three_kinds_of_cells_and_their_means() -> None:
    rng = np.random.default_rng(0)
    given = [rng.normal(size=(n, 2)) + i for i, n in enumerate((7, 5, 6))]
    ax = perturbed_cells(*given, title="aspirin 1")
    assert ax.get_title(loc="left") == "aspirin 1"
    for points, shown, mean in zip(given, ax.collections, ax.lines, strict=True):
        np.testing.assert_array_equal(shown.get_offsets(), points)
        np.testing.assert_allclose(mean.get_xydata()[0], points.mean(0), rtol=0, atol=1e-12)
    said = [text.get_text() for text in ax.get_legend().get_texts()]
    assert said == [f"{name} ({len(points)})" for name, points in zip(KINDS, given, strict=True)]


def test_an_axis_is_drawn_on() -> None:
    own = Figure().add_subplot()
    points = np.zeros((3, 2))
    assert perturbed_cells(points, points, points, ax=own, legend=False) is own and own.get_legend() is None
