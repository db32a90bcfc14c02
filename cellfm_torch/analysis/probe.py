"""A linear probe: what a straight cut through the embeddings tells of the classes.

Shapes: n cells, E width, C classes.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

Floats = NDArray[np.floating[Any]]


class LinearProbe:
    """Logistic regression on standardised features.

    Parameters
    ----------
    weight : (C, E)
    bias : (C,)
        Of standardised features; -inf for a class that was not among the cells it was fitted to.
    mean, scale : (E,)
        What standardises them.
    """

    def __init__(self, weight: Floats, bias: Floats, mean: Floats, scale: Floats) -> None:
        self.weight, self.bias, self.mean, self.scale = weight, bias, mean, scale

    @classmethod
    def fit(
        cls,
        features: Floats,
        codes: NDArray[np.integer[Any]],
        *,
        num_classes: int,
        class_weights: NDArray[np.float64] | None = None,
        penalty: float = 1.0,
        most_steps: int = 500,
    ) -> LinearProbe:
        """Fit to labelled cells.

        Parameters
        ----------
        features : (n, E)
        codes : (n,)
            0 .. C - 1; a class may be absent and is never predicted then.
        class_weights : (C,), optional
            Of each class in the loss.
        penalty
            Of the squared weights, relative to the loss summed over cells (scikit-learn's 1 / C).
        most_steps
            Of the solver (L-BFGS). Where it is not done by then the weights it has are taken.
        """
        x = np.asarray(features, dtype=np.float64)
        mean, scale = x.mean(0), x.std(0)
        scale = np.where(scale > 1e-8 * max(1.0, float(np.abs(x).max(initial=0))), scale, 1.0)
        present = np.unique(codes)
        weight, bias = np.zeros((num_classes, x.shape[1])), np.full(num_classes, -np.inf)
        if len(present) == 1:
            bias[present] = 0.0
            return cls(weight, bias, mean, scale)
        weights = None if class_weights is None else {int(code): float(class_weights[code]) for code in present}
        model = LogisticRegression(C=1 / penalty, max_iter=most_steps, class_weight=weights)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit((x - mean) / scale, codes)
        if len(present) == 2:  # one row for two classes: the other's are zero
            weight[present[1]], bias[present] = model.coef_[0], [0.0, model.intercept_[0]]
        else:
            weight[present], bias[present] = model.coef_, model.intercept_
        return cls(weight, bias, mean, scale)

    def probabilities(self, features: Floats) -> NDArray[np.float64]:
        """Return the probability of each class, (n, C)."""
        logits = (np.asarray(features, dtype=np.float64) - self.mean) / self.scale @ self.weight.T + self.bias
        likelihood = np.exp(logits - logits.max(1, keepdims=True))
        return likelihood / likelihood.sum(1, keepdims=True)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return what :meth:`from_tensors` needs."""
        return {"weight": self.weight, "bias": self.bias, "mean": self.mean, "scale": self.scale}

    @classmethod
    def from_tensors(cls, tensors: dict[str, NDArray[Any]]) -> LinearProbe:
        """Return what was saved."""
        return cls(*(tensors[name] for name in ("weight", "bias", "mean", "scale")))
