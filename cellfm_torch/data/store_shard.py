"""One shard of a prepared store: blocks of cells, then an index of them, each with a checksum.

Shapes: n cells and K blocks of the shard, r cells asked for.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.data.store_codec import Block, Damaged, encode, unpack

MAGIC = b"CELLFM-SHARD-01\n"
_OF_BLOCKS = {"ends": "<u8", "checksums": "<u4", "sizes": "<u4"}
_INDEX_BYTES = 128
"""Most bytes of the index for a cell, before compression; eight for each of a few columns are usual."""

_TAIL = struct.Struct("<QII")  # bytes of blocks, bytes and checksum of the index


class ShardWriter:
    """Write a shard to a file that nobody reads yet.

    Parameters
    ----------
    path
        New file.
    block_cells
        Cells per block.
    """

    def __init__(self, path: Path, *, block_cells: int) -> None:
        self.path = path
        self.cells = 0
        self._block_cells = block_cells
        self._file = path.open("wb")
        self._hash = hashlib.sha256()
        self._write(MAGIC)
        self._ends: list[int] = []
        self._checksums: list[int] = []
        self._sizes: list[int] = []
        self._columns: dict[str, list[NDArray[Any]]] = {}

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)

    def add(self, counts: sp.csr_matrix, columns: dict[str, NDArray[Any]]) -> None:
        """Append cells: their counts over the store's genes, and numbers of theirs that the index keeps, by name."""
        counts.sort_indices()
        for start in range(0, counts.shape[0], self._block_cells):
            stop = min(start + self._block_cells, counts.shape[0])
            own = slice(counts.indptr[start], counts.indptr[stop])
            data = encode(counts.indptr[start : stop + 1] - own.start, counts.indices[own], counts.data[own])
            self._write(data)
            self._ends.append(self._file.tell())
            self._checksums.append(zlib.crc32(data))
            self._sizes.append(stop - start)
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values)
        self.cells += counts.shape[0]

    def close(self) -> str:
        """Write the index, wait for the disk, and return the SHA-256 of the whole file."""
        index: dict[str, NDArray[Any]] = {
            "ends": np.array(self._ends, dtype="<u8"),
            "checksums": np.array(self._checksums, dtype="<u4"),
            "sizes": np.array(self._sizes, dtype="<u4"),
        }
        index |= {name: np.concatenate(parts) for name, parts in self._columns.items()}
        packed = io.BytesIO()
        # NumPy before 2.1 has no allow_pickle here and would take it for one more array.
        np.savez_compressed(packed, **index)  # type: ignore[arg-type]  # the stub takes an array for allow_pickle
        data = packed.getvalue()
        tail = _TAIL.pack(self._file.tell(), len(data), zlib.crc32(data))
        self._write(data)
        self._write(tail + MAGIC)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._hash.hexdigest()


def read_index(path: Path, cells: int) -> dict[str, NDArray[Any]]:
    """Return the index of a shard: ``ends``, ``checksums`` and ``sizes`` of blocks (K,), and columns of cells (n,).

    Parameters
    ----------
    path
        The shard.
    cells
        n, as the manifest has it.

    Raises
    ------
    Damaged
        If the file is missing, cut short or not what was written.
    """
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            length = file.tell()
            size = _TAIL.size + len(MAGIC)
            if length < size + len(MAGIC):
                raise Damaged("it is cut short")
            file.seek(-size, os.SEEK_END)
            tail = file.read(size)
            start, number, checksum = _TAIL.unpack(tail[: _TAIL.size])
            if tail[_TAIL.size :] != MAGIC or start + number + size != length:
                raise Damaged("its end is missing or overwritten")
            file.seek(start)
            data = file.read(number)
    except OSError as error:
        raise Damaged(error.strerror or str(error)) from None
    if zlib.crc32(data) != checksum:
        raise Damaged("the checksum of its index does not match")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(part.file_size for part in archive.infolist()) > _INDEX_BYTES * (cells + 1000):
                raise Damaged("its index is larger than its cells need")
        with np.load(io.BytesIO(data), allow_pickle=False) as packed:
            index = dict(packed)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, KeyError, zlib.error) as error:
        raise Damaged(f"its index cannot be read ({error})") from None
    _check_index(index, cells, start)
    return index


def _check_index(index: dict[str, NDArray[Any]], cells: int, end: int) -> None:
    """Refuse an index that does not fit the cells and bytes of its shard: compiled loops rely on it."""
    columns = {name: x for name, x in index.items() if name not in _OF_BLOCKS}
    for name, kind in _OF_BLOCKS.items():
        if name not in index or index[name].dtype != kind or index[name].ndim != 1:
            raise Damaged(f"its index has no {name}")
    ends, sizes = index["ends"].astype(np.int64), index["sizes"]
    if not len(ends) == len(sizes) == len(index["checksums"]) or int(sizes.sum(dtype=np.int64)) != cells:
        raise Damaged("its index is of other cells")
    if len(ends) and (ends[0] <= len(MAGIC) or (np.diff(ends) <= 0).any() or ends[-1] != end):
        raise Damaged("its index is of other blocks")
    if "totals" not in columns or columns["totals"].dtype.kind not in "fu":
        raise Damaged("its index has no totals")
    for name, values in columns.items():
        if values.shape != (cells,) or (name.startswith("expressed_") and values.dtype != np.uint16):
            raise Damaged(f"its index has other {name}")
    if not np.isfinite(columns["totals"]).all():
        raise Damaged("its index has totals that are no numbers")


def read_blocks(
    path: Path, starts: NDArray[np.integer], ends: NDArray[np.integer], checksums: Sequence[int] | NDArray[np.integer]
) -> list[Block]:
    """Return blocks of a shard by where their bytes are.

    Raises
    ------
    Damaged
        If the file is missing, or its bytes are not those that were written.
    """
    try:
        with path.open("rb", buffering=0) as file:
            data = [os.pread(file.fileno(), int(b - a), int(a)) for a, b in zip(starts, ends, strict=True)]
    except OSError as error:
        raise Damaged(error.strerror or str(error)) from None
    return [unpack(part, int(checksum)) for part, checksum in zip(data, checksums, strict=True)]


def block_starts(ends: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return where the bytes of each block of a shard begin, (K,)."""
    return np.concatenate([[len(MAGIC)], ends[:-1]]).astype(np.int64)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises
    ------
    Damaged
        If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Damaged(error.strerror or str(error)) from None
