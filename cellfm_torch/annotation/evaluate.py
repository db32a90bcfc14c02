"""A method beside its baselines, on the same cells, over seeds.

Shapes: r cells asked about, C classes of the reference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.analysis import baselines
from cellfm_torch.analysis.scores import confusion_matrix, per_class, rare_classes, scores
from cellfm_torch.annotation.designs import Design, Labelled, Part
from cellfm_torch.annotation.labels import codes_of
from cellfm_torch.annotation.methods import FitOptions, Fitted, fit
from cellfm_torch.data.labelled import CellSet
from cellfm_torch.embedding.cell_sets import Embeddings
from cellfm_torch.model.loading import untrained

Floats = NDArray[np.float64]
RANDOM = "random_weights"
FIGURES = (
    "accuracy",
    "macro_f1",
    "weighted_f1",
    "rare_f1",
    "calibration_error",
    "false_rejections",
    "novel_rejected",
)


@dataclass(frozen=True)
class Answer:
    """Probabilities (r, C), and which cells are called unknown (r,): None where a method does not reject."""

    probabilities: Floats
    unknown: NDArray[np.bool_] | None


@dataclass
class Question:
    """Everything that a comparison is about.

    Attributes
    ----------
    reference, query
        The cells; the query may be missing.
    labelled
        Their classes.
    query_labels
        Types of the query cells, where known; those that the reference lacks are novel.
    """

    reference: CellSet
    query: CellSet | None
    labelled: Labelled
    query_labels: pd.Series | None


@dataclass
class Results:
    """Tables of a comparison: one row per evaluation, model and seed; per class; per pair of types."""

    scores: pd.DataFrame
    per_class: pd.DataFrame
    confusion: pd.DataFrame

    def summary(self) -> pd.DataFrame:
        """Return mean and standard deviation over seeds (NaN for one) of each figure."""
        groups = self.scores.groupby(["evaluation", "model"], sort=False)
        found = groups[list(FIGURES)].agg(["mean", "std"])
        found.columns = [name if kind == "mean" else f"{name}_sd" for name, kind in found.columns]
        sizes = groups[["train_cells", "cells", "novel_cells"]].mean()
        return found.assign(**sizes, seeds=groups.size()).reset_index()


class Comparison:
    """Ask a method and its baselines the same questions.

    Parameters
    ----------
    question
        The cells.
    method
        A key of :data:`cellfm_torch.annotation.methods.METHODS`.
    embeddings
        Of the backbone.
    options
        How it is fitted; the seed is that of each run.
    others
        Baselines to put beside it, by name; :data:`RANDOM` is the same network with random weights. The others see raw
        counts of the model's genes, of a query those that occur in it.

    Attributes
    ----------
    whole
        The method fitted to all labelled reference cells, of the first seed that did.
    """

    def __init__(
        self, question: Question, method: str, embeddings: Embeddings, options: FitOptions, others: Sequence[str]
    ) -> None:
        self.question = question
        self.method = method
        self.embeddings = embeddings
        self.options = options
        self.others = list(others)
        self.whole: Fitted | None = None
        self._random: dict[int, Embeddings] = {}
        self._told: dict[tuple[Any, ...], Floats] = {}

    def run(
        self,
        plan: Callable[[int], list[Design]],
        seeds: Sequence[int],
        *,
        say: Callable[[str], None],
        keep: Callable[[Results], None],
    ) -> Results:
        """Run all designs of all seeds; `say` is told what is about to be done, `keep` given the tables so far."""
        tables: tuple[list[pd.DataFrame], ...] = ([], [], [])
        results: Results | None = None
        for seed in seeds:
            for design in plan(seed):
                for name in [self.method, *self.others]:
                    say(f"{design.name}, seed {seed}: {name}")
                    keys: dict[str, Any] = {"evaluation": design.name, "model": name, "seed": seed}
                    for table, rows in zip(tables, self._scored(design, name, seed), strict=True):
                        table.append(rows.assign(**keys)[[*keys, *rows]])
                results = Results(*(pd.concat(table, ignore_index=True) for table in tables))
                keep(results)
        assert results is not None, "a plan without designs is not run"
        return results

    def _scored(self, design: Design, name: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """Return the figures of a model on a design, its table by class and its confusions."""
        classes, question = self.question.labelled.classes, self.question
        true, found, unknown, taught = [], [], [], []
        for part in design.parts:
            answer = self._answer(name, part, seed)
            codes = question.labelled.codes[part.test] if not part.of_query else self._query_codes()[part.test]
            seen = np.isin(codes, np.unique(question.labelled.codes[part.train]))
            true.append(np.where(seen, codes, -1))
            found.append(answer.probabilities)
            unknown.append(np.zeros(0, bool) if answer.unknown is None else answer.unknown)
            taught.append(len(part.train))
        codes, probabilities, rejected = np.concatenate(true), np.concatenate(found), np.concatenate(unknown)
        known = codes >= 0
        rare = rare_classes(question.labelled.codes[question.labelled.codes >= 0], num_classes=len(classes))
        figures = scores(codes[known], probabilities[known], rare=rare) if known.any() else {}
        rejects = len(rejected) == len(codes)
        figures["false_rejections"] = float(rejected[known].mean()) if rejects and known.any() else np.nan
        figures["novel_rejected"] = float(rejected[~known].mean()) if rejects and not known.all() else np.nan
        figures |= {"novel_cells": float((~known).sum()), "train_cells": float(np.mean(taught))}
        confusion = confusion_matrix(codes[known], probabilities[known].argmax(1), num_classes=len(classes))
        by_class = per_class(confusion, classes).assign(rare=pd.Series(rare, index=list(classes))).reset_index()
        return pd.DataFrame([figures]), by_class, _long(confusion, classes)

    def _query_codes(self) -> NDArray[np.int64]:
        assert self.question.query_labels is not None
        return codes_of(self.question.query_labels, self.question.labelled.classes)

    def _answer(self, name: str, part: Part, seed: int) -> Answer:
        question = self.question
        asked = question.query if part.of_query else question.reference
        assert asked is not None
        codes, num_classes = question.labelled.codes, len(question.labelled.classes)
        if name in baselines.BASELINES:
            return Answer(self._baseline(name, part, asked, seed), None)
        embeddings = self.embeddings if name == self.method else self._random_embeddings(seed)
        options = dataclasses.replace(self.options, seed=seed)
        fitted = fit(
            self.method, embeddings, question.reference, codes, part.train, num_classes=num_classes, options=options
        )
        if name == self.method and self.whole is None and len(part.train) == int((codes >= 0).sum()):
            self.whole = fitted
        probabilities = fitted.probabilities(asked, embeddings, rows=part.test)
        return Answer(probabilities, fitted.rejection.unknown(probabilities))

    def _baseline(self, name: str, part: Part, asked: CellSet, seed: int) -> Floats:
        """Return what a baseline says; of those without chance in them a second seed is told what the first was."""
        key = (name, part.of_query, part.train.tobytes(), part.test.tobytes())
        if key in self._told:
            return self._told[key]
        labelled = self.question.labelled
        train, cells = self.question.reference.counts[part.train], asked.counts[part.test]
        if part.of_query:  # genes that the query lacks would be zeros there: anybody would leave them out
            there = np.flatnonzero(asked.counts.getnnz(axis=0))
            train, cells = train[:, there], cells[:, there]
        found = baselines.BASELINES[name](train, labelled.codes[part.train], cells, len(labelled.classes), seed)
        if name in baselines.WITHOUT_CHANCE:
            self._told[key] = found
        return found

    def _random_embeddings(self, seed: int) -> Embeddings:
        if seed not in self._random:
            self._random = {seed: Embeddings(untrained(cast(Any, self.embeddings.network), seed=seed))}
        return self._random[seed]


def _long(confusion: NDArray[np.int64], classes: Sequence[str]) -> pd.DataFrame:
    """Return the pairs that occur."""
    pairs: Iterator[tuple[int, int]] = zip(*np.nonzero(confusion), strict=True)
    rows = [(classes[i], classes[j], int(confusion[i, j])) for i, j in pairs]
    return pd.DataFrame(rows, columns=["true", "predicted", "cells"])
