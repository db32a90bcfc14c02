"""Gene tokens as the encoder leaves them, averaged over the cells that express the gene.

Shapes: B cells, N gene tokens of all cells, G vocabulary, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cellfm_torch.batch import CellBatch
from cellfm_torch.job_folder import Arrays
from cellfm_torch.model.loading import Backbone


class ContextSums:
    """Sum of each gene's encoding over cells: two arrays, (G, D) and (G,), however many cells there are.

    Parameters
    ----------
    model
        The network, in evaluation mode.
    """

    def __init__(self, model: Backbone) -> None:
        self.model = model
        self.first_id = model.input_spec.first_id
        device = model.static_genes.device
        # In float64 a mean over millions of cells is as exact as one over ten; Apple's GPUs have none.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        genes = len(model.input_spec.genes or ())
        self.total = torch.zeros(genes, model.gene_dim, dtype=dtype, device=device)
        self.cells = torch.zeros(genes, dtype=torch.int64, device=device)

    @torch.inference_mode()
    def add(self, batch: CellBatch) -> None:
        """See some cells."""
        encoded = self.model.encode(batch).genes
        rows = batch.gene_ids - self.first_id
        self.total.index_add_(0, rows, encoded.to(self.total.dtype))
        self.cells.index_add_(0, rows, torch.ones_like(rows))

    def arrays(self) -> Arrays:
        """Return ``total`` (G, D) and ``cells`` (G,)."""
        return {"total": self.total.cpu().numpy(), "cells": self.cells.cpu().numpy()}

    def load(self, arrays: Arrays) -> None:
        """Go on from what :meth:`arrays` returned."""
        self.total.copy_(torch.from_numpy(arrays["total"]))
        self.cells.copy_(torch.from_numpy(arrays["cells"]))


def mean_of(arrays: Arrays) -> NDArray[np.float32]:
    """Return the mean encoding of each gene, (G, D); NaN for genes that no cell expresses."""
    cells: NDArray[Any] = arrays["cells"]
    with np.errstate(invalid="ignore"):
        means: NDArray[Any] = arrays["total"] / np.where(cells > 0, cells, np.nan)[:, None]
    return means.astype(np.float32)
