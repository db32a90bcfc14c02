"""What an evaluation found: scores by condition, and whether a model beats what needs none."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cellfm_torch.perturbation.chem.baselines import MEAN_SHIFT, NEAREST, NO_CHANGE
from cellfm_torch.perturbation.chem.evaluate import CEILING, FLOW, METRICS, MODEL, RANDOM, READ, Picture
from cellfm_torch.perturbation.chem.splits import Split

TITLES = {"mmd": "MMD", "wasserstein": "Wasserstein", "r2": "r2 of means", "r2_change": "r2 of changes"}
SMALLER_IS_BETTER = ("mmd", "wasserstein")
BASELINES = (NO_CHANGE, MEAN_SHIFT, NEAREST)


@dataclass
class ChemResult:
    """Scores of held-out conditions.

    Attributes
    ----------
    splits : list of Split
        What was learned from and what was asked, by seed.
    scores : DataFrame
        A row per test condition, method, network and split: ``mmd`` (unbiased and squared) and ``wasserstein`` of the
        cells in the space of the network, ``r2`` of mean log1p(CP10K) of the marker genes, ``r2_change`` of their
        difference from control.
    pictures : list of Picture
        Conditions of the first split.
    left_out : tuple of str
        Lines about cells that took no part.
    """

    splits: list[Split]
    scores: pd.DataFrame
    pictures: list[Picture] = field(default_factory=list)
    left_out: tuple[str, ...] = ()

    def summary(self) -> pd.DataFrame:
        """Return means over conditions, then mean and standard deviation (``_sd``) over seeds, by network and method.

        ``mmd_relative`` and ``wasserstein_relative`` are over those of no change with the same network, as the spaces
        of two networks have no common unit.
        """
        keys, names = ["network", "method"], list(METRICS)
        per_seed = self.scores.groupby(["seed", *keys], sort=False)[names].mean().reset_index()
        still = per_seed[per_seed["method"] == NO_CHANGE].set_index(["seed", "network"])
        where = pd.MultiIndex.from_frame(per_seed[["seed", "network"]])
        for name in SMALLER_IS_BETTER:
            per_seed[f"{name}_relative"] = per_seed[name].to_numpy() / still[name].reindex(where).to_numpy()
        names += [f"{name}_relative" for name in SMALLER_IS_BETTER]
        groups = per_seed.groupby(keys, sort=False)[names]
        return groups.mean().join(groups.std(ddof=1).add_suffix("_sd")).reset_index()

    def by_condition(self) -> pd.DataFrame:
        """Return the scores of the flow and of the best baseline for each test condition, means over splits."""
        ours = self.scores[self.scores["network"] == MODEL]
        keys = ["drug", "dose", "context"]
        found = ours[ours["method"] == FLOW].groupby(keys, sort=True)[["cells", *METRICS]].mean()
        still = ours[ours["method"] == NO_CHANGE].groupby(keys, sort=True)[list(METRICS)].mean()
        found["mmd_no_change"] = still["mmd"]
        found["r2_change_mean_shift"] = ours[ours["method"] == MEAN_SHIFT].groupby(keys, sort=True)["r2_change"].mean()
        return found.reset_index()

    def verdicts(self) -> list[str]:
        """Return a line per score: whether the flow beats the best baseline, and what random weights reach.

        A difference counts where it is more than twice its standard error over compounds and contexts. Doses of a
        compound are no evidence of their own: their mean is taken.
        """
        if not len(self.scores):
            return []
        return [self._beside_baselines(name) for name in METRICS] + self._beside_random()

    def _by_compound(self, network: str, method: str, metric: str) -> pd.Series:
        scores = self.scores
        rows = scores[(scores["network"] == network) & (scores["method"] == method)]
        return rows.groupby(["drug", "context"], sort=True)[metric].mean()

    def _beside_baselines(self, metric: str) -> str:
        sign = -1 if metric in SMALLER_IS_BETTER else 1
        methods = [name for name in BASELINES if (self.scores["method"] == name).any()]
        best = max(methods, key=lambda name: sign * float(self._by_compound(MODEL, name, metric).mean()))
        ours, theirs = (self._by_compound(MODEL, name, metric) for name in (FLOW, best))
        ceiling = self._by_compound(MODEL, CEILING, metric).mean()
        start = f"{TITLES[metric]}: the flow {ours.mean():.4g}, the best baseline ({best}) {theirs.mean():.4g}"
        return f"{start}, the other half of the cells {ceiling:.4g}: {_verdict(sign * (ours - theirs))}."

    def _beside_random(self) -> list[str]:
        if not (self.scores["network"] == RANDOM).any():
            return []
        lines = []
        for metric, method, what in (
            ("mmd", FLOW, "MMD over that of no change"),
            ("r2_change", READ, f"{TITLES['r2_change']}, genes from the embedding"),
        ):
            ours, random = (self._by_compound(network, method, metric) for network in (MODEL, RANDOM))
            if metric == "mmd":  # their spaces have no common unit
                ours = ours / self._by_compound(MODEL, NO_CHANGE, metric).mean()
                random = random / self._by_compound(RANDOM, NO_CHANGE, metric).mean()
            sign = -1 if metric in SMALLER_IS_BETTER else 1
            lines.append(
                f"{what}: {ours.mean():.4g} with the model, {random.mean():.4g} with the same network with random "
                f"weights: {_verdict(sign * (ours - random))}."
            )
        return lines


def _verdict(gain: pd.Series) -> str:
    """Say whether differences, larger is better, are more than chance."""
    gain = gain.dropna()
    mean, error = float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(max(len(gain), 1)))
    of = f"{abs(mean):.3g} ± {error:.2g}, standard error over {len(gain)} compounds by context"
    if not np.isfinite(error):
        return "one compound in one context only, which says nothing for certain"
    if mean > 2 * error:
        return f"better ({of})"
    return f"worse ({of})" if mean < -2 * error else f"no better for certain ({of})"
