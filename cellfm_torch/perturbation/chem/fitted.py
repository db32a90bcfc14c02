"""What is learned from treated cells: a space, the mean step of each condition, a flow of what is left, and a read-out.

Shapes: n cells, E width of an embedding, P coordinates, F numbers of a compound, G marker genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from cellfm_torch.analysis.expression import moments, variable_genes
from cellfm_torch.callbacks.fitting import fit_in_memory
from cellfm_torch.errors import UserError
from cellfm_torch.perturbation.chem.cells import Condition, Rows, TreatedCells
from cellfm_torch.perturbation.chem.compounds import Compounds
from cellfm_torch.perturbation.chem.flow import FlowBatches, Pairs, Velocity, displacements
from cellfm_torch.perturbation.chem.readout import Readout
from cellfm_torch.perturbation.chem.shift import Conditions, Shift
from cellfm_torch.perturbation.chem.space import COMPONENTS, Space
from cellfm_torch.tasks.chem import ChemTask

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FitOptions:
    """How a predictor is fitted.

    Attributes
    ----------
    components : int
        Most coordinates of the space.
    markers : int
        Genes that are read out: half the most variable, half those that respond most.
    hidden : int
        Units of the flow's layers.
    lr : float
        Highest learning rate of the flow.
    seed : int
    trainer : dict
        Options of Lightning's Trainer; an epoch has 100 steps, 4 by default.
    """

    components: int = COMPONENTS
    markers: int = 200
    hidden: int = 128
    lr: float = 5e-4
    seed: int = 0
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("components", "markers", "hidden"):
            if getattr(self, name) < 1:
                raise UserError(f"fit.{name}={getattr(self, name)}: must be at least 1")
        if not self.lr > 0:
            raise UserError(f"fit.lr={self.lr}: must be more than 0")


@dataclass
class Fitted:
    """A predictor of where cells go.

    Attributes
    ----------
    space : Space
    compounds : Compounds
        Of the training cells.
    middle : float
        Dose that counts as one.
    shift, expression : Shift
        Mean steps of coordinates (P), and of marker genes (G).
    flow : Velocity
    readout : Readout
    genes : (G,) int64
        Markers, columns of the vocabulary.
    history : DataFrame
        Of the flow's training, a row per epoch.
    """

    space: Space
    compounds: Compounds
    middle: float
    shift: Shift
    expression: Shift
    flow: Velocity
    readout: Readout
    genes: NDArray[np.int64]
    history: pd.DataFrame

    def predict(
        self, start: Floats, feature: NDArray[np.float32], dose: float, *, flow: bool = True
    ) -> tuple[Floats, Floats]:
        """Return the steps of cells, (n, P), and what happens to their markers, (n, G), log1p(CP10K).

        Parameters
        ----------
        start : (n, P)
            Control cells of one context.
        feature : (F,)
        dose : float
            As the cells' column has it.
        flow
            False: only the mean step of the condition.
        """
        asked = Conditions(feature[None], np.array([dose / self.middle]), start.mean(0)[None])
        step = np.repeat(self.shift.steps(asked), len(start), axis=0)
        change = np.repeat(self.expression.steps(asked), len(start), axis=0)
        if not flow:
            return step, change
        rest = displacements(self.flow, start + step, feature, dose / self.middle)
        rest -= rest.mean(0)  # that of the cells on the whole is known better from the means of all conditions
        return step + rest, change + self.readout.change(rest)


def fit(
    cells: TreatedCells,
    embeddings: NDArray[np.floating],
    expression: sp.csr_matrix,
    conditions: Sequence[Condition],
    compounds: Compounds,
    options: FitOptions,
) -> Fitted:
    """Learn from some conditions and all control cells.

    Parameters
    ----------
    embeddings : (n, E)
    expression : (n, vocabulary)
        log1p(CP10K).
    conditions
        Of training.
    """
    controls = np.flatnonzero(cells.control)
    rows = np.sort(np.concatenate([controls, *(cells.rows[c] for c in conditions)]))
    space = Space.fit(embeddings[rows], components=options.components)
    known = Compounds(
        {c.drug: compounds.features[c.drug] for c in conditions},
        {c.drug: compounds.smiles[c.drug] for c in conditions if compounds.by_structure},
    )
    genes = marker_genes(cells, expression, conditions, options.markers)
    x, y = space.coordinates(embeddings), np.asarray(expression[:, genes].todense(), dtype=np.float64)
    middle = float(np.exp(np.mean(np.log([c.dose for c in conditions]))))
    controls_of = {context: x[cells.controls(context)] for context in {c.context for c in conditions}}
    means = {context: own.mean(0) for context, own in controls_of.items()}
    seen = Conditions(
        np.stack([compounds.features[c.drug] for c in conditions]),
        np.array([c.dose / middle for c in conditions]),
        np.stack([means[c.context] for c in conditions]),
    )
    shifts = [Shift.fit(seen, *mean_steps(values, cells, conditions)) for values in (x, y)]
    steps = shifts[0].steps(seen)
    pairs = [
        Pairs(controls_of[c.context], step, x[cells.rows[c]], compounds.features[c.drug], c.dose / middle)
        for c, step in zip(conditions, steps, strict=True)
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = Velocity(space.width, seen.compounds.shape[1], hidden=options.hidden)
        batches = FlowBatches(pairs, seed=options.seed)
        trainer = {"max_epochs": 4, "accelerator": "cpu"} | options.trainer
        task, history = fit_in_memory(ChemTask(network, lr=options.lr), batches, **trainer)
    readout = Readout.fit(x[rows], y[rows], seed=options.seed)
    return Fitted(space, known, middle, shifts[0], shifts[1], task.network, readout, genes, history)


def mean_steps(values: Floats, cells: TreatedCells, conditions: Sequence[Condition]) -> tuple[Floats, Floats]:
    """Return the mean of each condition less that of its control cells, and its variance through their number.

    (n, P) -> (M, P) and (M,), the latter a mean over the columns.
    """
    known: dict[str, tuple[Floats, float, int]] = {}
    steps, noise = [], []
    for condition in conditions:
        if condition.context not in known:
            control = values[cells.controls(condition.context)]
            known[condition.context] = control.mean(0), float(control.var(0).mean()), len(control)
        mean, variance, number = known[condition.context]
        rows = cells.rows[condition]
        steps.append(values[rows].mean(0) - mean)
        # The spread of few cells says little: that of the control cells stands for both.
        noise.append(variance * (1 / len(rows) + 1 / number))
    return np.stack(steps), np.array(noise)


def marker_genes(
    cells: TreatedCells, expression: sp.csr_matrix, conditions: Sequence[Condition], number: int
) -> NDArray[np.int64]:
    """Return the genes that are read out, ascending: the most variable, and those that respond most in training.

    A gene responds as far as its largest Welch t, of any compound against the control cells of its contexts.
    """
    by_drug: dict[str, tuple[list[Rows], set[str]]] = {}
    for condition in conditions:
        treated, contexts = by_drug.setdefault(condition.drug, ([], set()))
        treated.append(cells.rows[condition])
        contexts.add(condition.context)
    largest = np.zeros(expression.shape[1])
    of_controls: dict[frozenset[str], tuple[Floats, Floats, int]] = {}
    for treated, contexts in by_drug.values():
        if (key := frozenset(contexts)) not in of_controls:
            rows = np.concatenate([cells.controls(context) for context in sorted(contexts)])
            of_controls[key] = (*moments(expression[rows]), len(rows))
        mean, variance, controls = of_controls[key]
        own = np.concatenate(treated)
        mean_own, variance_own = moments(expression[own])
        error = np.sqrt(variance_own / len(own) + variance / controls)
        t = np.divide(np.abs(mean_own - mean), error, out=np.zeros_like(mean), where=error > 0)
        largest = np.maximum(largest, np.where(len(own) > 2, t, 0))
    rows = np.sort(np.concatenate([np.flatnonzero(cells.control), *(cells.rows[c] for c in conditions)]))
    chosen = variable_genes(expression[rows], number - number // 2)
    order = np.argsort(-largest, kind="stable")
    more = order[~np.isin(order, chosen) & (largest[order] > 0)][: number - len(chosen)]
    return np.sort(np.concatenate([chosen, more]))
