"""Blocks of cells as bytes and back, over any vocabulary, and every kind of damage."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from cellfm_torch.data import counts as ops
from cellfm_torch.data import store_codec
from cellfm_torch.data.store_codec import Damaged

GENES = 2000


def random_cells(seed: int, cells: int, *, largest: int, share: float) -> sp.csr_matrix:
    rng = np.random.default_rng(seed)
    dense = (rng.random((cells, GENES)) < share) * rng.integers(1, largest + 1, (cells, GENES))
    return sp.csr_matrix(dense.astype(np.int32))


def expected(matrix: sp.csr_matrix, lookup: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """What dense numpy makes of cells over a vocabulary."""
    moved = np.zeros((matrix.shape[0], max(int(lookup.max()) + 1, 1)))
    for gene in np.flatnonzero(lookup >= 0):
        moved[:, lookup[gene]] += matrix[:, gene].toarray().ravel()
    return np.rint(moved / np.maximum(1, totals / ops.MOST_COUNTS)[:, None])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    cells=st.integers(1, 12),
    largest=st.sampled_from([1, 3, 254, 255, 70_000, 3_000_000]),
    share=st.sampled_from([0.001, 0.05, 0.9]),
    positions=st.sampled_from([1, 40, GENES]),
    data=st.data(),
)
def test_round_trip(seed: int, cells: int, largest: int, share: float, positions: int, data: st.DataObject) -> None:
    """Counts and distances beyond a byte, genes that are not known or are one, deep cells, and any choice of cells."""
    matrix = random_cells(seed, cells, largest=largest, share=share)
    rng = np.random.default_rng(seed)
    lookup = rng.integers(-1, positions, GENES).astype(np.int32)
    shared = np.bincount(lookup[lookup >= 0], minlength=positions) > 1
    totals = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    divisors = np.maximum(1, totals / ops.MOST_COUNTS)
    packed = store_codec.encode(matrix.indptr, matrix.indices, matrix.data)
    block = store_codec.unpack(packed, zlib.crc32(packed))
    np.testing.assert_array_equal(block.lengths, np.diff(matrix.indptr))

    dense = expected(matrix, lookup, totals)
    numbers = store_codec.count_expressed(
        matrix.indptr.astype(np.int64), matrix.indices, matrix.data, divisors, lookup, shared
    )
    np.testing.assert_array_equal(numbers, (dense > 0).sum(1))
    wanted = np.array(sorted(data.draw(st.sets(st.integers(0, cells - 1), min_size=1))))
    offsets = np.concatenate([[0], np.cumsum(numbers[wanted])])
    genes, counts = np.empty(offsets[-1], dtype=np.int32), np.empty(offsets[-1], dtype=np.int32)
    assert store_codec.decode(*block, wanted, divisors[wanted], lookup, shared, offsets, genes, counts)
    made = np.zeros((len(wanted), dense.shape[1]))
    np.add.at(made, (np.repeat(np.arange(len(wanted)), np.diff(offsets)), genes), counts)
    np.testing.assert_array_equal(made, dense[wanted])
    assert (counts > 0).all()


@pytest.fixture
def packed() -> bytes:
    matrix = random_cells(0, 20, largest=400, share=0.05)
    return store_codec.encode(matrix.indptr, matrix.indices, matrix.data)


def test_any_changed_byte_is_found(packed: bytes) -> None:
    checksum = zlib.crc32(packed)
    for at in range(0, len(packed), 7):
        changed = packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :]
        with pytest.raises(Damaged, match="checksum"):
            store_codec.unpack(changed, checksum)
    with pytest.raises(Damaged):
        store_codec.unpack(packed[:-1], checksum)
    with pytest.raises(Damaged):
        store_codec.unpack(b"", checksum)


def test_streams_that_do_not_fit_are_refused(packed: bytes) -> None:
    """A decoder that trusted them would write where it must not."""
    block = store_codec.unpack(packed, zlib.crc32(packed))
    lookup = np.arange(GENES, dtype=np.int32)
    shared, cells = np.zeros(GENES, dtype=bool), len(block.lengths)
    offsets = np.concatenate([[0], np.cumsum(block.lengths.astype(np.int64))])

    def fits(**changed: np.ndarray) -> bool:
        arguments = {
            "lengths": block.lengths,
            "gene_bytes": block.genes,
            "count_bytes": block.counts,
            "wanted": np.arange(cells),
            "divisors": np.ones(cells),
            "lookup": lookup,
            "shared": shared,
            "offsets": offsets,
            "genes": np.empty(offsets[-1], dtype=np.int32),
            "counts": np.empty(offsets[-1], dtype=np.int32),
        } | changed
        return store_codec.decode(*arguments.values())

    assert fits()
    genes, counts = (part[: np.flatnonzero(part)[-1]] for part in (block.genes, block.counts))  # the last byte is gone
    assert not fits(gene_bytes=genes)
    assert not fits(count_bytes=counts)
    assert not fits(lookup=lookup[:100])
    assert not fits(offsets=offsets - np.arange(cells + 1))
    assert not fits(wanted=np.append(np.arange(cells - 1), cells))
    assert not fits(genes=np.empty(5, dtype=np.int32))
