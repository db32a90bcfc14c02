"""From counts to model input, for all cells of a fetch at once, without a Python loop over cells.

Cells lie end to end as in :class:`~cellfm_torch.batch.CellBatch`: cell b owns ``offsets[b]:offsets[b + 1]``. What is
drawn for a cell is a function of its key (:func:`cell_keys`), whatever the cells beside it.
Shapes: B cells, N genes of all cells together, G genes of the vocabulary, L most genes per cell.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.data import compiled
from cellfm_torch.data.compiled import Keys

Ints = NDArray[np.integer]
Int64 = NDArray[np.int64]
Int32 = NDArray[np.int32]
Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]

DOWNSAMPLE, SAMPLE, TARGETS, FILL = 1, 2, 3, 4  # 5 and above: masking.py
"""Words that keep the numbers of one cell's transforms apart."""


def cell_keys(rows: Ints, *words: int | Ints) -> Keys:
    """Return a key for each cell's random numbers, (B,), from its row and words, each for all cells or per cell."""
    return compiled.derive(rows, *words)


def cell_of_gene(offsets: Ints) -> Ints:
    """Return the cell each gene belongs to, (N,)."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def sum_by_cell(offsets: Ints, counts: Ints) -> NDArray[np.float64]:
    """Return the sum of (N,) counts in each cell, (B,)."""
    sums: NDArray[np.float64] = compiled.sum_by_cell(_int64(offsets), _int32(counts))
    return sums


def sample_genes(offsets: Ints, counts: Ints, max_genes: int, *, keys: Keys) -> tuple[Int64, Int64]:
    """Keep at most `max_genes` genes of each cell, drawn without replacement with probability ~ log1p(count).

    Each gene waits an exponential time of rate log1p(count); the first L to arrive are such a sample
    (Efraimidis and Spirakis 2006).

    Parameters
    ----------
    offsets, counts, keys : (B + 1,), (N,), (B,)

    Returns
    -------
    offsets : (B + 1,)
        Of the kept genes.
    kept : (N',)
        Their positions among the N, ascending.
    """
    if np.diff(offsets).max(initial=0) <= max_genes:
        return _int64(offsets), np.arange(len(counts))
    sampled: tuple[Int64, Int64] = compiled.sample_genes(
        _int64(offsets), _int32(counts), max_genes, compiled.derive(keys, SAMPLE)
    )
    return sampled


def downsample(offsets: Ints, counts: Ints, *, least_total: int = 0, keep_expressed: bool = True, keys: Keys) -> Int32:
    """Lower the read depth of half of the cells: Binomial(count, p), p ~ Beta(2, 2) per cell.

    Source: the read-depth-aware task of scFoundation; the defaults are as CellFM 80M has it.

    Parameters
    ----------
    offsets, counts, keys : (B + 1,), (N,), (B,)
    least_total
        Cells with fewer counts stay as they are.
    keep_expressed
        At least one count of each gene is left, so that none vanishes.

    Returns
    -------
    (N,) counts
    """
    lowered: Int32 = compiled.downsample(
        _int64(offsets), _int32(counts), least_total, int(keep_expressed), compiled.derive(keys, DOWNSAMPLE)
    )
    return lowered


def normalise(offsets: Ints, counts: Ints, depth: Floats) -> NDArray[np.float32]:
    """Return log1p(count / depth * 1e4), natural logarithm, (N,) float32.

    Parameters
    ----------
    offsets, counts, depth : (B + 1,), (N,), (B,)
        Depth in counts, above 0 for cells with genes.
    """
    values: NDArray[np.float32] = compiled.normalise(
        _int64(offsets), _int32(counts), np.asarray(depth, dtype=np.float64)
    )
    return values


def share_of(share: float, number: Ints) -> Ints:
    """Return floor(share * number), at least 1 where number is not 0."""
    # The small term keeps 0.29 * 100 = 28.999999999999996 from becoming 28.
    return np.minimum(np.maximum(np.floor(share * number + 1e-9).astype(np.int64), 1), number)


def choose_targets(
    offsets: Ints, *, fraction: float = 0.2, hidden_share: float = 0.8, keys: Keys
) -> tuple[Bools, Bools]:
    """Choose the genes a cell's loss asks for, and those of them whose value is hidden.

    Per cell floor(fraction * genes) targets, of which floor(hidden_share * targets) are hidden; at least one each in
    a cell that has genes.

    Returns
    -------
    target, hidden : (N,) bool
        `hidden` implies `target`.
    """
    targets = share_of(fraction, np.diff(offsets))
    chosen: tuple[Bools, Bools] = compiled.choose_targets(
        _int64(offsets), targets, share_of(hidden_share, targets), compiled.derive(keys, TARGETS)
    )
    return chosen


def fill_unexpressed(
    offsets: Ints, genes: Ints, *, max_genes: int | Ints, num_genes: int, keys: Keys
) -> tuple[Int64, Int32, Int64]:
    """Fill each cell up to `max_genes` with genes it does not express, drawn evenly; longer cells stay as they are.

    Parameters
    ----------
    offsets, genes, keys : (B + 1,), (N,), (B,)
        Vocabulary positions of the expressed genes.
    max_genes
        For all cells, or (B,).
    num_genes
        G; a cell cannot get longer than this.

    Returns
    -------
    offsets : (B + 1,)
        Of the filled cells.
    genes : (N',)
        Vocabulary positions: of each cell first the expressed ones in their order, then the others.
    source : (N',)
        Where each was among the N, -1 for the unexpressed.
    """
    lengths = np.broadcast_to(np.asarray(max_genes), (len(offsets) - 1,))
    filled: tuple[Int64, Int32, Int64] = compiled.fill_unexpressed(
        _int64(offsets), _int32(genes), _int64(lengths), num_genes, compiled.derive(keys, FILL)
    )
    return filled


# The compiled loops know one type of each argument: another would be compiled anew.
def _int64(x: Ints) -> Int64:
    return np.ascontiguousarray(x, dtype=np.int64)


def _int32(x: Ints) -> Int32:
    return np.ascontiguousarray(x, dtype=np.int32)
