"""What a damaged file makes libraries raise, as one line that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import scipy.sparse as sp

from cellfm_torch.data.sources.base import Matrix
from cellfm_torch.errors import UserError

KINDS = (".h5ad", ".h5mu", ".h5", ".loom", ".zarr", ".mtx", ".csv", ".tsv")
"""Endings that say what a file is."""


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn whatever a damaged part makes a library raise into one line that names the file."""
    kind = path.suffix.removeprefix(".") if path.suffix in KINDS else "file of counts"
    try:
        yield
    except UserError:
        raise
    except PermissionError:
        raise UserError(f"{path}: no permission to read it") from None
    except MemoryError:
        raise UserError(f"{path}: does not fit into memory, or is damaged and claims to be larger than it is") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if "truncated file" in reason:
            raise UserError(f"{path}: is truncated (its end is missing): copy or download it again") from None
        if "is not registered" in reason or "plugin" in reason:  # HDF5 looked for a filter that is not its own
            what = "is compressed in a way that takes another package to read"
            raise UserError(f"{path}: {what} ({reason}): pip install hdf5plugin, or write it with gzip") from None
        raise UserError(f"{path}: is damaged or not a valid {kind} ({reason}): write or copy it again") from error


def named_blocks(matrix: Matrix, size: int, path: Path) -> Iterator[sp.csr_matrix]:
    """Yield the blocks of a matrix, with :func:`damage_named` around the reading of each."""
    with damage_named(path):
        blocks = matrix.blocks(size)
    while True:
        with damage_named(path):
            block = next(blocks, None)
        if block is None:
            return
        yield block
