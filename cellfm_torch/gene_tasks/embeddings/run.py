"""Gene embeddings into an AnnData whose observations are genes.

Shapes: G vocabulary, D width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from cellfm_torch.gene_tasks.cells import ALL, LEAST_CELLS, CellGroups
from cellfm_torch.gene_tasks.embeddings.contextual import ContextSums, mean_of
from cellfm_torch.gene_tasks.embeddings.static import static_embeddings
from cellfm_torch.gene_tasks.network import on_device
from cellfm_torch.gene_tasks.stream import stream
from cellfm_torch.job_folder import open_job
from cellfm_torch.model.loading import Backbone

CONTEXT = "X_context"
"""Key in ``obsm`` of the embedding in the context of all cells; of a group with ``_<group>`` behind it."""

CELLS = "cells"
"""Column of ``obs``: how many cells the mean is over; of a group with ``_<group>`` behind it."""


def gene_embeddings(
    model: Backbone | str | Path,
    cells: AnnData | str | Path | None = None,
    *,
    by: str | None = None,
    groups: Sequence[str] | None = None,
    least_cells: int = LEAST_CELLS,
    most_cells: int | None = None,
    keep: str | Path | None = None,
    overwrite: bool = False,
    accelerator: str = "auto",
    seed: int = 0,
    token_budget: int = 16384,
    verbose: bool = True,
    **reading: Any,
) -> AnnData:
    """Return what a model knows of each gene: its embedding, and its mean encoding in cells.

    A gene's contextual embedding is the mean of its token, as the encoder leaves it, over the cells that express it.
    Cells are seen once and none is kept: memory grows with genes times width, not with cells.

    Parameters
    ----------
    model
        A model folder, or a network.
    cells
        Cells with raw counts, for contextual embeddings: a file of any known format, or an AnnData. None: static ones.
    by
        Column of ``obs``: an embedding for each group of cells rather than for all.
    groups
        Which groups; None: all of at least `least_cells` cells.
    least_cells
        Smaller groups are left out.
    most_cells
        Of larger groups so many cells are drawn, by `seed`.
    keep
        Folder in which sums are kept while it works: the same call goes on after an interruption. Removed at the end.
    overwrite
        Throw away what another job has kept there.
    accelerator
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    token_budget
        Gene tokens per batch.
    verbose
        Say what was read, and show progress.
    reading
        How the file is read: ``layer``, ``counts``, ``genes``, ``stream``; see
        :class:`~cellfm_torch.data.module.CellDataModule`.

    Returns
    -------
    AnnData
        One observation per gene of the vocabulary, without a matrix.

        - ``obs``: ``ensembl_id``, ``biotype``, and ``cells`` or ``cells_<group>``: cells that express the gene;
        - ``obsm["X_static"]``: (G, D), rows of the model's gene embedding;
        - ``obsm["X_context"]``, or ``obsm["X_context_<group>"]``: (G, D), NaN for genes that no cell expresses;
        - ``uns["cellfm_genes"]``: how it was made.

    Raises
    ------
    UserError
        If the model or the cells cannot be used.

    Examples
    --------
    >>> genes = gene_embeddings("CellFM_80M_weight", "cells.h5ad", by="cell_type")  # doctest: +SKIP
    >>> scanpy.pp.neighbors(genes, use_rep="X_static")  # doctest: +SKIP
    """
    with on_device(model, accelerator) as (network, about):
        found = static_embeddings(network)
        made: dict[str, Any] = {"model": about}
        if cells is not None:
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
            folder = None if keep is None else Path(keep)
            made |= {**given.source, "by": by, "cells_of": {group: len(rows) for group, rows in given.rows.items()}}
            if folder is not None:
                open_job(folder, made | {"seed": seed, "reading": reading}, overwrite=overwrite)
            device = network.static_genes.device
            for group, arrays in stream(
                given, lambda _: ContextSums(network), keep=folder, device=device, what="Encoding", verbose=verbose
            ):
                suffix = "" if group == ALL and by is None else f"_{group}"
                found.obsm[f"{CONTEXT}{suffix}"] = mean_of(arrays)
                found.obs[f"{CELLS}{suffix}"] = arrays["cells"].astype(np.int64)
        found.uns["cellfm_genes"] = json.dumps(made, default=str)
    return found
