"""Gene-gene relations from the retention maps of groups of cells.

Shapes: M chosen genes, L layers, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfm_torch.errors import UserError
from cellfm_torch.gene_tasks.cells import LEAST_CELLS, CellGroups
from cellfm_torch.gene_tasks.expression import ExpressionSums, added, variable
from cellfm_torch.gene_tasks.genes import named_genes
from cellfm_torch.gene_tasks.network import chosen_layers, on_device, retention_only
from cellfm_torch.gene_tasks.relations.result import GeneRelations
from cellfm_torch.gene_tasks.relations.sums import MapSums
from cellfm_torch.gene_tasks.stream import stream
from cellfm_torch.job_folder import open_job
from cellfm_torch.memory.device import available_memory
from cellfm_torch.model.loading import Backbone


def gene_relations(
    model: Backbone | str | Path,
    cells: AnnData | str | Path,
    *,
    by: str | None = None,
    groups: Sequence[str] | None = None,
    gene_list: Sequence[str] | None = None,
    top_genes: int = 2000,
    layers: Sequence[int] | None = None,
    by_head: bool = False,
    least_cells: int = LEAST_CELLS,
    most_cells: int | None = None,
    keep: str | Path | None = None,
    overwrite: bool = False,
    accelerator: str = "auto",
    seed: int = 0,
    token_budget: int = 16384,
    verbose: bool = True,
    **reading: Any,
) -> dict[str, GeneRelations]:
    """Return which genes gather from which others in groups of cells: CellFM's retention maps, averaged over cells.

    In each cell the map of a layer is ``q k^T`` of its tokens, rows divided by what they gather in all. Cells are seen
    one at a time; memory holds the mean map of a group, M x M numbers per layer, and the maps of a single cell.

    Parameters
    ----------
    model
        A folder of a CellFM, or the network.
    cells
        Cells with raw counts: a file of any known format, or an AnnData.
    by
        Column of ``obs``: maps for each group of cells rather than for all.
    groups
        Which groups; None: all of at least `least_cells` cells.
    gene_list
        Which genes; None: the `top_genes` most variable ones over all groups.
    top_genes
        M, where no genes are named; among those that at least `least_cells` cells express.
    layers
        Which, counted from 1; None: all.
    by_head
        Keep the map of each head, H times the memory; otherwise their mean.
    least_cells
        Smaller groups are left out.
    most_cells
        Of larger groups so many cells are drawn, by `seed`.
    keep, overwrite, accelerator, token_budget, verbose, reading
        As in :func:`~cellfm_torch.gene_tasks.embeddings.run.gene_embeddings`.

    Returns
    -------
    dict of str to GeneRelations
        By group; ``"all"`` where cells are not grouped. Each has ``edges(top)``, ``graph(top)``, ``map(layer, head)``,
        ``strength()``, ``cls`` (weights of genes for cls) and ``to_anndata()``.

    Raises
    ------
    UserError
        If the model has no retention, a gene or layer does not exist, or memory does not suffice for the maps.

    Examples
    --------
    >>> found = gene_relations("CellFM_80M_weight", "cells.h5ad", by="cell_type")  # doctest: +SKIP
    >>> found["B"].edges(100), found["B"].graph(500)  # doctest: +SKIP
    """
    with on_device(model, accelerator) as (network, about):
        network = retention_only(network, "gene relations")
        wanted = chosen_layers(network, layers)
        named = None if gene_list is None else named_genes(network, gene_list)
        given = CellGroups.read(
            cells,
            network,
            by=by,
            groups=groups,
            least_cells=least_cells,
            most_cells=most_cells,
            seed=seed,
            token_budget=token_budget,
            verbose=verbose,
            **reading,
        )
        symbols = np.asarray(network.input_spec.genes, dtype=object)
        first_id = network.input_spec.first_id
        expression = dict(
            stream(given, lambda _: ExpressionSums(len(symbols), first_id), what="Reading", verbose=verbose)
        )
        if named is None:
            named = variable(added(expression.values()), top_genes, least_cells=least_cells)
        if len(named) < 2:
            raise UserError(
                f"{given.source['cells']}: {len(named)} of the genes asked for: relations take two; lower "
                "least_cells, or name genes that the cells express"
            )
        _check_memory(len(named), len(wanted) * (network.num_heads if by_head else 1))
        folder = None if keep is None else Path(keep)
        if folder is not None:
            job = {"model": about, **given.source, "by": by, "genes": symbols[named].tolist(), "layers": wanted}
            job |= {"by_head": by_head, "cells_of": {group: len(rows) for group, rows in given.rows.items()}}
            open_job(folder, job | {"seed": seed, "reading": reading}, overwrite=overwrite)
        ids = named + first_id
        result = {}
        for group, arrays in stream(
            given,
            lambda _: MapSums(network, ids, layers=wanted, by_head=by_head),
            keep=folder,
            device=network.static_genes.device,
            what="Maps",
            verbose=verbose,
        ):
            by_gene = pd.Series(expression[group]["expressed"], index=pd.Index(symbols, name="symbol"))
            result[group] = GeneRelations.of(
                group,
                len(given.rows[group]),
                tuple(symbols[named]),
                tuple(i + 1 for i in wanted),
                arrays,
                by_gene,
            )
    return result


def _check_memory(genes: int, maps: int) -> None:
    # The sums, and their means when a group is done.
    needed, there = 2 * 8 * genes**2 * maps, available_memory()
    if needed > 0.9 * there:
        raise UserError(
            f"{maps:,} maps of {genes:,} x {genes:,} genes take {needed / 1e9:.1f} GB, {there / 1e9:.1f} GB are free: "
            "lower top_genes, name fewer layers, or leave by_head out"
        )
