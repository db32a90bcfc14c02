"""In-silico edits of genes: which ones move the embedding of cells.

Shapes: M genes asked about, C width of a cell embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfm_torch.data.gene_annotation import annotate_genes
from cellfm_torch.errors import UserError
from cellfm_torch.gene_tasks.cells import CellGroups
from cellfm_torch.gene_tasks.expression import ExpressionSums, added, variable
from cellfm_torch.gene_tasks.genes import named_genes
from cellfm_torch.gene_tasks.network import on_device
from cellfm_torch.gene_tasks.stream import stream
from cellfm_torch.gene_tasks.whatif.edits import REMOVED, ShiftsOfCells, names_of
from cellfm_torch.gene_tasks.whatif.null import permutation_test
from cellfm_torch.job_folder import open_job
from cellfm_torch.model.loading import Backbone


@dataclass(frozen=True)
class WhatIf:
    """What edits of genes did to cells.

    Attributes
    ----------
    table : DataFrame
        A row per group and gene, by group and falling z: ``group``, ``gene``, ``ensembl_id``, ``biotype``, ``cells``
        (in which it was edited), ``shift`` (geometric mean of one minus the cosine of the cell's embeddings), ``null``
        (that of genes of the same expression), ``z``, ``p``, ``fdr``.
    edits : DataFrame
        A row per edit: ``group``, ``cell`` (name), ``gene``, ``value`` (log1p(CP10K) before), ``shift``, ``asked`` (or
        drawn for comparison).
    edit : str
        What was done: ``"remove"``, or ``"set to 2.5"``.
    """

    table: pd.DataFrame = field(repr=False)
    edits: pd.DataFrame = field(repr=False)
    edit: str


def what_if(
    model: Backbone | str | Path,
    cells: AnnData | str | Path,
    *,
    set_to: float | None = None,
    gene_list: Sequence[str] | None = None,
    top_genes: int = 50,
    by: str | None = None,
    groups: Sequence[str] | None = None,
    most_cells: int | None = 50,
    least_cells: int = 10,
    pool: int = 50,
    permutations: int = 1000,
    keep: str | Path | None = None,
    overwrite: bool = False,
    accelerator: str = "auto",
    seed: int = 0,
    token_budget: int = 16384,
    verbose: bool = True,
    **reading: Any,
) -> WhatIf:
    """Return how far the embedding of cells moves when a gene is taken out of them, or set to a value.

    One gene of one cell is edited at a time, the others keep their values. Exact: each edited cell goes through the
    whole network, on its fast path. That is as many cells as there are edits, so start with few.

    Parameters
    ----------
    model
        A model folder, or a network.
    cells
        Cells with raw counts: a file of any known format, or an AnnData.
    set_to
        log1p(CP10K) that the gene gets, also in cells that do not express it. None: it is taken out of cells that do.
    gene_list
        Which; None: the `top_genes` most variable ones of those that one cell in ten expresses.
    by, groups, least_cells
        Groups of cells, see :func:`~cellfm_torch.gene_tasks.embeddings.run.gene_embeddings`.
    most_cells
        Cells drawn of each group, by `seed`; None: all.
    pool
        Genes drawn in each cell for comparison.
    permutations
        Of the test, see :func:`~cellfm_torch.gene_tasks.whatif.null.permutation_test`.
    keep, overwrite, accelerator, token_budget, verbose, reading
        As in :func:`~cellfm_torch.gene_tasks.embeddings.run.gene_embeddings`.

    Returns
    -------
    WhatIf
        ``table``, a row per group and gene, ``edits``, a row per edit, and ``edit``, what was done.

    Raises
    ------
    UserError
        If a gene is unknown, the value is out of range, or the cells cannot be used.

    Examples
    --------
    >>> found = what_if("CellFM_80M_weight", "cells.h5ad", by="cell_type", gene_list=["SPI1"])  # doctest: +SKIP
    """
    if set_to is not None and not (isinstance(set_to, int | float) and 0 < set_to <= 15):
        raise UserError(
            f"set_to={set_to}: give log1p(CP10K) above 0 and at most 15, or leave it out to remove the gene"
        )
    for name, number in (("pool", pool), ("permutations", permutations), ("top_genes", top_genes)):
        if number < 1:
            raise UserError(f"{name}={number}: must be at least 1")
    value = REMOVED if set_to is None else float(set_to)
    with on_device(model, accelerator) as (network, about):
        symbols, first_id = network.input_spec.genes or (), network.input_spec.first_id
        named = None if gene_list is None else named_genes(network, gene_list)
        given = CellGroups.read(
            cells,
            network,
            by=by,
            groups=groups,
            least_cells=least_cells,
            most_cells=most_cells,
            seed=seed,
            token_budget=1,  # few cells at a time: each becomes many
            verbose=verbose,
            **reading,
        )
        reader = stream(given, lambda _: ExpressionSums(len(symbols), first_id), what="Reading", verbose=verbose)
        sums = added([arrays for _, arrays in reader])
        # Of genes that one cell in ten has, or most are edited in too few cells to be tested.
        often = max(least_cells, int(sums["cells"]) // 10)
        chosen = variable(sums, top_genes, least_cells=often) if named is None else named
        if set_to is None and not (sums["expressed"][chosen] > 0).any():
            raise UserError(f"{given.source['cells']}: no cell expresses any of the genes asked for: nothing to remove")
        others = np.flatnonzero(sums["expressed"] > 0)
        folder = None if keep is None else Path(keep)
        if folder is not None:
            job = {"model": about, **given.source, "by": by, "genes": [symbols[i] for i in chosen], "set_to": set_to}
            job |= {"pool": pool, "seed": seed, "cells_of": {g: len(r) for g, r in given.rows.items()}}
            open_job(folder, job | {"reading": reading}, overwrite=overwrite)
        embed = network.embedder()
        found = dict(
            stream(
                given,
                lambda _: ShiftsOfCells(
                    embed,
                    chosen + first_id,
                    others + first_id,
                    value=value,
                    pool=pool,
                    token_budget=token_budget,
                    seed=seed,
                ),
                keep=folder,
                device=network.static_genes.device,
                what="Editing",
                verbose=verbose,
            )
        )
        names = given.data.obs.index.astype(str).to_numpy()
    annotation, tables, edits = annotate_genes([symbols[i] for i in chosen]), [], []
    for group, arrays in found.items():
        frame = pd.DataFrame(dict(arrays))
        table = permutation_test(frame, chosen + first_id, permutations=permutations, seed=seed)
        table["gene"] = names_of(table["gene"].to_numpy(), symbols, first_id)
        table.insert(0, "group", group)
        tables.append(table)
        frame["asked"] = np.isin(frame["gene"], chosen + first_id)
        frame["gene"] = names_of(frame["gene"].to_numpy(), symbols, first_id)
        frame["cell"] = names[frame["cell"].to_numpy(dtype=np.int64)]
        frame.insert(0, "group", group)
        edits.append(frame)
    table = pd.concat(tables, ignore_index=True)
    for i, name in enumerate(("ensembl_id", "biotype")):
        table.insert(2 + i, name, annotation[name].astype(str).reindex(table["gene"]).to_numpy())
    edit = "remove" if set_to is None else f"set to {set_to:g}"
    return WhatIf(table, pd.concat(edits, ignore_index=True), edit)
