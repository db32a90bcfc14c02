"""Embeddings of cells in memory, made once per network and set of cells.

Shapes: n cells, E width of a cell embedding.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import nn

from cellfm_torch.data.labelled import CellSet
from cellfm_torch.embedding.callbacks import PLAIN_SECONDS


class Embeddings:
    """Embed cells with a backbone as it is."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._known: WeakKeyDictionary[CellSet, NDArray[np.float32]] = WeakKeyDictionary()

    def of(self, cells: CellSet) -> NDArray[np.float32]:
        """Return the embedding of each cell, (n, E); NaN for those without counts in the model's genes."""
        if cells not in self._known:
            self._known[cells] = embed_cells(self.network, cells)
        return self._known[cells]


def embed_cells(network: Any, cells: CellSet) -> NDArray[np.float32]:
    """Return the embedding of each cell, (n, E); NaN for those without counts in the model's genes."""
    embedder, device = network.embedder(), next(network.parameters()).device
    out = np.full((len(cells), network.cell_dim), np.nan, dtype=np.float32)
    if not (cells.lengths > 0).any():
        return out
    for batch in shown(cells.loader(), "embedding"):
        out[batch.cell_index.numpy()] = embedder(batch.to(device)).float().cpu().numpy()
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
