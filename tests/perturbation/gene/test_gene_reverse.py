"""Reverse perturbation: the planted one is found, chance is what a random order reaches."""

from __future__ import annotations

from dataclasses import replace

import anndata
import numpy as np
import pytest

from cellfm_torch.errors import UserError
from cellfm_torch.paths import PBMC3K
from cellfm_torch.perturbation.gene.baselines import Additive, NoChange
from cellfm_torch.perturbation.gene.effects import Condition, Effects
from cellfm_torch.perturbation.gene.reverse import hit_rates, rank_candidates
from cellfm_torch.perturbation.gene.simulation import exact_effects, simulate


@pytest.fixture(scope="module")
def effects() -> Effects:
    return exact_effects(simulate(anndata.read_h5ad(PBMC3K), cells_per_condition=1, control_cells=1, seed=5).truth)


def test_ranks_by_hand() -> None:
    start, target = np.array([1.0, 1.0, 1.0]), np.array([2.0, 1.0, 0.0])
    candidates: list[Condition] = [("A",), ("B",), ("C",), ("D", "E")]
    predicted = np.array([[1.0, 1.0, 1.0], [3.0, 1.0, -1.0], [0.0, 1.0, 2.0], [1.5, 1.0, 0.6]])
    table = rank_candidates(predicted, candidates, start, target)
    assert table["condition"].tolist() == ["B", "D+E", "A", "C"] and table["rank"].tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(table["pearson"], [1, np.corrcoef([0.5, 0, -0.4], [1, 0, -1])[0, 1], 0, -1], atol=1e-12)
    np.testing.assert_allclose(table["mse"], np.array([2, 0.25 + 0.36, 2, 8]) / 3)
    # B goes too far: the squared error prefers what does little.
    by_error = rank_candidates(predicted, candidates, start, target, by="mse")
    assert by_error["condition"].tolist() == ["D+E", "B", "A", "C"]


def test_half_of_the_way_is_still_the_right_gene(effects: Effects) -> None:
    """A state of which three in ten cells were moved: the correlation does not mind."""
    for i in (0, 7, 40):
        target = effects.control + 0.3 * effects.delta[i]
        ranked = rank_candidates(effects.mean, effects.conditions, effects.control, target)
        assert ranked["condition"][0] == "+".join(effects.conditions[i])
        assert ranked["pearson"][0] == pytest.approx(1, abs=1e-12)


def test_the_truth_finds_itself_and_no_change_finds_nothing(effects: Effects) -> None:
    rates = hit_rates(effects.mean, effects)
    assert rates["hits"].tolist() == [1, 1, 1] == rates["gene_hits"].tolist()
    assert rates["k"].tolist() == [1, 5, 10]
    np.testing.assert_allclose(rates["chance"], np.array([1, 5, 10]) / 70)
    still = hit_rates(NoChange.fit(effects).predict(effects.conditions), effects, ks=(1, 10, 70))
    # All alike: a random order, not that of the candidates.
    np.testing.assert_allclose(still["hits"], still["chance"], rtol=1e-12)
    np.testing.assert_allclose(still["gene_hits"], still["gene_chance"], rtol=1e-12)
    assert still["gene_chance"][2] == 1


def test_chance_is_what_a_random_order_reaches(effects: Effects) -> None:
    rng = np.random.default_rng(0)
    few = effects.of(effects.conditions[20:60])
    few = replace(few, genes=few.genes[:500], mean=few.mean[:, :500], control=few.control[:500])
    found = []
    for _ in range(40):
        found.append(hit_rates(few.mean[rng.permutation(40)], few)[["hits", "gene_hits"]].to_numpy())
    rates = hit_rates(few.mean, few)
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(40)
    chance = rates[["chance", "gene_chance"]].to_numpy()
    assert (chance[:, 1] > chance[:, 0]).all()
    assert (np.abs(mean - chance) < 4 * error + 0.005).all()  # four standard errors


def test_additive_finds_doubles_from_singles(effects: Effects) -> None:
    singles = [c for c in effects.conditions if len(c) == 1]
    doubles = [c for c in effects.conditions if len(c) == 2]
    predicted = Additive.fit(effects.of(singles)).predict(effects.conditions)
    rates = hit_rates(predicted, effects.of(doubles), candidates=effects.conditions)
    assert rates["hits"][0] > 0.9 and (rates["candidates"] == 70).all() and (rates["conditions"] == 40).all()


def test_the_fall_of_the_gene_itself_does_not_give_it_away() -> None:
    genes = ("A", "B", "C", "D")
    delta = np.array([[-1.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 1.0]])
    truth = Effects(genes, (("A",), ("B",)), delta, np.zeros(4), np.zeros((2, 1), int), np.ones(2, int))
    # Right in the perturbed genes alone, the other way about in all others.
    predicted = delta[:, [0, 1, 3, 2]]
    assert hit_rates(predicted, truth, ks=(1,))["hits"].tolist() == [0.0]
    assert hit_rates(delta, truth, ks=(1,))["hits"].tolist() == [1.0]


def test_equal_predictions_share_their_ranks(effects: Effects) -> None:
    few = effects.of(effects.conditions[:4])
    predicted = few.mean[[0, 0, 0, 3]]  # three alike, which are right for the first
    rates = hit_rates(predicted, few, ks=(1, 2, 3))
    last = rank_candidates(predicted, few.conditions, few.control, few.mean[3], genes=few.genes)
    assert last["condition"][0] == few.conditions[3][0]
    by_hand = []
    for k in (1, 2, 3):
        first = [
            rank_candidates(predicted, few.conditions, few.control, mean, genes=few.genes)["condition"][0]
            == few.conditions[3][0]
            for mean in few.mean[:3]
        ]
        by_hand.append((1 + sum(max(min((k - lost) / 3, 1), 0) for lost in first)) / 4)
    np.testing.assert_allclose(rates["hits"], by_hand)


def test_says_what_is_wrong(effects: Effects) -> None:
    names: list[Condition] = [("A",)]
    with pytest.raises(UserError, match="two states are equal"):
        rank_candidates(np.ones((1, 3)), names, np.zeros(3), np.zeros(3))
    with pytest.raises(UserError, match="no candidate"):
        rank_candidates(np.ones((0, 3)), [], np.zeros(3), np.ones(3))
    with pytest.raises(UserError, match="by=cosine: choose pearson or mse"):
        rank_candidates(np.ones((1, 3)), names, np.zeros(3), np.ones(3), by="cosine")
    with pytest.raises(ValueError, match="predictions"):
        rank_candidates(np.ones((1, 4)), names, np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match="no candidates: "):
        hit_rates(effects.mean[:3], effects, candidates=effects.conditions[:3])
