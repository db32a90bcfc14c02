"""Rows as a file has them to cells over a vocabulary, compiled.

Shapes: r cells, E entries of their rows, N genes of them over the vocabulary, G genes of the vocabulary, V columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.data.compiled import compiled

Ints = NDArray[np.int32]


@compiled
def _sort(keys: Ints, values: Ints, number: int, other_keys: Ints, other_values: Ints, most: int) -> None:
    """Sort keys below `most`, and values with them: radix sort, eight bits at a time."""
    starts = np.empty(257, dtype=np.int64)
    shift = 0
    while most >> shift > 0:
        starts[:] = 0
        for i in range(number):
            starts[((keys[i] >> shift) & 255) + 1] += 1
        for digit in range(256):
            starts[digit + 1] += starts[digit]
        for i in range(number):
            digit = (keys[i] >> shift) & 255
            at = starts[digit]
            other_keys[at], other_values[at] = keys[i], values[i]
            starts[digit] = at + 1
        for i in range(number):
            keys[i], values[i] = other_keys[i], other_values[i]
        shift += 8


@compiled
def move_rows(
    indptr: NDArray[np.int64],
    columns: Ints,
    values: Ints,
    lookup: Ints,
    num_genes: int,
    divisors: NDArray[np.float64],
    offsets: NDArray[np.int64],
    genes: Ints,
    counts: Ints,
) -> int:
    """Write cells over a vocabulary to their places; returns the first that does not fit there, or -1.

    Parameters
    ----------
    indptr, columns, values : (r + 1,), (E,), (E,)
        Rows, entries in any order, zeros and repeats allowed.
    lookup : (V,)
        Vocabulary position of each column, or -1; counts of one position are added up.
    num_genes
        G.
    divisors : (r,)
        What the counts of a cell are divided by; what rounds to 0 goes.
    offsets, genes, counts : (r + 1,), (N,), (N,)
        Where the cells go, genes ascending.
    """
    longest = 1
    for row in range(len(indptr) - 1):
        longest = max(longest, indptr[row + 1] - indptr[row])
    keys, own = np.empty(longest, dtype=np.int32), np.empty(longest, dtype=np.int32)
    other_keys, other_own = np.empty(longest, dtype=np.int32), np.empty(longest, dtype=np.int32)
    for row in range(len(indptr) - 1):
        found, before, in_order = 0, -1, True
        for n in range(indptr[row], indptr[row + 1]):
            if columns[n] < 0 or columns[n] >= len(lookup):
                return row
            position = lookup[columns[n]]
            if position >= 0:
                in_order &= position > before
                before = position
                keys[found], own[found] = position, values[n]
                found += 1
        if not in_order:
            _sort(keys, own, found, other_keys, other_own, num_genes - 1)
        end, i = offsets[row], 0
        while i < found:
            position, total = keys[i], 0
            while i < found and keys[i] == position:
                total += own[i]
                i += 1
            if divisors[row] > 1.0:
                total = int(np.rint(total / divisors[row]))
            if total > 0:
                if end >= offsets[row + 1]:
                    return row
                genes[end], counts[end] = position, total
                end += 1
        if end != offsets[row + 1]:
            return row
    return -1
