"""The ways to annotate, behind one interface: fit to labelled rows of a set of cells, then ask about any cells.

Shapes: n cells of a set, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.analysis.knn import NearestCells
from cellfm_torch.analysis.probe import LinearProbe
from cellfm_torch.analysis.rejection import Rejection
from cellfm_torch.analysis.splits import hold_out
from cellfm_torch.annotation.fine_tune import fine_tune, predicted
from cellfm_torch.callbacks.fitting import EpochHistory
from cellfm_torch.data.labelled import CellSet, LabelledCells
from cellfm_torch.embedding.cell_sets import Embeddings
from cellfm_torch.errors import UserError, nearest
from cellfm_torch.tasks.annotate import AnnotateTask

METHODS = {
    "knn": "nearest neighbours on embeddings: nothing is trained (zero-shot)",
    "linear": "logistic regression on embeddings",
    "frozen": "the published head on a frozen backbone",
    "lora": "the published head and low-rank adapters of the backbone",
    "full": "the published head and the whole backbone",
}
OF_EMBEDDINGS = ("knn", "linear")


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How a method is fitted.

    Attributes
    ----------
    val_fraction
        Share of each type's cells held out to calibrate the rejection of unknown cells. ``knn`` and ``linear`` use them
        as well afterwards; training measures its progress on them.
    reject
        Share of known cells that may be called unknown.
    class_weights : "balanced" or None
        Weigh types by one over their cells.
    k
        Neighbours of ``knn``.
    lora_rank
        Of the adapters of ``lora``.
    lr
        Highest learning rate; None: that of the method.
    seed
        Of held-out cells, new weights, order and dropout.
    trainer
        Options of Lightning's Trainer, such as ``max_epochs`` (default 30).

    Raises
    ------
    UserError
        If one is out of its range.
    """

    val_fraction: float = 0.1
    reject: float = 0.05
    class_weights: str | None = None
    k: int = 15
    lora_rank: int = 8
    lr: float | None = None
    seed: int = 0
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("val_fraction", "reject"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < 1:
                raise UserError(f"{name}={value}: must be a share of the cells, at least 0 and below 1")
        for name in ("k", "lora_rank"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.class_weights not in (None, "balanced"):
            raise UserError(f"class_weights={self.class_weights}: choose balanced, or leave it out")

    def weights(self, codes: NDArray[np.int64], num_classes: int) -> NDArray[np.float64] | None:
        """Return the weight of each class by the cells that are trained on, (C,)."""
        if self.class_weights is None:
            return None
        sizes = np.bincount(codes, minlength=num_classes)
        return len(codes) / (np.maximum(sizes, 1) * np.count_nonzero(sizes))


@dataclass
class Fitted:
    """A method that was fitted.

    Attributes
    ----------
    method
        Its name.
    num_classes
        C.
    model
        What knows the classes: a function of embeddings, or a trained task.
    rejection
        Which cells it calls unknown.
    history
        One row per epoch of training.
    """

    method: str
    num_classes: int
    model: NearestCells | LinearProbe | AnnotateTask
    rejection: Rejection
    history: pd.DataFrame

    def probabilities(
        self, cells: CellSet, embeddings: Embeddings, *, rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Return the probability of each class, (r, C); NaN for cells without counts in the model's genes.

        `rows` (r,), ascending, are the cells asked about; None: all.
        """
        if isinstance(self.model, AnnotateTask):
            return predicted(self.model, cells, rows=rows)
        features = embeddings.of(cells) if rows is None else embeddings.of(cells)[rows]
        out = np.full((len(features), self.num_classes), np.nan)
        there = ~np.isnan(features[:, 0])
        if there.any():
            out[there] = self.model.probabilities(features[there])
        return out


def check_method(method: str) -> None:
    """Refuse a method that does not exist.

    Raises
    ------
    UserError
        With the nearest name.
    """
    if method not in METHODS:
        raise UserError(f"method={method}: choose {', '.join(METHODS)}{nearest(method, METHODS)}")


def fit(
    method: str,
    embeddings: Embeddings,
    cells: CellSet,
    codes: NDArray[np.int64],
    rows: NDArray[np.int64],
    *,
    num_classes: int,
    options: FitOptions,
) -> Fitted:
    """Fit a method to labelled cells.

    Parameters
    ----------
    method
        A key of :data:`METHODS`.
    embeddings
        Of the backbone.
    cells
        The cells.
    codes : (n,)
        Class of each, -1 for none.
    rows : (r,)
        Which of them to learn from; those without a class or without counts are left out.
    num_classes
        C.
    options
        How.

    Raises
    ------
    UserError
        If there is no such method, or the backbone cannot do it.
    """
    check_method(method)
    rows = rows[(codes[rows] >= 0) & (cells.lengths[rows] > 0)]
    held_out = hold_out(codes[rows], options.val_fraction, seed=options.seed)
    train, calibration = np.sort(rows[~held_out]), np.sort(rows[held_out])
    weights = options.weights(codes[train], num_classes)
    if method in OF_EMBEDDINGS:
        features = embeddings.of(cells)

        def of(chosen: NDArray[np.int64]) -> NearestCells | LinearProbe:
            if method == "knn":
                return NearestCells(features[chosen], codes[chosen], num_classes=num_classes, k=options.k)
            return LinearProbe.fit(features[chosen], codes[chosen], num_classes=num_classes, class_weights=weights)

        sure = of(train).probabilities(features[calibration]) if len(calibration) else np.zeros((0, num_classes))
        rejection = Rejection.calibrate(sure, share=options.reject, seed=options.seed)
        return Fitted(method, num_classes, of(np.sort(rows)), rejection, EpochHistory().frame)
    data = LabelledCells(cells, codes, train=train, held_out=calibration, seed=options.seed)
    task, history = fine_tune(
        embeddings.network,
        data,
        method=method,
        num_classes=num_classes,
        class_weights=weights,
        lora_rank=options.lora_rank,
        lr=options.lr,
        seed=options.seed,
        **options.trainer,
    )
    sure = predicted(task, cells, rows=calibration)
    rejection = Rejection.calibrate(sure, share=options.reject, seed=options.seed)
    return Fitted(method, num_classes, task, rejection, history)


def described(
    probabilities: NDArray[np.float64], classes: tuple[str, ...], fitted: Fitted, index: pd.Index
) -> pd.DataFrame:
    """Return label, probability, runner-up and `unknown` of each cell."""
    there = ~np.isnan(probabilities[:, 0])
    order = np.argsort(-probabilities, axis=1, kind="stable")
    best = np.take_along_axis(probabilities, order[:, :1], axis=1)[:, 0]
    first, second = (np.where(there, order[:, i], -1) for i in (0, 1))
    return pd.DataFrame(
        {
            "label": pd.Categorical.from_codes(first, list(classes)),
            "probability": best,
            "runner_up": pd.Categorical.from_codes(second, list(classes)),
            "unknown": fitted.rejection.unknown(probabilities),
        },
        index=index,
    )
