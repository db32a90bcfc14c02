"""How cells are told by lines, without a label of a cell.

Shapes: L lines, l labelled ones, n cells, E width, P coordinates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from cellfm_torch.analysis.expression import fitted_pca
from cellfm_torch.drug.align import Align, Floats, coral, own_scale, transport, unaligned
from cellfm_torch.errors import UserError, nearest
from cellfm_torch.tasks.adversarial import AdversarialNetwork, SideBatches, fit_adversarial

Rows = NDArray[np.int64]
Kinds = NDArray[np.bool_]
Method = Callable[[Floats, Floats, Rows, Kinds, int], Floats]
"""From lines (L, E), cells (n, E), the labelled lines (l,), which of them are sensitive (l,) and a seed to the
probability of each cell to be sensitive, (n,)."""

COMPONENTS = 50
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Of the logistic regression (C); cross-validation within the lines chooses."""

LEAST_CELLS = 10
"""To see where cells lie."""

STEPS, BATCH_SIZE, WEIGHT = 600, 64, 2.0
"""Of adversarial training, the last one of the reversed gradient; chosen on simulated lines and cells of other seeds
than those of the benchmark."""


def logistic(x: Floats, y: Floats, sensitive: Kinds, seed: int) -> Floats:
    """Return the probability of cells (n, P) to be sensitive by a regression on labelled lines (l, P)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    folds = StratifiedKFold(min(5, int(sensitive.sum()), int((~sensitive).sum())), shuffle=True, random_state=seed)
    made = [LogisticRegression(C=c, class_weight="balanced", max_iter=2000) for c in PENALTIES]
    found = [cross_val_score(one, x, sensitive, cv=folds, scoring="roc_auc").mean() for one in made]
    best = made[int(np.argmax(found))].fit(x, sensitive)
    return np.asarray(best.predict_proba(y)[:, 1], dtype=np.float64)


def _components(x: Floats, y: Floats, seed: int) -> tuple[Floats, Floats]:
    """Return principal components of both together, lines weighing as much as cells."""
    share = np.sqrt(len(y) / len(x))
    space = fitted_pca(np.concatenate([x * share, y]).astype(np.float32), components=COMPONENTS, seed=seed)
    return x @ space.components_.T, y @ space.components_.T


def aligned(align: Align, *, in_components: bool = False) -> Method:
    """Return a method that aligns all lines, and then learns the labelled ones by a logistic regression."""

    def learned(lines: Floats, cells: Floats, rows: Rows, sensitive: Kinds, seed: int) -> Floats:
        x, y = _components(*own_scale(lines, cells), seed) if in_components else (lines, cells)
        x, y = align(x, y, seed)
        return logistic(x[rows], y, sensitive, seed)

    return learned


def adversarial(lines: Floats, cells: Floats, rows: Rows, sensitive: Kinds, seed: int) -> Floats:
    """Learn labelled lines by what does not tell lines from cells, for a fixed number of steps."""
    x, y = _components(*unaligned(lines, cells), seed)
    size = np.sqrt((x**2).mean())
    on_lines, on_cells = (torch.from_numpy(side / size).float() for side in (x, y))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AdversarialNetwork(x.shape[1])
    batches = SideBatches(
        on_lines,
        on_cells,
        torch.from_numpy(rows),
        torch.from_numpy(sensitive),
        size=BATCH_SIZE,
        steps=STEPS,
        generator=torch.Generator().manual_seed(seed),
    )
    fit_adversarial(network, batches, seed=seed, weight=WEIGHT)
    with torch.no_grad():
        found: Floats = network(on_cells).sigmoid().double().numpy()
    return found


METHODS: dict[str, Method] = {
    "coral": aligned(coral, in_components=True),
    "transport": aligned(transport, in_components=True),
    "adversarial": adversarial,
    "scale": aligned(own_scale),
    "none": aligned(unaligned),
}
WORDS = {
    "coral": "lines are given the covariance of the cells, then a logistic regression learns the labelled ones",
    "transport": "lines are moved to the cells by optimal transport, then a regression learns the labelled ones",
    "adversarial": "a network learns the labelled lines by what does not tell lines from cells",
    "scale": "lines and cells are standardised each by themselves, and a logistic regression learns the labelled lines",
    "none": "a logistic regression learns the labelled lines, and cells are taken as they are",
}
"""What each does, for people."""

BLIND = "none"
"""The one that does not look at where cells lie."""


def check_method(method: str) -> None:
    """Refuse a method that is not known.

    Raises
    ------
    UserError
        Naming the ones that are.
    """
    if method not in METHODS:
        raise UserError(f"method={method}: choose {', '.join(METHODS)}{nearest(method, METHODS)}")


def check_number(method: str, cells: int, source: str) -> None:
    """Refuse so few cells that a method cannot see where they lie.

    Raises
    ------
    UserError
        Saying so; `source` names the cells.
    """
    if method != BLIND and cells < LEAST_CELLS:
        raise UserError(
            f"{source}: {cells} cells with counts in the model's genes: method={method} takes {LEAST_CELLS} to see "
            f"where cells lie; method={BLIND} takes fewer"
        )


def sensitivity(method: str, lines: Floats, cells: Floats, rows: Rows, sensitive: Kinds, seed: int) -> Floats:
    """Return the probability of each cell to be sensitive, (n,); see :data:`Method`.

    Raises
    ------
    UserError
        If an embedding is no number.
    """
    for side, what in ((lines, "lines"), (cells, "cells")):
        if not np.isfinite(side).all():
            raise UserError(f"the model's embedding of some {what} is no number: its weights are damaged")
    return METHODS[method](lines, cells, rows, sensitive, seed)
