"""What pretraining does to a cell beyond hiding some expressed genes: targets among unexpressed ones, false values.

Shapes: B cells, N genes of all cells together, G genes of the vocabulary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.batch import Masking
from cellfm_torch.data import compiled
from cellfm_torch.data.compiled import Keys, uniform
from cellfm_torch.data.transforms import Bools, Floats, Int64, Ints, share_of

EXPRESSED, ZEROS, REPLACED = 5, 6, 7
"""Words that keep the numbers of one cell's choices apart (see transforms)."""


def num_zeros(lengths: Ints, masking: Masking, *, num_genes: int) -> Int64:
    """Return how many unexpressed genes of each cell are targets, (B,), given its expressed ones."""
    if not masking.zero_fraction:
        return np.zeros(len(lengths), dtype=np.int64)
    zeros = share_of(masking.zero_fraction, num_genes - np.asarray(lengths, dtype=np.int64))
    return zeros.astype(np.int64, copy=False)


def choose(
    offsets: Ints, expressed: Ints, values: Floats, masking: Masking, *, keys: Keys
) -> tuple[Bools, Bools, NDArray[np.float32]]:
    """Choose the targets of each cell, which of them are hidden, and give some of the others a false value.

    Of the expressed genes a share are targets, of those added as unexpressed all. Of either, ``hidden_share`` are
    hidden, ``random_share`` get the value of another gene of the cell, the rest stay as they are.

    Parameters
    ----------
    offsets : (B + 1,)
        Of cells whose expressed genes come first.
    expressed : (B,)
        How many these are.
    values : (N,) float32
    masking
        The shares.
    keys : (B,)

    Returns
    -------
    target, hidden : (N,) bool
    values : (N,) float32
        With the false ones.
    """
    first, added = np.asarray(expressed, dtype=np.int64), np.diff(offsets) - expressed
    # Two segments per cell.
    segments = np.concatenate([[0], np.cumsum(np.stack([first, added], axis=1).ravel())]).astype(np.int64)
    targets = np.stack([share_of(masking.fraction, first), added], axis=1).ravel().astype(np.int64)
    words = (EXPRESSED, ZEROS)
    both = np.stack([compiled.derive(keys, word) for word in words], axis=1).ravel()
    target, hidden = compiled.choose_targets(segments, targets, share_of(masking.hidden_share, targets), both)
    wrong = np.floor(masking.random_share * targets + 1e-9).astype(np.int64)
    both = np.stack([compiled.derive(keys, word, REPLACED) for word in words], axis=1).ravel()
    values = np.ascontiguousarray(values, dtype=np.float32)
    return target, hidden, _replace(segments, target, hidden, values, wrong, both)


@compiled.compiled
def _replace(
    segments: Int64, target: Bools, hidden: Bools, values: NDArray[np.float32], wrong: Int64, keys: Keys
) -> NDArray[np.float32]:
    """Give `wrong` (2 B,) of the visible targets in each segment a value from their cell's first segment."""
    out = values.copy()
    for s in range(len(segments) - 1):
        start, end = segments[s - s % 2], segments[s - s % 2 + 1]  # the cell's expressed genes
        left = 0
        for n in range(segments[s], segments[s + 1]):
            left += target[n] and not hidden[n]
        wanted, drawn = min(wrong[s], left), 0
        for n in range(segments[s], segments[s + 1]):
            if target[n] and not hidden[n]:
                if uniform(keys[s], drawn) * left < wanted and end > start:
                    out[n] = values[start + int(uniform(keys[s], drawn + 1) * (end - start))]
                    wanted -= 1
                left -= 1
                drawn += 2
    return out


@compiled.compiled
def counts_of(
    offsets: Int64,
    genes: NDArray[np.int32],
    stored_offsets: Int64,
    stored_genes: NDArray[np.int32],
    stored_counts: NDArray[np.int32],
    num_genes: int,
) -> NDArray[np.int32]:
    """Return the counts (N,) of genes (N,) in cells that were stored as other genes; 0 for those not stored."""
    out = np.zeros(len(genes), dtype=np.int32)
    known = np.zeros(num_genes, dtype=np.int32)
    for b in range(len(offsets) - 1):
        for n in range(stored_offsets[b], stored_offsets[b + 1]):
            known[stored_genes[n]] = stored_counts[n]
        for n in range(offsets[b], offsets[b + 1]):
            out[n] = known[genes[n]]
        for n in range(stored_offsets[b], stored_offsets[b + 1]):
            known[stored_genes[n]] = 0
    return out
