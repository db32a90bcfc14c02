"""From counts to model input, for all cells of a fetch at once: pure numpy, randomness from the `rng` argument.

Cells lie end to end as in :class:`~cellfm_torch.batch.CellBatch`: cell b owns ``offsets[b]:offsets[b + 1]``.
Shapes: B cells, N genes of all cells together, G genes of the vocabulary, L most genes per cell.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]
Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]


def cell_of_gene(offsets: Ints) -> Ints:
    """Return the cell each gene belongs to, (N,)."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def sum_by_cell(offsets: Ints, values: Ints | Floats) -> Floats:
    """Return the sum of (N,) values in each cell, (B,) float64."""
    return np.diff(np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])[offsets])


def _rank_in_cell(offsets: Ints, keys: Floats) -> Ints:
    """Rank of each key among those of its cell, (N,), 0 for the smallest; keys are in [0, 1)."""
    order = np.argsort(cell_of_gene(offsets) + keys)
    rank = np.empty(len(keys), dtype=np.int64)
    rank[order] = np.arange(len(keys))
    return rank - np.repeat(offsets[:-1], np.diff(offsets))


def sample_genes(offsets: Ints, counts: Ints, max_genes: int, *, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Keep at most `max_genes` genes of each cell, drawn without replacement with probability ~ log1p(count).

    Each gene waits an exponential time of rate log1p(count); the first L to arrive are such a sample
    (Efraimidis and Spirakis 2006).

    Parameters
    ----------
    offsets, counts : (B + 1,), (N,)

    Returns
    -------
    offsets : (B + 1,)
        Of the kept genes.
    kept : (N',)
        Their positions among the N, ascending.
    """
    lengths = np.diff(offsets)
    if len(lengths) == 0 or lengths.max() <= max_genes:
        return offsets, np.arange(len(counts))
    waiting = rng.exponential(size=len(counts)) / np.log1p(counts)
    rank = _rank_in_cell(offsets, waiting / (1.0 + waiting))
    kept = np.flatnonzero(rank < max_genes)
    return np.concatenate([[0], np.cumsum(np.minimum(lengths, max_genes))]), kept


def downsample(offsets: Ints, counts: Ints, *, rng: np.random.Generator) -> Ints:
    """Lower the read depth of half of the cells: max(1, Binomial(count, p)), p ~ Beta(2, 2) per cell.

    No expressed gene vanishes. Source: the read-depth-aware task of scFoundation, as CellFM 80M has it.

    Parameters
    ----------
    offsets, counts : (B + 1,), (N,)

    Returns
    -------
    (N,) counts
    """
    cells = len(offsets) - 1
    rate = np.where(rng.random(cells) < 0.5, rng.beta(2.0, 2.0, size=cells), 1.0)
    # Binomial(count, 1) is the count itself: cells left alone need no branch.
    return np.maximum(1, rng.binomial(counts, np.repeat(rate, np.diff(offsets)))).astype(counts.dtype)


def normalise(offsets: Ints, counts: Ints, depth: Floats) -> NDArray[np.float32]:
    """Return log1p(count / depth * 1e4), natural logarithm, (N,) float32.

    Parameters
    ----------
    offsets, counts, depth : (B + 1,), (N,), (B,)
        Depth in counts, above 0 for cells with genes.
    """
    return np.log1p(counts / np.repeat(depth, np.diff(offsets)) * 1e4).astype(np.float32)


def share_of(share: float, number: Ints) -> Ints:
    """Return floor(share * number), at least 1 where number is not 0."""
    # The small term keeps 0.29 * 100 = 28.999999999999996 from becoming 28.
    return np.minimum(np.maximum(np.floor(share * number + 1e-9).astype(np.int64), 1), number)


def choose_targets(
    offsets: Ints, *, fraction: float = 0.2, hidden_share: float = 0.8, rng: np.random.Generator
) -> tuple[Bools, Bools]:
    """Choose the genes a cell's loss asks for, and those of them whose value is hidden.

    Per cell floor(fraction * genes) targets, of which floor(hidden_share * targets) are hidden; at least one each in
    a cell that has genes.

    Returns
    -------
    target, hidden : (N,) bool
        `hidden` implies `target`.
    """
    lengths = np.diff(offsets)
    targets = share_of(fraction, lengths)
    hidden = share_of(hidden_share, targets)
    rank = _rank_in_cell(offsets, rng.random(offsets[-1]))
    return rank < np.repeat(targets, lengths), rank < np.repeat(hidden, lengths)


def fill_unexpressed(
    offsets: Ints, genes: Ints, *, max_genes: int, num_genes: int, rng: np.random.Generator
) -> tuple[Ints, Ints, Ints]:
    """Fill each cell up to `max_genes` with genes it does not express, drawn evenly; longer cells stay as they are.

    Parameters
    ----------
    offsets, genes : (B + 1,), (N,)
        Vocabulary positions of the expressed genes.
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
    lengths = np.diff(offsets)
    wanted = np.maximum(min(max_genes, num_genes) - lengths, 0)
    keys = rng.random((len(lengths), num_genes), dtype=np.float32)  # (B, G)
    keys[cell_of_gene(offsets), genes] = 2.0  # behind all others
    most = wanted.max(initial=0)
    # Sorting only the smallest keys, found by a partition, is four times faster than sorting all.
    smallest = np.argpartition(keys, min(most, num_genes - 1), axis=1)[:, :most]
    order = np.argsort(np.take_along_axis(keys, smallest, axis=1), axis=1)
    drawn = np.take_along_axis(smallest, order, axis=1)  # (B, most wanted)
    added = drawn[np.arange(drawn.shape[1]) < wanted[:, None]]
    filled = np.concatenate([[0], np.cumsum(lengths + wanted)])
    # Place of each gene: behind what earlier cells got in addition; an added gene behind its own cell's genes too.
    before = filled[:-1] - offsets[:-1]
    all_genes = np.empty(filled[-1], dtype=np.int64)
    source = np.full(filled[-1], -1, dtype=np.int64)
    expressed_at = np.arange(offsets[-1]) + np.repeat(before, lengths)
    all_genes[expressed_at], source[expressed_at] = genes, np.arange(offsets[-1])
    all_genes[source < 0] = added
    return filled, all_genes, source
