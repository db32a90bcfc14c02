"""What every model of perturbations is compared with; published comparisons show that these are hard to beat.

Each is fitted to the training conditions alone and predicts mean expression of any condition.

Shapes: M conditions, G genes that are read out, D width of an embedding, K components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.errors import UserError
from cellfm_torch.perturbation.gene.effects import Condition, Effects

Floats = NDArray[np.float64]

RIDGE = 0.1
COMPONENTS = 10


class Baseline(Protocol):
    """A fitted baseline."""

    def predict(self, conditions: Sequence[Condition]) -> Floats:
        """Return mean log1p(CP10K), (M, G)."""


@dataclass(frozen=True)
class NoChange:
    """Perturbed cells are as control cells."""

    control: Floats

    @classmethod
    def fit(cls, train: Effects) -> NoChange:
        """Take the control."""
        return cls(train.control)

    def predict(self, conditions: Sequence[Condition]) -> Floats:
        """Return mean log1p(CP10K), (M, G)."""
        return np.tile(self.control, (len(conditions), 1))


@dataclass(frozen=True)
class TrainingMean:
    """Every perturbation does what those of training do on average, each condition with the same weight."""

    control: Floats
    delta: Floats

    @classmethod
    def fit(cls, train: Effects) -> TrainingMean:
        """Take the mean difference from control."""
        _some(train)
        return cls(train.control, train.delta.mean(0))

    def predict(self, conditions: Sequence[Condition]) -> Floats:
        """Return mean log1p(CP10K), (M, G)."""
        return np.tile(self.control + self.delta, (len(conditions), 1))


@dataclass(frozen=True)
class Additive:
    """A condition does what its genes do alone, added up.

    Of a gene whose single is not in training, its part is the mean of those that are; without any single in training,
    the mean difference per perturbed gene. What is trained on as a double does not come in: a double is the sum of its
    singles even where it was measured.
    """

    control: Floats
    single: Mapping[str, Floats]
    otherwise: Floats

    @classmethod
    def fit(cls, train: Effects) -> Additive:
        """Take the singles."""
        _some(train)
        delta = train.delta
        single = {c[0]: row for c, row in zip(train.conditions, delta, strict=True) if len(c) == 1}
        otherwise = np.mean(list(single.values()), axis=0) if single else _per_gene(train)
        return cls(train.control, single, otherwise)

    def predict(self, conditions: Sequence[Condition]) -> Floats:
        """Return mean log1p(CP10K), (M, G)."""
        out = np.tile(self.control, (len(conditions), 1))
        for row, condition in zip(out, conditions, strict=True):
            for gene in condition:
                row += self.single.get(gene, self.otherwise)
        return out


@dataclass(frozen=True)
class LinearOnEmbeddings:
    """The bilinear model Y = G W P' + b of Ahlmann-Eltze et al. (2025, Nature Methods 22, 1657), in closed form.

    G are the first principal components of the genes that are read out, over the training differences from control. P
    are the embeddings of the perturbed genes: centred, reduced to their first principal components over the training
    genes, and scaled to a mean squared length of 1 per component so that the ridge means the same for every embedding.
    A double's embedding is the sum of its genes', and b, the mean difference per perturbed gene, counts once for each.
    A gene without an embedding lies in the middle: its part is b.
    """

    control: Floats
    intercept: Floats
    weights: Floats
    """(K, G): what a unit of each component of P moves."""
    projection: Floats
    """(D, K)."""
    centre: Floats
    embeddings: Mapping[str, Floats]

    @classmethod
    def fit(
        cls,
        train: Effects,
        embeddings: Mapping[str, Any] | None = None,
        *,
        ridge: float = RIDGE,
        components: int = COMPONENTS,
    ) -> LinearOnEmbeddings:
        """Solve for W.

        Parameters
        ----------
        embeddings
            Vector of each gene (D,), of any length. None: those of the training effects themselves, the rows of G,
            which only genes that are read out have.
        ridge
            Penalty on both sides.
        components
            Of G and P; fewer where there are fewer conditions, genes or dimensions.

        Raises
        ------
        UserError
            If no gene perturbed in training has an embedding.
        """
        _some(train)
        intercept = _per_gene(train)
        sizes = np.array([len(condition) for condition in train.conditions], dtype=np.float64)
        rest = train.delta - sizes[:, None] * intercept  # (M, G)
        _, spread, axes = np.linalg.svd(rest, full_matrices=False)
        readout = (axes[:components] * spread[:components, None]).T  # (G, K)
        if embeddings is None:
            known = dict(zip(train.genes, readout, strict=True))
        else:
            known = {gene: np.asarray(vector, dtype=np.float64) for gene, vector in embeddings.items()}
        seen = sorted({gene for condition in train.conditions for gene in condition if gene in known})
        if not seen:
            raise UserError("linear baseline: no gene perturbed in training has an embedding")
        table = np.stack([known[gene] for gene in seen])
        centre = table.mean(0)
        _, variances, directions = np.linalg.svd(table - centre, full_matrices=False)
        useful = int((variances > 1e-9 * max(variances[0], 1e-300)).sum())
        kept = min(components, useful)
        scale = np.sqrt(len(seen) / max(float((variances[:kept] ** 2).sum()), 1e-300) * max(kept, 1))
        model = cls(train.control, intercept, np.zeros((kept, 0)), directions[:kept].T * scale, centre, known)
        place = model._place(train.conditions)  # (M, K)
        left = _ridge_inverse(readout, ridge) @ readout.T @ rest.T  # (K, M)
        middle = left @ place @ _ridge_inverse(place, ridge)
        return cls(train.control, intercept, (readout @ middle).T, model.projection, centre, known)

    def predict(self, conditions: Sequence[Condition]) -> Floats:
        """Return mean log1p(CP10K), (M, G)."""
        sizes = np.array([len(condition) for condition in conditions], dtype=np.float64)
        return self.control + sizes[:, None] * self.intercept + self._place(conditions) @ self.weights

    def _place(self, conditions: Sequence[Condition]) -> Floats:
        """Return P of conditions, (M, K)."""
        out = np.zeros((len(conditions), self.projection.shape[1]))
        for row, condition in zip(out, conditions, strict=True):
            for gene in condition:
                if gene in self.embeddings:
                    row += (self.embeddings[gene] - self.centre) @ self.projection
        return out


def fit_baselines(train: Effects, embeddings: Mapping[str, Any] | None = None) -> dict[str, Baseline]:
    """Return all baselines by the names they have in tables.

    Parameters
    ----------
    embeddings
        Vector of each gene, for one more linear baseline; None: without.
    """
    fitted: dict[str, Baseline] = {
        "no change": NoChange.fit(train),
        "training mean": TrainingMean.fit(train),
        "additive": Additive.fit(train),
    }
    if set(train.genes) & {gene for condition in train.conditions for gene in condition}:
        fitted["linear on effects"] = LinearOnEmbeddings.fit(train)
    if embeddings is not None:
        fitted["linear on embeddings"] = LinearOnEmbeddings.fit(train, embeddings)
    return fitted


def _per_gene(train: Effects) -> Floats:
    """Return the mean difference per perturbed gene, (G,)."""
    return np.asarray(train.delta.sum(0) / sum(len(condition) for condition in train.conditions))


def _ridge_inverse(x: Floats, ridge: float) -> Floats:
    """Return (X'X + ridge)^-1, (K, K)."""
    return np.asarray(np.linalg.pinv(x.T @ x + ridge * np.eye(x.shape[1]), hermitian=True))


def _some(train: Effects) -> None:
    if not train.conditions:
        raise UserError("baselines: no condition to train on")
