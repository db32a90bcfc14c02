"""Sampling, downsampling, normalisation, masking and filling."""

from __future__ import annotations

from collections.abc import Sized

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cellfm_torch.data import transforms
from cellfm_torch.data.compiled import uniform

LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=8)


def make_cells(lengths: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets, genes (of 80) and counts of cells of these lengths."""
    rng = np.random.default_rng(seed)
    genes = [np.sort(rng.choice(80, n, replace=False)) for n in lengths]
    counts = rng.geometric(0.3, sum(lengths)).astype(np.int32)
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), np.concatenate(genes).astype(np.int64), counts


def keys(cells: Sized, seed: int = 0) -> np.ndarray:
    """A key for each of some cells."""
    return transforms.cell_keys(np.arange(len(cells)), seed)


def test_keys_differ_and_repeat() -> None:
    """By row and by every word; small rows and words are the ones in use, and the ones a weak mixture confuses."""
    made = [transforms.cell_keys(np.arange(1000), a, b) for a in range(10) for b in range(10)]
    assert len(np.unique(np.concatenate(made))) == 100_000
    np.testing.assert_array_equal(made[37], transforms.cell_keys(np.arange(1000), 3, 7))
    np.testing.assert_array_equal(made[37], transforms.cell_keys(np.arange(1000), np.full(1000, 3), 7))


def test_uniform_numbers() -> None:
    """Within a cell and across cells; a right generator fails for one seed in ten thousand."""
    made = transforms.cell_keys(np.arange(5000), 1)
    within = [uniform(made[0], i) for i in range(5000)]
    across = [uniform(key, 0) for key in made]
    for numbers in (within, across):
        assert stats.kstest(numbers, "uniform").pvalue > 1e-4
    assert abs(stats.spearmanr(across, [uniform(key, 1) for key in made]).statistic) < 0.06  # four deviations


def test_cell_of_gene_and_sums() -> None:
    offsets = np.array([0, 2, 2, 5])
    np.testing.assert_array_equal(transforms.cell_of_gene(offsets), [0, 0, 2, 2, 2])
    np.testing.assert_array_equal(transforms.sum_by_cell(offsets, np.array([1, 2, 3, 4, 5])), [3, 0, 12])


@settings(deadline=None)  # the first call compiles
@given(LENGTHS, st.integers(1, 60), st.integers(0, 99))
def test_sample_genes_keeps_at_most(lengths: list[int], most: int, seed: int) -> None:
    offsets, _, counts = make_cells(lengths)
    new_offsets, kept = transforms.sample_genes(offsets, counts, most, keys=keys(lengths, seed))
    np.testing.assert_array_equal(np.diff(new_offsets), np.minimum(lengths, most))
    assert np.all(np.diff(kept) > 0)
    cells = transforms.cell_of_gene(offsets)[kept]
    np.testing.assert_array_equal(cells, transforms.cell_of_gene(new_offsets))


def test_sample_genes_distribution() -> None:
    """Pairs drawn from four genes come as often as sequential draws with probability ~ log1p(count) say."""
    counts = np.array([1, 3, 10, 100])
    weights = np.log1p(counts)
    share = weights / weights.sum()
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    expected = [share[i] * share[j] / (1 - share[i]) + share[j] * share[i] / (1 - share[j]) for i, j in pairs]
    cells = 20_000
    offsets = np.arange(cells + 1) * 4
    _, kept = transforms.sample_genes(offsets, np.tile(counts, cells), 2, keys=keys(range(cells)))
    drawn = (kept % 4).reshape(cells, 2)
    observed = [int(np.all(drawn == pair, axis=1).sum()) for pair in pairs]
    # A right sampler fails this for one seed in ten thousand; drawing evenly gives p < 1e-300.
    assert stats.chisquare(observed, np.array(expected) * cells).pvalue > 1e-4


def test_downsample() -> None:
    """No gene vanishes, no count grows, half of the cells stay, and p has the mean and spread of Beta(2, 2)."""
    cells, genes = 4000, 50
    offsets = np.arange(cells + 1) * genes
    counts = np.full(cells * genes, 1000, dtype=np.int32)
    counts[::genes] = 1
    seen = transforms.downsample(offsets, counts, keys=keys(range(cells)))
    assert seen.dtype == counts.dtype and seen.min() == 1 and np.all(seen <= counts)
    rate = seen.reshape(cells, genes)[:, 1:].mean(1) / 1000
    changed = rate[rate < 1]
    # Binomial standard deviation of the number of changed cells: sqrt(4000) / 2 = 32; four of them allowed.
    assert abs(len(changed) - cells / 2) < 128
    # Kolmogorov-Smirnov: a right p fails for one seed in ten thousand; binomial noise of the mean of 49 genes is 0.002.
    assert stats.kstest(changed, stats.beta(2, 2).cdf).pvalue > 1e-4


def test_normalise() -> None:
    values = transforms.normalise(np.array([0, 2, 3]), np.array([1, 3, 5]), np.array([4.0, 10.0]))
    np.testing.assert_allclose(values, np.log1p([2500, 7500, 5000]), rtol=1e-7)
    assert values.dtype == np.float32


@pytest.mark.parametrize("genes", [0, 1, 2, 4, 5, 9, 10, 100, 2048])
def test_target_counts(genes: int) -> None:
    """floor(20 %) targets, floor(80 %) of them hidden, at least one each."""
    offsets = np.array([0, genes, genes + 10])
    target, hidden = transforms.choose_targets(offsets, keys=keys(range(2)))
    expected = min(genes, max(1, genes // 5))
    assert target[:genes].sum() == expected and target[genes:].sum() == 2
    assert hidden[:genes].sum() == min(expected, max(1, expected * 4 // 5)) and hidden[genes:].sum() == 1
    assert not np.any(hidden & ~target)


def test_share_of_survives_binary_fractions() -> None:
    """0.29 * 100 is 28.999999999999996 in binary; the share is still 29."""
    assert transforms.share_of(0.29, np.array([100]))[0] == 29


def test_targets_are_drawn_evenly() -> None:
    cells, genes = 5000, 10
    target, hidden = transforms.choose_targets(np.arange(cells + 1) * genes, keys=keys(range(cells), 1))
    for chosen in (target, hidden):
        # Expected counts are even; a right choice fails for one seed in ten thousand.
        assert stats.chisquare(chosen.reshape(cells, genes).sum(0)).pvalue > 1e-4


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 90), st.integers(0, 99))
def test_fill_unexpressed(lengths: list[int], most: int, seed: int) -> None:
    offsets, genes, _ = make_cells(lengths)
    new_offsets, filled, source = transforms.fill_unexpressed(
        offsets, genes, max_genes=most, num_genes=80, keys=keys(lengths, seed)
    )
    np.testing.assert_array_equal(np.diff(new_offsets), np.maximum(lengths, min(most, 80)))
    for b in range(len(lengths)):
        before, after = slice(*offsets[b : b + 2]), slice(*new_offsets[b : b + 2])
        assert len(set(filled[after])) == new_offsets[b + 1] - new_offsets[b]
        expressed = source[after] >= 0
        np.testing.assert_array_equal(filled[after][expressed], genes[before])
        np.testing.assert_array_equal(source[after][expressed], np.arange(*offsets[b : b + 2]))
    assert np.all((filled >= 0) & (filled < 80))


def test_fill_draws_evenly_among_the_unexpressed() -> None:
    cells = 4000
    offsets, genes = np.arange(cells + 1) * 2, np.tile([3, 7], cells)
    _, filled, source = transforms.fill_unexpressed(
        offsets, genes, max_genes=5, num_genes=12, keys=keys(range(cells), 2)
    )
    drawn = np.bincount(filled[source < 0], minlength=12)
    assert drawn[[3, 7]].sum() == 0 and drawn.sum() == cells * 3
    # Draws within a cell exclude each other, so even counts spread less than the chi-square test takes for granted.
    assert stats.chisquare(np.delete(drawn, [3, 7])).pvalue > 1e-4
