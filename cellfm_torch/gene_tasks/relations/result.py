"""Gene-gene relations of a group of cells: maps, edges, a graph.

Shapes: M chosen genes, G vocabulary, L layers, H heads, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfm_torch.data.gene_annotation import annotate_genes
from cellfm_torch.errors import UserError

if TYPE_CHECKING:
    import networkx

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GeneRelations:
    """What genes gather from each other in a group of cells.

    Attributes
    ----------
    group : str
        Name of the group.
    cells : int
        How many it has.
    genes : tuple of str, M
        The genes.
    layers : tuple of int, L
        Counted from 1.
    shares : (L, H or 1, M, M)
        Mean over the cells that express the row's gene of the share it gathers from the column's; 0 where the column's
        is not expressed. Over all tokens of a cell, chosen genes or not, a row adds up to one.
    expressed : (M,)
        Cells that express each gene.
    both : (M, M)
        Cells that express both.
    expressed_by_gene : Series
        Cells that express each gene of the vocabulary, by symbol.
    context : (M, D)
        Mean encoding of each gene over the cells that express it.
    cls : DataFrame
        A row per gene of the vocabulary that a cell expresses, by symbol, a column per layer: mean over the cells that
        express it of its weight for cls, as a multiple of a fair share.
    """

    group: str
    cells: int
    genes: tuple[str, ...]
    layers: tuple[int, ...]
    shares: Floats = field(repr=False)
    expressed: NDArray[np.int64] = field(repr=False)
    both: NDArray[np.int32] = field(repr=False)
    context: Floats = field(repr=False)
    cls: pd.DataFrame = field(repr=False)
    expressed_by_gene: pd.Series = field(repr=False)

    @classmethod
    def of(
        cls,
        group: str,
        cells: int,
        genes: tuple[str, ...],
        layers: tuple[int, ...],
        arrays: Mapping[str, Any],
        expressed: pd.Series,
    ) -> GeneRelations:
        """Return the means of what was added up.

        `expressed` has the cells that express each gene of the vocabulary, by symbol; the others are as the attributes
        and :class:`~cellfm_torch.gene_tasks.relations.sums.MapSums` have them.
        """
        number = np.asarray(arrays["cells"])
        shares = arrays["total"] / np.maximum(number, 1)[:, None]
        there = expressed.to_numpy() > 0
        means = arrays["cls_total"][:, there] / expressed.to_numpy()[there]
        weights = pd.DataFrame(means.T, index=expressed.index[there], columns=[f"layer{i}" for i in layers])
        context = arrays["context"] / np.maximum(number, 1)[:, None]
        return cls(group, cells, genes, layers, shares, number, np.asarray(arrays["both"]), context, weights, expressed)

    @property
    def heads(self) -> int:
        """Maps per layer: H, or 1 for their mean."""
        return int(self.shares.shape[1])

    def map(self, layer: int | None = None, head: int | None = None) -> Floats:
        """Return the shares of a layer and head (counted from 1), or their mean over what is not given: (M, M).

        Raises
        ------
        UserError
            If there is no such layer or head.
        """
        if layer is not None and layer not in self.layers:
            raise UserError(f"layer={layer}: there are {', '.join(map(str, self.layers))}")
        if head is not None and not 1 <= head <= self.heads:
            raise UserError(f"head={head}: there are 1 to {self.heads}" + (" (by_head=true)" * (self.heads == 1)))
        chosen = self.shares if layer is None else self.shares[[self.layers.index(layer)]]
        chosen = chosen if head is None else chosen[:, [head - 1]]
        return np.asarray(chosen.mean((0, 1)))

    def strength(self, layer: int | None = None, head: int | None = None, *, least_cells: int = 1) -> Floats:
        """Return the shares among cells that express both genes, relative to what the column gives on average: (M, M).

        A gene that all others gather from says little of any of them; 1 is what the column's gene gives to a gene that
        it is not related to. 0 where fewer than `least_cells` express both, and on the diagonal.
        """
        both = np.maximum(self.both, 1)
        found = self.map(layer, head) * self.expressed[:, None] / both
        counted = self.both >= max(least_cells, 1)
        np.fill_diagonal(counted, False)
        given = np.where(counted, found, 0).sum(0) / np.maximum(counted.sum(0), 1)
        return np.asarray(np.where(counted, found / np.where(given > 0, given, 1), 0))

    def edges(
        self, top: int = 1000, *, layer: int | None = None, head: int | None = None, least_cells: int = 10
    ) -> pd.DataFrame:
        """Return the strongest relations, strongest first.

        Parameters
        ----------
        top
            How many.
        layer, head
            Of one layer or head; None: the mean over them.
        least_cells
            Cells that express both genes.

        Returns
        -------
        DataFrame with ``gene`` (which gathers), ``source`` (from which it does), ``strength``, ``share`` and ``cells``.
        """
        strength, shares = self.strength(layer, head, least_cells=least_cells), self.map(layer, head)
        number = min(top, int((strength > 0).sum()))
        chosen = np.argsort(-strength, axis=None, kind="stable")[:number]
        rows, columns = np.unravel_index(chosen, strength.shape)
        names = np.asarray(self.genes, dtype=object)
        return pd.DataFrame(
            {
                "gene": names[rows],
                "source": names[columns],
                "strength": strength[rows, columns],
                "share": shares[rows, columns],
                "cells": self.both[rows, columns],
            }
        )

    def graph(self, top: int = 1000, **options: Any) -> networkx.DiGraph:
        """Return the strongest relations as a directed graph, from the source to the gene that gathers from it.

        Edges have the columns of :meth:`edges` as attributes, ``weight`` being the strength.
        """
        import networkx

        graph = networkx.DiGraph(group=self.group, cells=self.cells)
        for row in self.edges(top, **options).itertuples():
            graph.add_edge(row.source, row.gene, weight=row.strength, share=row.share, cells=row.cells)
        return graph

    def to_anndata(self) -> AnnData:
        """Return an AnnData of the M genes: a map in ``obsp`` per layer, and per head where there are several."""
        obs = annotate_genes(self.genes)
        obs["cells"] = self.expressed
        for name in self.cls:
            obs[f"cls_{name}"] = self.cls[name].reindex(self.genes).to_numpy()
        found = AnnData(obs=obs, var=pd.DataFrame(index=[]))
        found.obsp["retention"] = self.map().astype(np.float32)
        found.obsp["cells"] = self.both
        for layer in self.layers:
            found.obsp[f"retention_layer{layer}"] = self.map(layer).astype(np.float32)
            for head in range(1, self.heads + 1) if self.heads > 1 else ():
                found.obsp[f"retention_layer{layer}_head{head}"] = self.map(layer, head).astype(np.float32)
        found.uns["cellfm_relations"] = {"group": self.group, "cells": self.cells}
        return found
