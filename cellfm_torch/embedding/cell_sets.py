"""Embeddings of cells in memory, made once per network and set of cells; in a folder too where they take long.

Shapes: n cells, E width of a cell embedding.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import nn

from cellfm_torch.data.labelled import CellSet
from cellfm_torch.embedding.callbacks import PLAIN_SECONDS
from cellfm_torch.embedding.parts import FolderParts, MemoryParts


class Embeddings:
    """Embed cells with a backbone as it is.

    Parameters
    ----------
    network
        A backbone.
    keep
        Folder in which embeddings are kept as they are made, so that an interrupted job goes on; whoever gives it
        removes it.
    """

    def __init__(self, network: nn.Module, *, keep: Path | None = None) -> None:
        self.network, self.keep = network, keep
        self._known: WeakKeyDictionary[CellSet, NDArray[np.float32]] = WeakKeyDictionary()

    def of(self, cells: CellSet) -> NDArray[np.float32]:
        """Return the embedding of each cell, (n, E); NaN for those without counts in the model's genes."""
        if cells not in self._known:
            parts = MemoryParts() if self.keep is None else _parts(self.keep, self.network, cells)
            self._known[cells] = embed_cells(self.network, cells, parts)
        return self._known[cells]


def _parts(keep: Path, network: nn.Module, cells: CellSet) -> FolderParts:
    """Return what was kept of these weights and these counts: others have another folder."""
    job = {"weights_sha256": weights_digest(network), "cells_sha256": counts_digest(cells)}
    return FolderParts(keep / "_".join(("embeddings", *(digest[:12] for digest in job.values()))), job)


def weights_digest(network: nn.Module) -> str:
    """Return a SHA-256 of the names and values of all weights."""
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def counts_digest(cells: CellSet) -> str:
    """Return a SHA-256 of the counts of each cell, in their order."""
    counts = cells.counts
    found = hashlib.sha256(repr(counts.shape).encode())
    for array in (counts.indptr.astype(np.int64), counts.indices.astype(np.int64), counts.data.astype(np.int64)):
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def embed_cells(network: Any, cells: CellSet, parts: MemoryParts | FolderParts | None = None) -> NDArray[np.float32]:
    """Return the embedding of each cell, (n, E); NaN for those without counts in the model's genes.

    Parameters
    ----------
    network
        A backbone.
    cells
        The cells.
    parts
        To which embeddings are added as they are made; what is in a folder already is not made again.
    """
    parts = MemoryParts() if parts is None else parts
    embedder, device = network.embedder(), next(network.parameters()).device
    out = np.full((len(cells), network.cell_dim), np.nan, dtype=np.float32)
    wanted = np.flatnonzero(cells.lengths > 0)
    if isinstance(parts, FolderParts):
        wanted = np.setdiff1d(wanted, parts.done(), assume_unique=True)
    if len(wanted):
        for batch in shown(cells.loader(wanted), "embedding"):
            parts.add(batch.cell_index.numpy(), {"cell": embedder(batch.to(device)).float().cpu().numpy()})
    for rows, values in parts:
        out[rows] = values["cell"]
    return out


def shown(loader: Any, what: str) -> Iterator[Any]:
    """Yield the batches of a loader, with a bar where somebody watches a terminal and a line now and then elsewhere."""
    console, total = Console(stderr=True), len(loader)
    if console.is_terminal:
        yield from track(loader, description=what, total=total, console=console)
        return
    said = time.monotonic()
    for number, batch in enumerate(loader, start=1):
        yield batch
        if number < total and time.monotonic() - said >= PLAIN_SECONDS:
            said = time.monotonic()
            console.print(f"{what} {number:,}/{total:,} batches", highlight=False)
