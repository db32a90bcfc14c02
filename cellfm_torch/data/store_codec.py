"""Blocks of cells as bytes: what a shard of a prepared store is made of.

Genes ascend within a cell, so what is kept is the distance to the gene before, nearly always below 255 because the
genes of a store are ordered by how many cells express them; then counts, nearly always below 255 too. Larger numbers
follow a byte of 255. Both runs of bytes are compressed with Zstandard.
Shapes: n cells and N entries of a block, r cells asked for.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
from numcodecs import zstd
from numpy.typing import NDArray

from cellfm_torch.data.compiled import compiled

LEVEL = 3
"""Of Zstandard: higher ones take longer and save less than 1 %."""

MOST_CELLS = 1 << 20
"""Of a block: far more than are compressed together."""

_MOST_BYTES = {"lengths": 2, "genes": 3, "counts": 5}
"""Of a part of a block: of a cell, and of an entry."""

_HEADER = np.dtype([("cells", "<u4"), ("lengths", "<u4"), ("genes", "<u4"), ("counts", "<u4")])


class Damaged(Exception):
    """Bytes are not those that were written."""


class Block(NamedTuple):
    """A block before its numbers are decoded."""

    lengths: NDArray[np.uint16]  # (n,)
    genes: NDArray[np.uint8]
    counts: NDArray[np.uint8]


@compiled
def _to_bytes(
    indptr: NDArray[np.int64], genes: NDArray[np.int32], counts: NDArray[np.int32]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    gene_bytes = np.empty(3 * len(genes), dtype=np.uint8)
    count_bytes = np.empty(5 * len(counts), dtype=np.uint8)
    g = c = 0
    for row in range(len(indptr) - 1):
        before = 0
        for n in range(indptr[row], indptr[row + 1]):
            distance, count = genes[n] - before, counts[n]
            before = genes[n]
            if distance < 255:
                gene_bytes[g] = distance
                g += 1
            else:
                gene_bytes[g], gene_bytes[g + 1], gene_bytes[g + 2] = 255, distance & 255, distance >> 8
                g += 3
            if count < 255:
                count_bytes[c] = count
                c += 1
            else:
                count_bytes[c] = 255
                for i in range(4):
                    count_bytes[c + 1 + i] = (count >> (8 * i)) & 255
                c += 5
    return gene_bytes[:g], count_bytes[:c]


@compiled
def decode(
    lengths: NDArray[np.uint16],
    gene_bytes: NDArray[np.uint8],
    count_bytes: NDArray[np.uint8],
    wanted: NDArray[np.int64],
    divisors: NDArray[np.float64],
    lookup: NDArray[np.int32],
    shared: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    genes: NDArray[np.int32],
    counts: NDArray[np.int32],
) -> bool:
    """Write some cells of a block over a vocabulary to their places; False where they do not fit these.

    Parameters
    ----------
    lengths, gene_bytes, count_bytes
        The block.
    wanted, divisors : (r,), (r,)
        Which of its cells, ascending, and what their counts are divided by; what rounds to 0 goes.
    lookup
        Vocabulary position of each gene of the store, or -1.
    shared
        Which vocabulary positions several genes of the store have; their counts are added up.
    offsets, genes, counts : (r + 1,), (N,), (N,)
        Where the cells go.
    """
    g = c = at = 0
    for row in range(len(lengths)):
        take = at < len(wanted) and wanted[at] == row
        # Dividing may leave fewer genes than there is room for: such cells are made beside their place.
        deep = take and divisors[at] > 1.0
        to_genes = np.empty(lengths[row], dtype=np.int32) if deep else genes
        to_counts = np.empty(lengths[row], dtype=np.int32) if deep else counts
        start = end = 0 if deep or not take else offsets[at]
        gene = 0
        for _ in range(lengths[row]):
            if g >= len(gene_bytes) or c >= len(count_bytes):
                return False
            distance, count = int(gene_bytes[g]), int(count_bytes[c])
            g, c = g + 1, c + 1
            if distance == 255:
                if g + 2 > len(gene_bytes):
                    return False
                distance = int(gene_bytes[g]) + 256 * int(gene_bytes[g + 1])
                g += 2
            if count == 255:
                if c + 4 > len(count_bytes):
                    return False
                count = 0
                for i in range(4):
                    count += int(count_bytes[c + i]) << (8 * i)
                c += 4
            gene += distance
            if not take:
                continue
            if gene >= len(lookup):
                return False
            position = lookup[gene]
            if position < 0:
                continue
            if shared[position]:
                known = start
                while known < end and to_genes[known] != position:
                    known += 1
                if known < end:
                    to_counts[known] += count
                    continue
            if end >= len(to_genes):
                return False
            to_genes[end], to_counts[end] = position, count
            end += 1
        if not take:
            continue
        if deep:
            made, end = end, offsets[at]
            for n in range(made):
                count = int(np.rint(to_counts[n] / divisors[at]))
                if count > 0:
                    if end >= len(genes):
                        return False
                    genes[end], counts[end] = to_genes[n], count
                    end += 1
        at += 1
        if end != offsets[at]:
            return False
    return at == len(wanted)


@compiled
def count_expressed(
    indptr: NDArray[np.int64],
    genes: NDArray[np.int32],
    counts: NDArray[np.int32],
    divisors: NDArray[np.float64],
    lookup: NDArray[np.int32],
    shared: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Return how many genes of a vocabulary each cell has once :func:`decode` has done its work, (n,)."""
    out = np.zeros(len(indptr) - 1, dtype=np.int64)
    positions = np.empty(len(lookup), dtype=np.int32)
    sums = np.empty(len(lookup), dtype=np.int64)
    for row in range(len(out)):
        several = 0
        for n in range(indptr[row], indptr[row + 1]):
            position = lookup[genes[n]]
            if position < 0:
                continue
            if not shared[position]:
                out[row] += np.rint(counts[n] / divisors[row]) > 0
                continue
            known = 0
            while known < several and positions[known] != position:
                known += 1
            if known == several:
                positions[known], sums[known] = position, 0
                several += 1
            sums[known] += counts[n]
        for i in range(several):
            out[row] += np.rint(sums[i] / divisors[row]) > 0
    return out


def encode(indptr: NDArray[np.integer], genes: NDArray[np.integer], counts: NDArray[np.integer]) -> bytes:
    """Return cells (n,) of CSR arrays as bytes; genes ascend within a cell and are below 65,536."""
    gene_bytes, count_bytes = _to_bytes(
        indptr.astype(np.int64), genes.astype(np.int32, copy=False), counts.astype(np.int32, copy=False)
    )
    parts = [np.diff(indptr).astype("<u2"), gene_bytes, count_bytes]
    packed = [bytes(zstd.compress(part, LEVEL)) if len(part) else b"" for part in parts]
    header = np.array([(len(indptr) - 1, *map(len, packed))], dtype=_HEADER)
    return b"".join([header.tobytes(), *packed])


def unpack(data: bytes, checksum: int) -> Block:
    """Check and decompress the bytes of a block.

    Raises
    ------
    Damaged
        If they are not those whose checksum (CRC-32) is given.
    """
    if zlib.crc32(data) != checksum:
        raise Damaged("a checksum does not match")
    if len(data) < _HEADER.itemsize:
        raise Damaged("a block is cut short")
    header = np.frombuffer(data, dtype=_HEADER, count=1)[0]
    cells, at = int(header["cells"]), _HEADER.itemsize
    if cells > MOST_CELLS:
        raise Damaged(f"a block claims {cells:,} cells")
    parts: list[NDArray[np.uint8]] = []
    for name in _MOST_BYTES:
        size = int(header[name])
        packed, at = data[at : at + size], at + size
        # The most that a part can hold, so that a few bytes cannot ask for gigabytes.
        most = cells if name == "lengths" else int(parts[0].view(np.uint16).sum(dtype=np.int64))
        parts.append(_decompressed(packed, _MOST_BYTES[name] * most))
    return Block(parts[0].view(np.uint16), parts[1], parts[2])


def _decompressed(packed: bytes, room: int) -> NDArray[np.uint8]:
    """Return what bytes stand for, at most `room` bytes; what is not filled is 0."""
    out = np.zeros(room, dtype=np.uint8)
    if packed:
        try:
            zstd.decompress(packed, out)
        except (RuntimeError, ValueError) as error:
            raise Damaged(f"a block does not decompress ({error})") from None
    return out
