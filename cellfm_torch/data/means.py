"""Mean value of each gene: what a model has to be better than.

Shapes: G genes of the vocabulary, r rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.batch import InputSpec, Masking
from cellfm_torch.data import transforms
from cellfm_torch.data.table import CellTable

MEAN_STREAM = 7
"""First word of the seed of the cells that are read (see :data:`cellfm_torch.data.order.ORDER_STREAM`)."""

MOST_CELLS = 50_000


def gene_means(
    table: CellTable, rows: NDArray[np.int64], spec: InputSpec, *, masking: Masking, seed: int
) -> NDArray[np.float32]:
    """Return the mean value (log1p CP10k) of each gene over some cells, (first_id + G,) by gene id.

    Over the cells that express the gene; where the model reads unexpressed genes too, over all cells; where unexpressed
    genes are targets less often than others, each cell counts as often as the gene is a target in it. Genes no cell
    expresses get the mean over all genes and cells. Of more than 50,000 cells, 50,000 drawn from them are read.
    """
    if len(rows) > MOST_CELLS:
        rows = np.sort(np.random.default_rng([MEAN_STREAM, seed]).choice(rows, MOST_CELLS, replace=False))
    genes_known = table.num_genes
    sums, number = np.zeros(genes_known), np.zeros(genes_known)
    for start in range(0, len(rows), 4096):
        offsets, genes, counts = table.read(rows[start : start + 4096])
        values = transforms.normalise(offsets, counts, transforms.sum_by_cell(offsets, counts))
        sums += np.bincount(genes, weights=values, minlength=genes_known)
        number += np.bincount(genes, minlength=genes_known)
    if not spec.expressed_only:
        number = np.full(genes_known, float(len(rows)))
    else:
        number += masking.zero_fraction / masking.fraction * (len(rows) - number)
    means = np.full(spec.first_id + genes_known, sums.sum() / number.sum(), dtype=np.float32)
    means[spec.first_id :][number > 0] = sums[number > 0] / number[number > 0]
    return means
