"""Runs of entries of a long HDF5 array, read from the file past the HDF5 library, which reads for one thread at a time.

The library says where in the file each chunk is; reading and decompressing chunks then takes neither its lock nor
Python's. Arrays it stores in another way are read through it.
Shapes: E entries of the array, C entries of a chunk, R runs.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

DEFLATE, SHUFFLE = 1, 2
"""Numbers of HDF5 filters, those that anndata's gzip and others' files use."""


class RunReader(Protocol):
    """Reads runs, each beginning where the one before ended or later."""

    def read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        """Write entries ``start:stop`` to `out`, converted to its type."""

    def close(self) -> None:
        """Close the file."""


class StoredArray:
    """A 1-D array of an HDF5 file that need not be open, (E,).

    Parameters
    ----------
    dataset
        It, in an open file.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        if dataset.ndim != 1:
            raise ValueError(f"{dataset.name} has {dataset.ndim} dimensions instead of 1")
        self._path, self._name = Path(dataset.file.filename).resolve(), dataset.name
        self._entries, self._dtype = dataset.shape[0], dataset.dtype
        plan = dataset.id.get_create_plist()
        self._filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
        self._chunk = 0
        plain = self._dtype.kind in "iuf" and dataset.file.userblock_size == 0 and not plan.get_external_count()
        if plain and plan.get_layout() == h5py.h5d.CHUNKED and set(self._filters) <= {DEFLATE, SHUFFLE}:
            self._find_chunks(dataset)
        elif plain and plan.get_layout() == h5py.h5d.CONTIGUOUS and dataset.id.get_offset() is not None:
            # One chunk that is not compressed: any part of it can be read.
            self._filters, self._chunk = [], max(1, self._entries)
            self._places = np.array([dataset.id.get_offset()])
            self._sizes, self._masks = np.array([self._entries * self._dtype.itemsize]), np.array([0])

    def _find_chunks(self, dataset: h5py.Dataset) -> None:
        found: list[Any] = []
        dataset.id.chunk_iter(found.append)
        length = int(dataset.chunks[0])
        if len(found) != -(-self._entries // length):  # chunks never written
            return
        order = np.argsort([chunk.chunk_offset[0] for chunk in found])
        self._chunk = length
        self._places, self._sizes, self._masks = (
            np.array([getattr(chunk, name) for chunk in found], dtype=np.int64)[order]
            for name in ("byte_offset", "size", "filter_mask")
        )
        if self._entries and not self._is_right(dataset):
            self._chunk = 0

    def _is_right(self, dataset: h5py.Dataset) -> bool:
        """Whether the last entry is what the library says: files may have options that are not thought of here."""
        found, reader = np.empty(1, dtype=self._dtype), self.open()
        try:
            reader.read(self._entries - 1, self._entries, found)
        except Exception:  # the library will say what is wrong
            return False
        finally:
            reader.close()
        return bool(found[0] == dataset[-1])

    def open(self) -> RunReader:
        """Return a reader for one thread."""
        return _ChunkReader(self) if self._chunk else _SliceReader(self._path, self._name)


class StoredRows(NamedTuple):
    """A matrix whose entries are sorted by row, in an HDF5 file that need not be open."""

    data: StoredArray  # (E,)
    indices: StoredArray  # (E,) columns
    indptr: NDArray[np.int64]  # (rows + 1,)


class _ChunkReader:
    """Reads chunk by chunk, and remembers the last one: the next run may begin in it."""

    def __init__(self, array: StoredArray) -> None:
        self._array = array
        self._file: BinaryIO = array._path.open("rb", buffering=0)
        self._number, self._last = -1, np.empty(0, dtype=array._dtype)

    def close(self) -> None:
        self._file.close()

    def read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        done = 0
        while start < stop:
            number, first = divmod(start, self._array._chunk)
            last = min(self._array._chunk, first + stop - start)
            out[done : done + last - first] = self._part(number, first, last)
            start, done = start + last - first, done + last - first

    def _part(self, number: int, first: int, last: int) -> NDArray[Any]:
        """Return entries ``first:last`` of a chunk."""
        array = self._array
        if not array._filters:
            size = array._dtype.itemsize
            data = self._bytes(int(array._places[number]) + first * size, (last - first) * size)
            return np.frombuffer(data, dtype=array._dtype)
        if number != self._number:
            self._last, self._number = self._unpacked(number), number
        return self._last[first:last]

    def _bytes(self, place: int, size: int) -> bytes:
        data = os.pread(self._file.fileno(), size, place)
        if len(data) != size:
            raise ValueError("it ends before its entries do")
        return data

    def _unpacked(self, number: int) -> NDArray[Any]:
        array = self._array
        data = self._bytes(int(array._places[number]), int(array._sizes[number]))
        whole = array._chunk * array._dtype.itemsize
        for i in reversed(range(len(array._filters))):
            if not array._masks[number] >> i & 1:
                data = _UNDO[array._filters[i]](data, whole, array._dtype.itemsize)
        if len(data) != whole:
            raise ValueError(f"a chunk of {array._name} holds {len(data):,} bytes instead of {whole:,}")
        return np.frombuffer(data, dtype=array._dtype)


def _unshuffled(data: bytes, whole: int, size: int) -> bytes:
    if len(data) != whole:
        raise ValueError(f"a chunk holds {len(data):,} bytes instead of {whole:,}")
    return np.frombuffer(data, dtype=np.uint8).reshape(size, -1).T.tobytes()


def _inflated(data: bytes, whole: int, size: int) -> bytes:
    return zlib.decompressobj().decompress(data, whole + 1)  # no more memory than a chunk has, whatever the file says


_UNDO: dict[int, Callable[[bytes, int, int], bytes]] = {DEFLATE: _inflated, SHUFFLE: _unshuffled}

_LOCK = threading.Lock()


class _SliceReader:
    """Reads through the library."""

    def __init__(self, path: Path, name: str) -> None:
        with _LOCK:
            self._file = h5py.File(path)
        self._dataset = self._file[name]

    def close(self) -> None:
        with _LOCK:
            self._file.close()

    def read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        with _LOCK:
            out[:] = self._dataset[start:stop]
