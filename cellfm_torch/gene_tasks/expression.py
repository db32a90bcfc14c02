"""Expression over cells that are seen once: means, variances, and which genes vary.

Shapes: N gene tokens of a batch, B cells of it, G vocabulary, M chosen genes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cellfm_torch.analysis.expression import most_dispersed
from cellfm_torch.batch import CellBatch
from cellfm_torch.job_folder import Arrays

Floats = NDArray[np.float64]


class ExpressionSums:
    """Sums over cells of log1p(CP10K), of CP10K and of their squares, gene by gene: (5, G).

    Parameters
    ----------
    genes
        G.
    first_id
        Id of the first one.
    """

    NAMES = ("expressed", "log", "log_squares", "linear", "linear_squares")

    def __init__(self, genes: int, first_id: int) -> None:
        self.first_id = first_id
        self.sums = torch.zeros(len(self.NAMES), genes, dtype=torch.float64)
        self.cells = 0

    def add(self, batch: CellBatch) -> None:
        """See some cells."""
        rows, values = (batch.gene_ids - self.first_id).cpu(), batch.values.double().cpu()
        linear = torch.expm1(values)
        seen = torch.stack([(values > 0).double(), values, values.square(), linear, linear.square()])
        self.sums.index_add_(1, rows, seen)
        self.cells += batch.num_cells

    def arrays(self) -> Arrays:
        """Return the sums by name, (G,) each, and the number of cells."""
        named = dict(zip(self.NAMES, self.sums.numpy(), strict=True))
        return {**named, "cells": np.array(self.cells)}

    def load(self, arrays: Arrays) -> None:
        """Go on from what :meth:`arrays` returned."""
        self.sums.copy_(torch.from_numpy(np.stack([arrays[name] for name in self.NAMES])))
        self.cells = int(arrays["cells"])


def added(parts: Iterable[Arrays]) -> Arrays:
    """Return the sums over several groups."""
    first, *others = parts
    return {name: np.sum([first[name], *(part[name] for part in others)], axis=0) for name in first}


def variable(sums: Mapping[str, NDArray[Any]], number: int, *, least_cells: int) -> NDArray[np.int64]:
    """Return the most variable genes among those that enough cells express, ascending.

    As :func:`~cellfm_torch.analysis.expression.variable_genes` ranks them.
    """
    cells = float(sums["cells"])
    mean = sums["linear"] / cells
    variance = np.maximum(sums["linear_squares"] / cells - mean**2, 0)
    return most_dispersed(np.where(sums["expressed"] >= least_cells, mean, 0), variance, number)


class CoExpressionSums:
    """Sums of the products of log1p(CP10K) of two genes over cells, (M, M): their correlation.

    Parameters
    ----------
    rows : (M,)
        The genes, ids as the model has them.
    num_ids
        Ids there are.
    """

    def __init__(self, rows: NDArray[np.int64], num_ids: int) -> None:
        self.place = torch.full((num_ids,), -1)
        self.place[torch.from_numpy(rows)] = torch.arange(len(rows))
        self.products = torch.zeros(len(rows), len(rows), dtype=torch.float64)
        self.sums = torch.zeros(len(rows), dtype=torch.float64)
        self.cells = 0

    def add(self, batch: CellBatch) -> None:
        """See some cells."""
        at = self.place[batch.gene_ids.cpu()]
        there = at >= 0
        dense = torch.zeros(batch.num_cells, len(self.sums), dtype=torch.float64)
        dense[batch.cell_of_gene.cpu()[there], at[there]] = batch.values.cpu()[there].double()
        self.products.addmm_(dense.T, dense)
        self.sums += dense.sum(0)
        self.cells += batch.num_cells

    def arrays(self) -> Arrays:
        """Return what was added up."""
        return {"products": self.products.numpy(), "sums": self.sums.numpy(), "cells": np.array(self.cells)}

    def load(self, arrays: Arrays) -> None:
        """Go on from what :meth:`arrays` returned."""
        self.products.copy_(torch.from_numpy(arrays["products"]))
        self.sums.copy_(torch.from_numpy(arrays["sums"]))
        self.cells = int(arrays["cells"])


def correlation(arrays: Arrays) -> Floats:
    """Return Pearson's r of each two genes, (M, M); 0 for a gene that does not vary."""
    cells = float(arrays["cells"])
    mean = arrays["sums"] / cells
    covariance = arrays["products"] / cells - np.outer(mean, mean)
    spread = np.sqrt(np.maximum(np.diag(covariance), 0))
    there = spread > 1e-9
    scale = np.where(there, 1 / np.where(there, spread, 1), 0)
    return np.asarray(np.clip(covariance * scale[:, None] * scale, -1, 1))
