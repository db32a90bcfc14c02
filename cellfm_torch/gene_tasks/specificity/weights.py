"""What cls gathers from each gene of each cell.

Shapes: B cells, N gene tokens of all cells, G vocabulary, L layers, H heads, K head dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from cellfm_torch.batch import CellBatch
from cellfm_torch.gene_tasks.relations.sums import cls_weights
from cellfm_torch.job_folder import Arrays
from cellfm_torch.model.cellfm import CellFM
from cellfm_torch.model.maps import read_layers
from cellfm_torch.ops.layout import Layout


class CellWeights:
    """Weights of genes for cls and values of genes, cell by cell: memory grows with the cells that are seen.

    Parameters
    ----------
    network
        In evaluation mode.
    layers
        Which, from 0; weights are their mean.
    """

    def __init__(self, network: CellFM, layers: Sequence[int]) -> None:
        self.network, self.layers = network, tuple(layers)
        self.parts: dict[str, list[np.ndarray]] = {name: [] for name in ("weights", "values", "genes", "lengths")}

    @torch.inference_mode()
    def add(self, batch: CellBatch) -> None:
        """See some cells."""
        bounds = batch.offsets.tolist()
        mean = torch.zeros(batch.num_genes)

        def see(layer: int, q: Tensor, k: Tensor, layout: Layout) -> None:
            prefix = (layout.num_tokens - batch.num_genes) // max(batch.num_cells, 1)
            for cell, (first, end) in enumerate(layout.cells()):
                found = cls_weights(q[first], k[first:end])[prefix:]
                mean[bounds[cell] : bounds[cell + 1]] += found.float().cpu() / len(self.layers)

        read_layers(self.network, batch, see, layers=self.layers)
        first_id = self.network.input_spec.first_id
        self.parts["weights"].append(mean.numpy())
        self.parts["values"].append(batch.values.float().cpu().numpy())
        self.parts["genes"].append((batch.gene_ids - first_id).int().cpu().numpy())
        self.parts["lengths"].append(batch.lengths.int().cpu().numpy())

    def arrays(self) -> Arrays:
        """Return what was found, cells end to end."""
        return {name: np.concatenate(found) if found else np.zeros(0) for name, found in self.parts.items()}

    def load(self, arrays: Arrays) -> None:
        """Go on from what :meth:`arrays` returned."""
        self.parts = {name: [arrays[name]] for name in self.parts}


def matrices(parts: Sequence[Arrays], genes: int) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Return weights and values of the cells of several groups, (B, G) each; stored where a cell expresses a gene."""
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    indptr = np.concatenate([[0], np.cumsum(whole["lengths"], dtype=np.int64)])
    shape, columns = (len(indptr) - 1, genes), whole["genes"]
    found = [sp.csr_matrix((whole[name], columns.copy(), indptr.copy()), shape=shape) for name in ("weights", "values")]
    return found[0], found[1]
