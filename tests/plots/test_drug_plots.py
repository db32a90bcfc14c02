"""Drug response drawn: what is shown is what was given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from cellfm_torch import UserError
from cellfm_torch.plots.drug import drug_bars, response_scatter, sensitivity_histogram


def test_scatter_and_histogram() -> None:
    axes = Figure().subplots(1, 2)
    assert response_scatter(np.arange(5000), np.arange(5000), ax=axes[0], title="t") is axes[0]
    assert len(axes[0].collections[0].get_offsets()) == 3000  # a sample of many
    sensitivity_histogram([0.1, 0.9, np.nan], ["resistant", "sensitive", "sensitive"], ax=axes[1])
    assert [text.get_text() for text in axes[1].get_legend().get_texts()] == ["resistant (1)", "sensitive (1)"]
    for bad in (lambda: response_scatter([1.0], []), lambda: sensitivity_histogram([np.nan])):
        with pytest.raises(UserError):
            bad()


def test_bars_are_in_order() -> None:
    table = pd.DataFrame(
        {
            "drug": ["1", "2", "1", "2"],
            "name": ["a", "b", "a", "b"],
            "method": ["model", "model", "drug mean", "drug mean"],
            "pearson": [0.2, 0.6, 0.1, 0.3],
        }
    )
    ax = drug_bars(table, ax=Figure().subplots(), other="drug mean")
    assert [text.get_text() for text in ax.get_yticklabels()] == ["b", "a"]
    assert ax.collections[0].get_offsets()[:, 0].tolist() == [0.3, 0.1]
    with pytest.raises(UserError, match="lacks rows"):
        drug_bars(table[:0], other="drug mean")
