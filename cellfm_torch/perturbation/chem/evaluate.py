"""Held-out conditions predicted and scored, beside baselines and the same network with random weights.

Shapes: n cells, P coordinates, G marker genes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.errors import UserError
from cellfm_torch.perturbation.chem.baselines import baseline_steps
from cellfm_torch.perturbation.chem.cells import TreatedCells
from cellfm_torch.perturbation.chem.compounds import Compounds
from cellfm_torch.perturbation.chem.fitted import FitOptions, Fitted, fit, mean_steps
from cellfm_torch.perturbation.chem.scores import median_distance, mmd, r2, wasserstein
from cellfm_torch.perturbation.chem.splits import Split, check_leak_free

Floats = NDArray[np.float64]

METRICS = ("mmd", "wasserstein", "r2", "r2_change")
MODEL, RANDOM = "model", "random weights"
FLOW, SHIFT, READ, CEILING = "flow", "mean step only", "genes from embedding", "other half"
"""SHIFT is without the flow. READ takes marker genes from the predicted embedding alone, by ridge regression: what that
carries of the effect. CEILING is what one half of the true cells says of the other."""
MOST_CELLS = 400
"""Of either side, for distances; exact transport takes the cube of their number."""


@dataclass(frozen=True)
class Picture:
    """Cells of a test condition in the plane: control, treated in truth, predicted; (n, 2) each."""

    condition: str
    control: Floats
    treated: Floats
    predicted: Floats


@dataclass(frozen=True)
class Fold:
    """What one split gave with one network: a row of scores per condition and method, and pictures."""

    scores: list[dict[str, Any]]
    pictures: list[Picture]


def evaluate_split(
    split: Split,
    cells: TreatedCells,
    embeddings: NDArray[np.floating],
    expression: sp.csr_matrix,
    compounds: Compounds,
    options: FitOptions,
    *,
    network: str = MODEL,
    least_cells: int = 10,
    pictures: int = 4,
    fitter: Callable[..., Fitted] = fit,
) -> Fold:
    """Learn from the training conditions of a split and score the others.

    Every method is compared with one half of the treated cells and then with the other, so that the other half itself
    is what can be reached at best.

    Parameters
    ----------
    network
        Word for whose embeddings these are.
    least_cells
        Treated cells of a condition that is scored.
    pictures
        Test conditions that are drawn, those with most cells.

    Raises
    ------
    UserError
        If no test condition has enough cells.
    """
    rows = split.training_rows(cells)
    check_leak_free(split, cells, compounds, rows)
    scored = [c for c in split.test if len(cells.rows[c]) >= least_cells]
    if not scored:
        raise UserError(
            f"split={split.kind}, {split.held_out} held out: no test condition has {least_cells} cells: lower "
            "least_cells"
        )
    fitted = fitter(cells, embeddings, expression, split.train, compounds, options)
    x = fitted.space.coordinates(embeddings)
    y = np.asarray(expression[:, fitted.genes].todense(), dtype=np.float64)
    of_x, of_y = (mean_steps(values, cells, split.train)[0] for values in (x, y))
    median = median_distance(x[rows])
    found, drawn = [], []
    shown = set(sorted(scored, key=lambda c: -len(cells.rows[c]))[:pictures])
    for number, condition in enumerate(scored):
        control = cells.controls(condition.context)
        feature = compounds.features[condition.drug]
        flow = _with_means(fitted.predict(x[control], feature, condition.dose))
        answers: dict[str, tuple[Floats, Floats]] = {
            FLOW: flow,
            READ: (flow[0], fitted.readout.change(flow[0]).mean(0)),
            SHIFT: _with_means(fitted.predict(x[control], feature, condition.dose, flow=False)),
        }
        simple = [baseline_steps(condition, split.train, steps, compounds) for steps in (of_x, of_y)]
        answers |= {name: (simple[0][name], simple[1][name]) for name in simple[0]}
        rng = np.random.default_rng([split.seed, number])
        treated = rng.permutation(cells.rows[condition])
        halves = treated[: len(treated) // 2], treated[len(treated) // 2 :]
        start = rng.permutation(control)[:MOST_CELLS]
        places = {int(row): i for i, row in enumerate(control)}
        about = {
            "split": split.kind,
            "seed": split.seed,
            "held_out": split.held_out,
            "network": network,
            "drug": condition.drug,
            "dose": condition.dose,
            "context": condition.context,
            "cells": len(treated),
        }
        base = y[control].mean(0)
        for name, (steps, change) in answers.items():
            moved = x[start] + (steps if steps.ndim == 1 else steps[[places[int(row)] for row in start]])
            pairs = [(moved, change, x[half[:MOST_CELLS]], y[half].mean(0)) for half in halves]
            scores = _scores(pairs, base, median=median, seed=split.seed)
            if name == READ:  # the same cells as those of the flow
                scores |= {"mmd": np.nan, "wasserstein": np.nan}
            found.append(about | {"method": name} | scores)
        pairs = [
            (x[other[:MOST_CELLS]], y[other].mean(0) - base, x[half[:MOST_CELLS]], y[half].mean(0))
            for half, other in (halves, halves[::-1])
        ]
        found.append(about | {"method": CEILING} | _scores(pairs, base, median=median, seed=split.seed))
        if condition in shown:
            drawn.append(_picture(cells.named(condition), x[control], x[treated], x[control] + answers[FLOW][0], rng))
    return Fold(found, drawn)


def _with_means(predicted: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    return predicted[0], predicted[1].mean(0)


def _scores(
    pairs: Sequence[tuple[Floats, Floats, Floats, Floats]], base: Floats, *, median: float, seed: int
) -> dict[str, float]:
    """Return the mean over halves: of (cells found, their change of means, true cells, true means) each."""
    rows = [
        {
            "mmd": mmd(found, true, median=median),
            "wasserstein": wasserstein(found, true, seed=seed),
            "r2": r2(base + change, mean),
            "r2_change": r2(change, mean - base),
        }
        for found, change, true, mean in pairs
    ]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _picture(name: str, control: Floats, treated: Floats, predicted: Floats, rng: np.random.Generator) -> Picture:
    """Return a condition in the plane: from the mean of control to that of treated cells, and most of the rest."""
    some = rng.permutation(len(control))[:MOST_CELLS]
    sides = (control[some], treated[:MOST_CELLS], predicted[some])
    both = np.concatenate(sides[:2])
    way = treated.mean(0) - control.mean(0)
    way /= max(float(np.linalg.norm(way)), 1e-12)
    rest = both - both.mean(0)
    rest -= np.outer(rest @ way, way)
    axes = np.stack([way, np.linalg.svd(rest, full_matrices=False)[2][0]])
    planes = [(side - both.mean(0)) @ axes.T for side in sides]
    return Picture(name, *planes)
