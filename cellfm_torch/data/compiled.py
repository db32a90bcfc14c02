"""Compiled loops over cells that lie end to end, and the random numbers they draw.

A cell's random numbers are a function of its key alone (SplitMix64, Steele et al. 2014, seeded by the key), so they
depend neither on the cells beside it nor on the order of work. All loops run without Python's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_TO_UNIT = 2.0**-53


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function at its first call; the machine code is kept on disk where there is a place for it."""
    options: dict[str, Any] = {"nogil": True, "fastmath": False, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba finds no folder it may write to
        return numba.njit(**options)(function)


@compiled
def mix(x: np.uint64) -> np.uint64:
    """Scramble 64 bits (the output function of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def uniform(key: np.uint64, i: int) -> float:
    """Return number `i` of the sequence of a key, in [0, 1)."""
    return float(mix(key + np.uint64(i + 1) * GOLDEN) >> np.uint64(11)) * _TO_UNIT


@compiled
def _derive(keys: Keys, words: Keys) -> Keys:
    out = np.empty_like(keys)
    for b in range(len(keys)):
        out[b] = mix((keys[b] ^ words[b]) + GOLDEN)
    return out


def derive(keys: NDArray[np.integer], *words: int | NDArray[np.integer]) -> Keys:
    """Return new keys from keys or row numbers (B,) and words such as seed and epoch, (B,) uint64.

    A word may differ from cell to cell, (B,).
    """
    # Scrambled before the first word: small rows and small words would cancel out.
    made = _derive(np.asarray(keys).astype(np.uint64), np.zeros(len(keys), dtype=np.uint64))
    for word in words:
        each = np.empty(len(made), dtype=np.uint64)
        each[:] = word
        made = _derive(made, each)
    return made


@compiled
def sum_by_cell(offsets: NDArray[np.int64], counts: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the sum of (N,) counts in each cell, (B,)."""
    out = np.empty(len(offsets) - 1)
    for b in range(len(out)):
        total = 0
        for n in range(offsets[b], offsets[b + 1]):
            total += counts[n]
        out[b] = total
    return out


@compiled
def downsample(
    offsets: NDArray[np.int64], counts: NDArray[np.int32], least_total: int, at_least: int, keys: Keys
) -> NDArray[np.int32]:
    """See :func:`cellfm_torch.data.transforms.downsample`; `at_least` counts of a gene are left."""
    out = counts.copy()
    for b in range(len(offsets) - 1):
        key = keys[b]
        total = 0
        for n in range(offsets[b], offsets[b + 1]):
            total += counts[n]
        if total < least_total or uniform(key, 0) >= 0.5:
            continue
        first, second, third = uniform(key, 1), uniform(key, 2), uniform(key, 3)
        # The median of three uniform numbers is Beta(2, 2).
        rate = max(min(first, second), min(max(first, second), third))
        bound = np.uint64(rate * 2.0**53)
        drawn = 4
        for n in range(offsets[b], offsets[b + 1]):
            kept = 0
            if counts[n] > at_least:
                for _ in range(counts[n]):
                    drawn += 1
                    kept += (mix(key + np.uint64(drawn) * GOLDEN) >> np.uint64(11)) < bound
                out[n] = max(at_least, kept)
    return out


@compiled
def sample_genes(
    offsets: NDArray[np.int64], counts: NDArray[np.int32], max_genes: int, keys: Keys
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """See :func:`cellfm_torch.data.transforms.sample_genes`."""
    cells = len(offsets) - 1
    out = np.zeros(cells + 1, dtype=np.int64)
    for b in range(cells):
        out[b + 1] = out[b] + min(offsets[b + 1] - offsets[b], max_genes)
    kept = np.empty(out[cells], dtype=np.int64)
    for b in range(cells):
        start, length = offsets[b], offsets[b + 1] - offsets[b]
        if length <= max_genes:
            for i in range(length):
                kept[out[b] + i] = start + i
            continue
        waiting = np.empty(length)
        for i in range(length):
            waiting[i] = -np.log1p(-uniform(keys[b], i)) / np.log1p(counts[start + i])
        first = np.sort(np.argsort(waiting)[:max_genes])
        for i in range(max_genes):
            kept[out[b] + i] = start + first[i]
    return out, kept


@compiled
def choose_targets(
    offsets: NDArray[np.int64], targets: NDArray[np.int64], hidden: NDArray[np.int64], keys: Keys
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Choose `targets` (B,) genes of each cell, and `hidden` (B,) of these: selection sampling (Knuth, 3.4.2 S)."""
    is_target = np.zeros(offsets[-1], dtype=np.bool_)
    is_hidden = np.zeros(offsets[-1], dtype=np.bool_)
    for b in range(len(offsets) - 1):
        left, wanted, to_hide = offsets[b + 1] - offsets[b], targets[b], hidden[b]
        for i in range(left):
            # One number serves both choices: given that it is below the first bound, it is uniform below it.
            at = uniform(keys[b], i) * (left - i)
            if at < wanted:
                n = offsets[b] + i
                is_target[n] = True
                if at < to_hide:
                    is_hidden[n] = True
                    to_hide -= 1
                wanted -= 1
    return is_target, is_hidden


@compiled
def fill_unexpressed(
    offsets: NDArray[np.int64],
    genes: NDArray[np.int32],
    lengths: NDArray[np.int64],
    num_genes: int,
    keys: Keys,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """Fill cells up to `lengths` (B,); see :func:`cellfm_torch.data.transforms.fill_unexpressed`."""
    cells = len(offsets) - 1
    out = np.zeros(cells + 1, dtype=np.int64)
    for b in range(cells):
        out[b + 1] = out[b] + max(offsets[b + 1] - offsets[b], min(lengths[b], num_genes))
    filled = np.empty(out[cells], dtype=np.int32)
    source = np.full(out[cells], -1, dtype=np.int64)
    seen = np.full(num_genes, -1, dtype=np.int64)  # the last cell each gene was taken for
    for b in range(cells):
        at = out[b]
        for n in range(offsets[b], offsets[b + 1]):
            filled[at], source[at] = genes[n], n
            seen[genes[n]] = b
            at += 1
        wanted = out[b + 1] - at
        free = num_genes - (offsets[b + 1] - offsets[b])
        drawn = 0
        if 2 * wanted < free:  # most draws find a gene that is still free
            while at < out[b + 1]:
                gene = int(uniform(keys[b], drawn) * num_genes)
                drawn += 1
                if seen[gene] != b:
                    filled[at], seen[gene] = gene, b
                    at += 1
        else:
            for gene in range(num_genes):
                if seen[gene] != b:
                    if uniform(keys[b], drawn) * (free - drawn) < wanted:
                        filled[at] = gene
                        at, wanted = at + 1, wanted - 1
                    drawn += 1
    return out, filled, source


@compiled
def normalise(offsets: NDArray[np.int64], counts: NDArray[np.int32], depth: NDArray[np.float64]) -> NDArray[np.float32]:
    """See :func:`cellfm_torch.data.transforms.normalise`."""
    out = np.empty(len(counts), dtype=np.float32)
    known = np.empty(64, dtype=np.float32)  # values of small counts, which most counts are
    for b in range(len(offsets) - 1):
        known[:] = -1
        for n in range(offsets[b], offsets[b + 1]):
            count = counts[n]
            if count < 64:
                if known[count] < 0:
                    known[count] = np.log1p(count / depth[b] * 1e4)
                out[n] = known[count]
            else:
                out[n] = np.log1p(count / depth[b] * 1e4)
    return out


@compiled
def gather_rows(
    order: NDArray[np.int64], indptr: NDArray[np.int64], genes: NDArray[np.int32], counts: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Return offsets, genes and counts of the rows `order` (B,) of a CSR matrix."""
    offsets = np.zeros(len(order) + 1, dtype=np.int64)
    for b in range(len(order)):
        offsets[b + 1] = offsets[b] + indptr[order[b] + 1] - indptr[order[b]]
    out_genes = np.empty(offsets[-1], dtype=np.int32)
    out_counts = np.empty(offsets[-1], dtype=np.int32)
    for b in range(len(order)):
        start, at = indptr[order[b]], offsets[b]
        for i in range(offsets[b + 1] - at):
            out_genes[at + i] = genes[start + i]
            out_counts[at + i] = counts[start + i]
    return offsets, out_genes, out_counts
