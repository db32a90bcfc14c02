"""Baselines: exact where they must be, wrong by what was planted where they cannot know."""

from __future__ import annotations

from itertools import combinations

import anndata
import numpy as np
import pytest

from cellfm_torch.errors import UserError
from cellfm_torch.paths import PBMC3K
from cellfm_torch.perturbation.gene.baselines import (
    Additive,
    LinearOnEmbeddings,
    NoChange,
    TrainingMean,
    fit_baselines,
)
from cellfm_torch.perturbation.gene.effects import Condition, Effects
from cellfm_torch.perturbation.gene.planted import Planted
from cellfm_torch.perturbation.gene.simulation import exact_effects, simulate


@pytest.fixture(scope="module")
def truth() -> Planted:
    return simulate(anndata.read_h5ad(PBMC3K), cells_per_condition=1, control_cells=1, seed=2).truth


def effects_of(delta: np.ndarray, conditions: list[Condition], control: np.ndarray | None = None) -> Effects:
    control = np.zeros(delta.shape[1]) if control is None else control
    genes = tuple(f"R{i}" for i in range(delta.shape[1]))
    none = np.zeros((len(delta), 0), dtype=np.int64)
    return Effects(genes, tuple(conditions), control + delta, control, none, np.full(len(delta), 50))


def test_by_hand() -> None:
    control = np.array([1.0, 2.0])
    train = effects_of(np.array([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]]), [("A",), ("B",), ("A", "B")], control)
    asked: list[Condition] = [("A",), ("A", "B"), ("A", "Z"), ("Y", "Z"), ()]
    assert NoChange.fit(train).predict(asked).tolist() == [[1.0, 2.0]] * 5
    np.testing.assert_allclose(TrainingMean.fit(train).predict(asked), [[4.0, 2 + 7 / 3]] * 5)
    # Of an unseen gene the mean of the singles, (2, 1); the measured double does not come in.
    expected = [[2.0, 2.0], [5.0, 4.0], [4.0, 3.0], [5.0, 4.0], [1.0, 2.0]]
    assert Additive.fit(train).predict(asked).tolist() == expected


def test_additive_without_singles_is_the_mean_per_gene() -> None:
    train = effects_of(np.array([[2.0], [6.0]]), [("A", "B"), ("A", "C")])
    assert Additive.fit(train).predict([("A",), ("B", "C")]).tolist() == [[2.0], [4.0]]


def test_additive_is_exact_where_nothing_interacts_and_wrong_by_the_planted_amount_where_it_does(
    truth: Planted,
) -> None:
    effects = exact_effects(truth)
    singles = [c for c in truth.conditions if len(c) == 1]
    doubles = [c for c in truth.conditions if len(c) == 2]
    additive = Additive.fit(effects.of(singles))
    apart = [c for c in doubles if not truth.interacts(c)]
    together = [c for c in doubles if truth.interacts(c)]
    assert len(apart) == len(together) == 20
    # Float64 rounding of sums of three numbers below 10.
    np.testing.assert_allclose(additive.predict(apart), effects.of(apart).mean, rtol=0, atol=1e-12)
    off = effects.of(together).mean - additive.predict(together)
    expected = 1e4 * truth.share
    lfc = np.stack([truth.interaction_lfc(c) for c in together])
    np.testing.assert_allclose(off, np.log1p(expected * np.exp(lfc)) - np.log1p(expected), rtol=0, atol=1e-12)
    assert ((np.abs(off) > 1e-6).sum(1) == 30).all()


def test_linear_recovers_a_planted_linear_map() -> None:
    rng = np.random.default_rng(0)
    names = [f"P{i}" for i in range(30)]
    hidden = rng.normal(size=(30, 4))
    embeddings = dict(zip(names, hidden @ rng.normal(size=(4, 16)) + 5, strict=True))
    shift, map_ = rng.normal(size=50), rng.normal(size=(4, 50))
    alone = shift + (hidden - hidden[:20].mean(0)) @ map_
    conditions: list[Condition] = [(name,) for name in names]
    singles, doubles = conditions[:20], [(*a, *b) for a, b in combinations(conditions[20:], 2)]
    train = effects_of(alone[:20], singles)
    truth_of = {name: row for name, row in zip(names, alone, strict=True)}
    linear = LinearOnEmbeddings.fit(train, embeddings, ridge=1e-10)
    unseen = conditions[20:]
    # Four of ten components carry all there is; what is left is the tiny ridge.
    np.testing.assert_allclose(linear.predict(unseen), alone[20:], atol=1e-6)
    expected = np.stack([truth_of[a] + truth_of[b] for a, b in doubles])
    np.testing.assert_allclose(linear.predict(doubles), expected, atol=1e-6)
    ridged = LinearOnEmbeddings.fit(train, embeddings)
    error = np.linalg.norm(ridged.predict(unseen) - alone[20:]) / np.linalg.norm(alone[20:])
    assert error < 0.05  # the ridge shrinks, by far less than what is there
    random = dict(zip(names, rng.normal(size=(30, 16)), strict=True))
    useless = np.linalg.norm(LinearOnEmbeddings.fit(train, random).predict(unseen) - alone[20:])
    assert useless > 10 * error * np.linalg.norm(alone[20:])


def test_linear_knows_the_module_by_its_embedding(truth: Planted) -> None:
    """Unseen genes of a module do what the others do, if the embedding says which module it is."""
    effects = exact_effects(truth)
    rng = np.random.default_rng(1)
    embeddings = {}
    for i, module in enumerate(truth.modules):
        for gene in module.genes:
            embeddings[gene] = 3.0 * np.eye(6)[i] + 0.1 * rng.normal(size=6)
    unseen = [(module.genes[-1],) for module in truth.modules]
    seen = [c for c in truth.conditions if len(c) == 1 and c not in unseen]
    test = effects.of(unseen)
    errors = {
        name: float(((baseline.predict(unseen) - test.mean) ** 2).mean())
        for name, baseline in fit_baselines(effects.of(seen), embeddings).items()
    }
    assert errors["linear on embeddings"] < 0.5 * min(errors["no change"], errors["training mean"])
    assert set(errors) == {"no change", "training mean", "additive", "linear on effects", "linear on embeddings"}


def test_linear_at_the_edges() -> None:
    train = effects_of(np.array([[1.0, 0.0], [3.0, 2.0]]), [("A",), ("B",)])
    # A gene without an embedding lies in the middle.
    linear = LinearOnEmbeddings.fit(train, {"A": [1.0, 0.0], "B": [0.0, 1.0], "C": [1.0, 0.0]})
    np.testing.assert_allclose(linear.predict([("Z",)]), [[2.0, 1.0]])
    np.testing.assert_allclose(linear.predict([("C",)]), linear.predict([("A",)]))
    one = LinearOnEmbeddings.fit(train.of([("A",)]), {"A": [1.0, 0.0]})
    np.testing.assert_allclose(one.predict([("A",), ("B",)]), [[1.0, 0.0]] * 2)
    with pytest.raises(UserError, match="no gene perturbed in training has an embedding"):
        LinearOnEmbeddings.fit(train, {"Q": [1.0]})
    with pytest.raises(UserError, match="no gene perturbed"):
        LinearOnEmbeddings.fit(train)  # neither A nor B is read out
    assert "linear on effects" not in fit_baselines(train)
    with pytest.raises(UserError, match="no condition to train on"):
        TrainingMean.fit(train.of([]))


def test_nothing_of_the_test_comes_in(truth: Planted) -> None:
    effects = exact_effects(truth)
    train = effects.of(truth.conditions[:20])
    before = {name: b.predict(truth.conditions[20:]) for name, b in fit_baselines(train).items()}
    assert all(np.isfinite(x).all() and x.shape == (50, len(truth.genes)) for x in before.values())
    kept = train.mean.copy()
    fit_baselines(train)
    np.testing.assert_array_equal(train.mean, kept)
