"""What came of predicting gene function: scores, spread, terms, predictions, and what they say in words.

Shapes: n genes of a question, T terms, G genes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfm_torch.gene_tasks.function.labels import Question
from cellfm_torch.gene_tasks.function.scores import METRICS

KEY = "auroc"
"""Metric that embeddings and baselines are compared by."""

CLEARLY = 0.8
"""Of the folds, in which an embedding must be ahead to be said to beat a baseline."""


@dataclass
class FunctionResult:
    """Scores of each fold, and predictions.

    Attributes
    ----------
    asked : tuple of str
        Features that are embeddings of the model; the others are baselines.
    questions : list of Question
    genes : tuple of str, G
    left_out : tuple of str
        Why baselines are missing.
    """

    asked: Sequence[str]
    questions: list[Question]
    genes: Sequence[str]
    left_out: Sequence[str] = ()
    score_rows: list[dict[str, Any]] = field(default_factory=list, repr=False)
    term_tables: list[pd.DataFrame] = field(default_factory=list, repr=False)
    _sums: dict[tuple[str, str, str], tuple[NDArray[np.float64], int]] = field(default_factory=dict, repr=False)

    def add(self, question: Question, found: NDArray[np.float64], *, features: str, probe: str, seed: int) -> None:
        """Add out-of-fold probabilities (n, T) of one seed."""
        key = (question.name, features, probe)
        total, number = self._sums.get(key, (np.zeros_like(found), 0))
        self._sums[key] = (total + found, number + 1)

    @property
    def scores(self) -> pd.DataFrame:
        """A row for each task, features, probe, seed and fold."""
        return pd.DataFrame(self.score_rows)

    def summary(self) -> pd.DataFrame:
        """Return means and standard deviations (``_sd``) over folds and seeds, by task, features and probe."""
        scores = self.scores
        names = [name for name in METRICS if name in scores]
        grouped = scores.groupby(["task", "features", "probe"], sort=False)[names]
        spread = grouped.std(ddof=1).add_suffix("_sd")
        table = grouped.mean().join(spread)[[x for name in names for x in (name, f"{name}_sd")]]
        return table.reset_index()

    def per_term(self) -> pd.DataFrame:
        """Return means of each term over folds and seeds, and its ``genes``; without rows for two classes."""
        columns = ["task", "features", "probe", "term", "genes", "auroc", "aupr", "f1"]
        if not self.term_tables:
            return pd.DataFrame(columns=columns)
        table = pd.concat(self.term_tables).groupby(columns[:4], sort=False).mean().reset_index()
        sizes = {
            (question.name, term): int(number)
            for question in self.questions
            if not question.binary
            for term, number in zip(question.terms, question.targets.sum(0), strict=True)
        }
        table["genes"] = [sizes[key] for key in zip(table["task"], table["term"], strict=True)]
        return table[columns]

    def predictions(self) -> AnnData:
        """Return labels and out-of-fold probabilities, mean over seeds.

        Returns
        -------
        AnnData
            An observation for each gene of any question. For two classes ``obs[task]`` has the label, empty for other
            genes, and ``obs["task|features|probe"]`` the probability of its first class; of terms ``obsm[task]`` has
            who has them and ``obsm["task|features|probe"]`` the probabilities, (genes, T). NaN for genes that were not
            asked about. ``uns["cellfm_gene_function"]`` has the terms, as JSON.
        """
        rows = np.unique(np.concatenate([question.rows for question in self.questions]))
        place = {question.name: np.searchsorted(rows, question.rows) for question in self.questions}
        made = AnnData(obs=pd.DataFrame(index=[self.genes[i] for i in rows]), var=pd.DataFrame(index=[]))
        by_name = {question.name: question for question in self.questions}
        columns: dict[str, Any] = {}
        for question in self.questions:
            at, name = place[question.name], question.name.replace("/", " or ")
            if question.binary:
                label = np.full(len(rows), "", dtype=object)
                label[at] = np.where(question.targets[:, 0], *question.terms)
                columns[name] = pd.Categorical(label)
            else:
                made.obsm[name] = _spread(question.targets.astype(np.float32), at, len(rows))
        for (task, features, probe), (total, number) in self._sums.items():
            values = _spread((total / number).astype(np.float32), place[task], len(rows))
            name = "|".join((task, features, probe)).replace("/", " or ")
            if by_name[task].binary:
                columns[name] = values[:, 0]
            else:
                made.obsm[name] = values
        made.obs = pd.DataFrame(columns, index=made.obs.index)
        about = {question.name: list(question.terms) for question in self.questions}
        made.uns["cellfm_gene_function"] = json.dumps({"terms": about})
        return made

    def verdicts(self) -> list[str]:
        """Say of each task and embedding whether its best probe is ahead of the best baseline, fold by fold."""
        lines, scores = [], self.scores
        for question in self.questions:
            table = scores[scores["task"] == question.name]
            mean = table.groupby(["features", "probe"], sort=False)[KEY].mean()
            own = mean.index.get_level_values("features").isin(self.asked)
            for name in self.asked:
                best = mean[mean.index.get_level_values("features") == name].idxmax()
                if own.all():
                    lines.append(f"{question.name}: {_said(best, mean)}; no baseline was asked for")
                    continue
                other = mean[~own].idxmax()
                a, b = (_of(table, which) for which in (best, other))
                ahead = int((a > b).sum())
                word = "beats" if ahead >= CLEARLY * len(a) else "is not clearly ahead of"
                if mean[best] <= mean[other]:
                    word = "does not beat"
                lines.append(
                    f"{question.name}: {_said(best, mean)} {word} the best baseline, {_said(other, mean)} "
                    f"(ahead in {ahead} of {len(a)} folds)"
                )
        return lines


def _spread(values: NDArray[Any], at: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    out = np.full((size, values.shape[1]), np.nan, dtype=np.float32)
    out[at] = values
    return out


def _of(table: pd.DataFrame, which: tuple[str, str]) -> NDArray[np.float64]:
    rows = table[(table["features"] == which[0]) & (table["probe"] == which[1])]
    return rows.sort_values(["seed", "fold"])[KEY].to_numpy()


def _said(which: tuple[str, str], mean: pd.Series) -> str:
    name = which[0] if which[1] == "none" else f"{which[0]} by {which[1]}"
    return f"{name} {mean[which]:.3f}"
