"""Writing HDF5 files so that a disk that takes no more is an error like any other.

By itself the library prints tracebacks then, and crashes when Python ends: what it could not write it tries again and
again. Here it writes through a file of Python, which keeps the first error, and from then on takes and forgets all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import h5py

from cellfm_torch.files import written_beside


class _Patient:
    """A file for h5py that never fails at writing; the error is kept in `problem`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.problem: OSError | None = None

    def write(self, data: Any) -> int:
        size = len(memoryview(data).cast("B"))
        try:
            if self.problem is None:
                view = memoryview(data).cast("B")
                while len(view):
                    view = view[self._file.write(view) :]
        except OSError as problem:
            self.problem = problem
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            if self.problem is None:
                return self._file.truncate(size)
        except OSError as problem:
            self.problem = problem
        return size or 0

    def readinto(self, buffer: Any) -> int:
        found: int = self._file.readinto(buffer)  # type: ignore[attr-defined]
        if self.problem is not None and found < len(buffer):  # it was never written
            buffer[found:] = bytes(len(buffer) - found)
            return len(buffer)
        return found

    def read(self, size: int = -1) -> bytes:
        """As h5py asks of a file."""
        return self._file.read(size)

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        """Nothing waits here."""


@contextmanager
def open_h5(path: Path, *, mode: str = "w") -> Iterator[h5py.File]:
    """Open an HDF5 file for writing.

    Parameters
    ----------
    path
        Where.
    mode
        ``"w"``: a new one; ``"r+"``: one that is there.

    Raises
    ------
    OSError
        At the end of the block, if the disk took no more.
    """
    with path.open("wb+" if mode == "w" else "rb+", buffering=0) as file:
        patient = _Patient(file)
        try:
            with h5py.File(patient, mode) as opened:
                yield opened
        finally:
            if patient.problem is not None:
                raise OSError(patient.problem.errno, patient.problem.strerror, str(path)) from patient.problem


@contextmanager
def h5_beside(path: Path, *, copy_of: Path | None = None) -> Iterator[h5py.File]:
    """Open the neighbour of an HDF5 file for writing; it takes the file's name when the block ends well.

    Parameters
    ----------
    path
        Of the file.
    copy_of
        What it begins as; None: empty.
    """
    with written_beside(path) as part:
        if copy_of is not None:
            shutil.copyfile(copy_of, part)
        with open_h5(part, mode="w" if copy_of is None else "r+") as file:
            yield file


def write_anndata(adata: Any, path: Path, **options: Any) -> None:
    """Write an AnnData to an h5ad file, beside and renamed.

    Parameters
    ----------
    adata
        Columns of text become categories in it, as with its own ``write_h5ad``.
    path
        Where.
    options
        Of each data set, such as ``compression``.
    """
    from anndata.io import write_elem

    adata.strings_to_categoricals()
    if adata.raw is not None:
        adata.strings_to_categoricals(adata.raw.var)
    with h5_beside(path) as file:
        write_elem(file, "/", adata, dataset_kwargs=options)
