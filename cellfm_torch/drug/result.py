"""What a test of drug response found: scores, drug by drug, and whether the model beats what needs none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cellfm_torch.drug.baselines import BASELINES
from cellfm_torch.drug.join import Responses
from cellfm_torch.drug.scores import METRICS
from cellfm_torch.drug.splits import Split

MODEL, RANDOM = "model", "random weights"


@dataclass
class DrugResult:
    """Scores of held-out IC50.

    Attributes
    ----------
    splits : list of Split
        By seed.
    responses : Responses
        What was joined.
    epochs : dict
        Epochs of training, by network and seed.
    """

    splits: list[Split]
    responses: Responses
    epochs: dict[tuple[str, int], int] = field(default_factory=dict)
    score_rows: list[dict[str, Any]] = field(default_factory=list)
    drug_tables: list[pd.DataFrame] = field(default_factory=list)
    unit_tables: list[pd.DataFrame] = field(default_factory=list)
    prediction_tables: list[pd.DataFrame] = field(default_factory=list)

    @property
    def scores(self) -> pd.DataFrame:
        """A row per split and method: ``pairs``, and the scores of :data:`~cellfm_torch.drug.scores.METRICS`."""
        return pd.DataFrame(self.score_rows)

    @property
    def predictions(self) -> pd.DataFrame:
        """Each test pair of the model: ``seed``, ``line``, ``drug``, ``name``, ``ln_ic50``, ``predicted``; ln(uM)."""
        return pd.concat(self.prediction_tables, ignore_index=True)

    @property
    def joined(self) -> pd.DataFrame:
        """A row per line and drug: whether it joined, and why not."""
        return self.responses.joined

    def summary(self) -> pd.DataFrame:
        """Return mean and standard deviation (``_sd``) over seeds, by method."""
        groups = self.scores.groupby("method", sort=False)[list(METRICS)]
        return groups.mean().join(groups.std(ddof=1).add_suffix("_sd")).reset_index()

    def per_drug(self) -> pd.DataFrame:
        """Return Pearson and RMSE of each drug with five test pairs or more, by method, means over seeds."""
        every = pd.concat(self.drug_tables, ignore_index=True)
        found = every.groupby(["drug", "method"], sort=False)[["pairs", "pearson", "rmse"]].mean().reset_index()
        names = np.array(self.responses.titles, dtype=object)
        found.insert(1, "name", names[found["drug"].to_numpy(dtype=int)])
        found["drug"] = np.array(self.responses.drugs, dtype=object)[found["drug"].to_numpy(dtype=int)]
        return found

    def verdicts(self) -> list[str]:
        """Return a line for the best baseline and one for random weights: whether the model's error is smaller.

        Squared errors are averaged by line (by drug, where drugs are held out), as IC50 of a line to several drugs are
        no evidence of their own. A difference counts where it is more than twice its standard error over these.
        """
        table = pd.concat(self.unit_tables, ignore_index=True).groupby(["method", "unit"], sort=False)["error"].mean()
        errors = table.unstack("method")
        units = "drugs" if self.splits[0].kind == "drug" else "lines"
        mean = self.scores.groupby("method", sort=False)["rmse"].mean()
        best = min((name for name in BASELINES if name in mean.index), key=lambda name: float(mean[name]))
        others = (best, RANDOM) if RANDOM in mean.index else (best,)
        return [
            f"RMSE: the model {mean[MODEL]:.3f}, {other} {mean[other]:.3f}: "
            f"{_verdict((errors[other] - errors[MODEL]).dropna(), units)}."
            for other in others
        ]


def _verdict(gain: pd.Series, units: str) -> str:
    mean, error = float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(max(len(gain), 1)))
    if not np.isfinite(error):
        return "one held out only, which says nothing for certain"
    of = f"squared error by {abs(mean):.3g} ± {error:.2g}, standard error over {len(gain):,} {units}"
    if mean > 2 * error:
        return f"better ({of})"
    return f"worse ({of})" if mean < -2 * error else f"no better for certain ({of})"
