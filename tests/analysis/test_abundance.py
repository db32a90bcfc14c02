"""Enrichment of a condition: found where it was planted, and not where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cellfm_torch.analysis.abundance import (
    Design,
    _inverse_trigamma,
    design,
    enrichment,
    moderate,
    sample_counts,
    signed_share,
    swapped,
)
from cellfm_torch.analysis.markers import benjamini_hochberg
from cellfm_torch.analysis.neighbourhoods import neighbourhoods
from cellfm_torch.errors import UserError

CELLS = 900
FDR = 0.1


def population(
    seed: int, *, donors: int, spread: float, planted: float = 0.0, paired: bool = True, cells: int = CELLS
) -> tuple:
    """Cells of six groups, whose shares differ between donors and conditions; in one the case has more.

    `spread` is the standard deviation of the log share of a group from one sample to the next, `planted` the log of
    the case's excess in group 0.
    """
    rng = np.random.default_rng(seed)
    samples = [(d, c) for d in range(donors) for c in ("ctrl", "stim") if paired or c == ("ctrl", "stim")[d % 2]]
    x, condition, donor = [], [], []
    centres = np.eye(6) * 6
    for d, c in samples:
        logs = rng.normal(0, spread, 6)
        logs[0] += planted * (c == "stim")
        groups = rng.choice(6, cells // len(samples), p=np.exp(logs) / np.exp(logs).sum())
        x.append(centres[groups] + rng.normal(size=(len(groups), 6)))
        condition += [c] * len(groups)
        donor += [f"d{d}"] * len(groups)
    return np.concatenate(x), np.array(condition, object), np.array(donor, object)


def analysed(x: np.ndarray, condition: np.ndarray, donor: np.ndarray, k: int = 30):  # type: ignore[no-untyped-def]
    plan = design(condition, donor, case="stim", control="ctrl")
    areas = neighbourhoods(x, k=k, share=0.1)
    return areas, plan, enrichment(areas, plan)


def test_neighbourhoods_are_near_their_middle() -> None:
    x, _, _ = population(0, donors=2, spread=0)
    areas = neighbourhoods(x, k=20, share=0.1, seed=1)
    assert 30 < len(areas) <= 90 and (areas.members.getnnz(1) == 21).all()
    assert (np.diff(areas.index) > 0).all()
    for row, cell in enumerate(areas.index[:10]):
        distance = np.linalg.norm(x - x[cell], axis=1)
        assert areas.radius[row] == pytest.approx(np.sort(distance)[20], rel=1e-5)  # float32 distances
        assert set(areas.members[row].indices) == set(np.argsort(distance)[:21])


def test_planted_enrichment_is_found() -> None:
    x, condition, donor = population(1, donors=4, spread=0.1, planted=2.0, cells=2400)
    areas, _, table = analysed(x, condition, donor, k=60)
    group = x[areas.index].argmax(1)
    hits = (table["fdr"] <= FDR).to_numpy()
    assert hits[group == 0].mean() > 0.9
    assert (table["log2_odds"][group == 0] > 1).mean() > 0.9
    up = hits & (table["log2_odds"] > 0).to_numpy()
    assert up[group != 0].mean() < 0.05
    shade = signed_share(areas, table, FDR)
    assert shade[x.argmax(1) == 0].mean() > 1 and shade[x.argmax(1) != 0].mean() <= 0


@pytest.mark.parametrize(
    ("donors", "spread", "paired"), [(2, 0.0, True), (2, 0.3, True), (4, 0.3, True), (6, 0.3, False), (6, 0.0, False)]
)
def test_no_more_false_hits_than_stated(donors: int, spread: float, paired: bool) -> None:
    """With no condition at work every hit is false: in no more than a tenth of the data sets may there be one.

    Forty data sets; with a rate of 0.1 more than nine of them have one with a probability of 0.5 %.
    """
    runs = 40
    with_hits = sum(
        bool((analysed(*population(100 + seed, donors=donors, spread=spread, paired=paired))[2]["fdr"] <= FDR).any())
        for seed in range(runs)
    )
    assert stats.binom.sf(9, runs, FDR) < 0.006
    assert with_hits <= 9


def test_shuffled_conditions_of_a_planted_set() -> None:
    """The same cells with conditions shuffled within donors."""
    x, condition, donor = population(5, donors=2, spread=0.1, planted=1.6)
    rng, with_hits = np.random.default_rng(0), 0
    for _ in range(20):
        shuffled = condition.copy()
        for name in np.unique(donor):
            shuffled[donor == name] = rng.permutation(condition[donor == name])
        with_hits += bool((analysed(x, shuffled, donor)[2]["fdr"] <= FDR).any())
    assert with_hits <= 6  # 20 at a rate of 0.1: more with a probability of 0.2 %


def test_swapping_every_other_donor_finds_nothing() -> None:
    x, condition, donor = population(6, donors=2, spread=0.1, planted=2.5)
    areas, plan, table = analysed(x, condition, donor)
    assert (table["fdr"] <= FDR).sum() > 5
    other = swapped(plan)
    assert other is not None and other.case.tolist() == [plan.case[0], plan.control[1]]
    assert not (enrichment(areas, other)["fdr"] <= FDR).any()


def test_counts_and_t_by_hand() -> None:
    x, condition, donor = population(7, donors=3, spread=0.2)
    areas, plan, table = analysed(x, condition, donor)
    counts, totals = sample_counts(areas, plan)
    row, cells = 4, areas.members[4].indices
    for code, (kind, name) in enumerate((k, d) for k in ("stim", "ctrl") for d in ("d0", "d1", "d2")):
        of_sample = (condition == kind) & (donor == name)
        assert totals[code] == of_sample.sum() and counts[row, code] == of_sample[cells].sum()
    odds = np.log((counts[row] + 0.5) / (totals - counts[row] + 0.5))
    each = odds[:3] - odds[3:]
    assert table["log2_odds"][row] == pytest.approx(each.mean() / np.log(2), rel=1e-9)
    # What moderation and the floor leave of the paired t: at most the t with the variance of counting.
    noise = (1 / (counts[row] + 0.5) + 1 / (totals - counts[row] + 0.5)).sum() / 9
    assert abs(table["t"][row]) <= abs(each.mean()) / np.sqrt(noise) + 1e-9


def test_moderation() -> None:
    assert _inverse_trigamma(np.pi**2 / 6) == pytest.approx(1, rel=1e-8)
    rng = np.random.default_rng(0)
    same = 0.4 * rng.chisquare(3, 4000) / 3
    centre, freedom = moderate(same, 3, most=1e4)
    assert centre == pytest.approx(0.4, rel=0.1) and freedom > 40  # one variance for all: many
    various = same * 5 / rng.chisquare(5, 4000)
    assert moderate(various, 3, most=1e4)[1] == pytest.approx(5, rel=0.35)  # moments of 4,000 draws
    assert moderate(same, 3, most=50.0)[1] == 50


def test_weighted_rates() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.5])
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p), rtol=1e-12)
    # A weight of two is the hypothesis twice.
    twice = stats.false_discovery_control(np.array([0.01, 0.04, 0.04, 0.03, 0.5]))
    np.testing.assert_allclose(benjamini_hochberg(p, np.array([1.0, 2, 1, 1])), twice[[0, 1, 3, 4]], rtol=1e-12)


def plan_of(pairs: list[tuple[str, str]]) -> Design:
    condition, donor = (np.array(part, object) for part in zip(*pairs, strict=True))
    return design(condition, donor, case="stim", control="ctrl")


def test_designs() -> None:
    paired = plan_of([("stim", "a"), ("ctrl", "a"), ("stim", "b"), ("ctrl", "b"), ("stim", "c"), ("other", "a")])
    assert paired.paired and paired.donors == ("a", "b") and paired.left_out == ("c",) and paired.freedom == 1
    assert paired.sample_of_cell.tolist() == [0, 2, 1, 3, -1, -1]
    apart = plan_of([("stim", "a"), ("stim", "b"), ("ctrl", "c"), ("ctrl", "d"), ("ctrl", "e")])
    assert not apart.paired and apart.freedom == 3 and swapped(apart) is None


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ([("stim", "a"), ("ctrl", "a")], "all cells are of one donor \\('a'\\)"),
        ([("stim", "a"), ("ctrl", "b")], "too few donors: 1 with stim and 1 with ctrl"),
        ([("stim", "a"), ("ctrl", "a"), ("stim", "b")], "too few donors: 2 with stim and 1 with ctrl"),
    ],
)
def test_too_few_donors(pairs: list[tuple[str, str]], says: str) -> None:
    with pytest.raises(UserError, match=says):
        plan_of(pairs)


def test_options_out_of_range() -> None:
    x = np.random.default_rng(0).normal(size=(50, 3))
    with pytest.raises(UserError, match="k=60: must be at least 5 and below the number of cells with an embedding, 50"):
        neighbourhoods(x, k=60)
    with pytest.raises(UserError, match="share=0"):
        neighbourhoods(x, share=0)
