"""Genes that tell a group of cells from the rest, by what cls gathers from them and by expression.

Shapes: B cells, G vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfm_torch.data.gene_annotation import annotate_genes
from cellfm_torch.errors import UserError
from cellfm_torch.gene_tasks.cells import LEAST_CELLS, CellGroups
from cellfm_torch.gene_tasks.network import chosen_layers, on_device, retention_only
from cellfm_torch.gene_tasks.specificity.result import WEIGHTS, SpecificGenes, specificity
from cellfm_torch.gene_tasks.specificity.weights import CellWeights, matrices
from cellfm_torch.gene_tasks.stream import stream
from cellfm_torch.job_folder import open_job
from cellfm_torch.model.loading import Backbone


def specific_genes(
    model: Backbone | str | Path,
    cells: AnnData | str | Path,
    *,
    by: str,
    groups: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    least_cells: int = LEAST_CELLS,
    most_cells: int | None = 2000,
    keep: str | Path | None = None,
    overwrite: bool = False,
    accelerator: str = "auto",
    seed: int = 0,
    token_budget: int = 16384,
    verbose: bool = True,
    **reading: Any,
) -> SpecificGenes:
    """Return which genes cls gathers from in each group of cells more than in the rest: cell-type-specific genes.

    Parameters
    ----------
    model
        A folder of a CellFM, or the network.
    cells
        Cells with raw counts: a file of any known format, or an AnnData.
    by
        Column of ``obs`` with the group of each cell, such as its type.
    groups
        Which; None: all of at least `least_cells` cells. The rest are the cells of the other groups.
    layers
        Whose weights are averaged, counted from 1; None: all.
    most_cells
        Of larger groups so many cells are drawn, by `seed`: a number per token of each is held in memory. None: all.
    least_cells, keep, overwrite, accelerator, token_budget, verbose, reading
        As in :func:`~cellfm_torch.gene_tasks.embeddings.run.gene_embeddings`.

    Returns
    -------
    SpecificGenes
        ``table``, a row per group and gene (its columns are explained at the class), ``top(group, biotype=...)``,
        ``agreement()`` with expression, and ``cells`` with the weights of each.

    Raises
    ------
    UserError
        If the model has no retention, there is no such column or layer, or fewer than two groups have enough cells.

    Examples
    --------
    >>> found = specific_genes("CellFM_80M_weight", "cells.h5ad", by="cell_type")  # doctest: +SKIP
    >>> found.top("NK", biotype="lncRNA")  # doctest: +SKIP
    """
    with on_device(model, accelerator) as (network, about):
        network = retention_only(network, "weights for cls")
        chosen = chosen_layers(network, layers)
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
        if len(given.rows) < 2:
            only = next(iter(given.rows))
            raise UserError(f"{given.source['cells']}: '{only}' is the only group of obs['{by}']: there is no rest")
        folder = None if keep is None else Path(keep)
        if folder is not None:
            job = {"model": about, **given.source, "by": by, "layers": chosen, "seed": seed, "reading": reading}
            open_job(folder, job | {"cells_of": {g: len(r) for g, r in given.rows.items()}}, overwrite=overwrite)
        device = network.static_genes.device
        parts = [
            arrays
            for _, arrays in stream(
                given,
                lambda _: CellWeights(network, chosen),
                keep=folder,
                device=device,
                what="Weights",
                verbose=verbose,
            )
        ]
        symbols = network.input_spec.genes or ()
        weights, values = matrices(parts, len(symbols))
        names = np.asarray(given.data.obs.index.astype(str))[np.concatenate(list(given.rows.values()))]
    codes = np.repeat(np.arange(len(given.rows)), [len(rows) for rows in given.rows.values()])
    obs = pd.DataFrame({by: pd.Categorical.from_codes(codes, list(given.rows))}, index=names)
    found = AnnData(values, obs=obs, var=annotate_genes(symbols), layers={WEIGHTS: weights})
    return SpecificGenes(specificity(found, codes, list(given.rows)), found, by)
