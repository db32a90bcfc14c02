"""Modules of genes from contextual embeddings, beside the same from static ones and from PCA loadings.

Shapes: G genes of the vocabulary, M genes clustered, n cells, C modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfm_torch.analysis.columns import column
from cellfm_torch.data.gene_sets import GeneSets, read_gmt
from cellfm_torch.errors import UserError
from cellfm_torch.gene_tasks.embeddings.run import CELLS, CONTEXT
from cellfm_torch.gene_tasks.embeddings.static import STATIC
from cellfm_torch.gene_tasks.embeddings.table import stored_gene_embedding
from cellfm_torch.gene_tasks.modules.activity import group_activity, large_groups, module_activity
from cellfm_torch.gene_tasks.modules.cluster import LEAST_MODULES, Modules, directions, find_modules
from cellfm_torch.gene_tasks.modules.enrichment import COLUMNS, enriched_modules, enrichment
from cellfm_torch.gene_tasks.modules.result import ModulesResult, describe, module_names
from cellfm_torch.gene_tasks.profiles import MOST_CELLS, GeneProfiles
from cellfm_torch.gene_tasks.steps import steps

PCA = "pca"
RESOLUTIONS = (0.5, 1.0, 2.0, 4.0)
ANNDATA = "the AnnData of genes"


def gene_modules(
    embeddings: AnnData,
    cells: AnnData | str | Path | None = None,
    *,
    key: str = CONTEXT,
    sets: str | Path | None = None,
    by: str | None = None,
    least_cells: int = 30,
    least_genes: int = 10,
    least_set: int = 5,
    most_set: int | None = 500,
    resolutions: Sequence[float] = RESOLUTIONS,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    neighbours: int = 15,
    fdr: float = 0.05,
    scale: bool = False,
    baselines: bool = True,
    most_cells: int | None = MOST_CELLS,
    verbose: bool = True,
    source: str = ANNDATA,
    **reading: Any,
) -> ModulesResult:
    """Cluster genes by an embedding, at the resolution at which clusters are most stable.

    Parameters
    ----------
    embeddings
        Genes, as :func:`~cellfm_torch.gene_tasks.embeddings.gene_embeddings` leaves them.
    cells
        Cells with raw counts: for activity, for the baseline on PCA loadings, and where `embeddings` do not say how
        many cells express a gene.
    key
        Which ``obsm`` is clustered.
    sets
        .gmt file that modules are tested against; the background is the genes clustered.
    by
        Column of the cells' ``obs``: activity by group.
    least_cells
        Genes that fewer cells express are left out: their mean says more of single cells than of the gene.
    least_genes
        Of a module; genes of smaller clusters are in none.
    least_set, most_set
        Clustered genes of a set that is tested.
    resolutions, seeds, neighbours
        See :func:`~cellfm_torch.gene_tasks.modules.cluster.find_modules`.
    fdr
        False discovery rate at which a set counts.
    scale
        Bring each dimension of the embeddings to unit variance first. PCA loadings stay as they are: their size says
        how much a component matters.
    baselines
        Do the same with the static embedding and with PCA loadings of the same genes.
    most_cells
        Of more cells so many are drawn, for activity too; None: all, in memory.
    reading
        How `cells` are read: fields of :class:`~cellfm_torch.data.options.ReadOptions`.

    Returns
    -------
    ModulesResult
        ``genes`` (an AnnData with ``obs["module"]``), ``overview()``, ``enrichment``, ``activity`` by group,
        ``comparison`` with the baselines.

    Raises
    ------
    UserError
        If an input cannot be used, or fewer than three modules are found at any resolution.

    Examples
    --------
    >>> genes = gene_embeddings("CellFM_80M_weight", "cells.h5ad")  # doctest: +SKIP
    >>> gene_modules(genes, "cells.h5ad", sets="GO.gmt", by="cell_type").overview()  # doctest: +SKIP
    """
    if not isinstance(embeddings, AnnData):
        raise UserError(
            f"embeddings: give an AnnData of genes, as gene_embeddings returns it, not a {type(embeddings).__name__}"
        )
    _check(resolutions, seeds, neighbours)
    x = stored_gene_embedding(embeddings, key, source)
    profiles = None
    if cells is not None:
        profiles = GeneProfiles.read(cells, list(embeddings.obs_names), most_cells=most_cells, **reading)
    groups = None
    if by is not None:
        if profiles is None:
            raise UserError(f"by={by}: groups of cells take the cells: give them, cells=FILE")
        groups = column(AnnData(obs=profiles.obs), by, "by", profiles.source, gaps=True)
    rows = _expressed(embeddings, x, key, profiles, least_cells, source)
    tested = None
    if sets is not None:
        tested = read_gmt(sets, [str(embeddings.obs_names[i]) for i in rows]).of_size(least_set, most_set)
    short = key.removeprefix("X_")
    features: dict[str, NDArray[Any]] = {key if short == PCA else short: x[rows]}
    if baselines and key != STATIC and STATIC in embeddings.obsm:
        features[STATIC.removeprefix("X_")] = np.asarray(embeddings.obsm[STATIC])[rows]
    if scale:
        features = {name: _scaled(values) for name, values in features.items()}
    if baselines and profiles is not None:
        features[PCA] = profiles.loadings()[rows]
    found: dict[str, Modules] = {}
    total = 2 * len(seeds) * len(resolutions) * len(features)
    with steps(total, "clusterings", show=verbose) as advance:
        for name, values in features.items():

            def say(word: str, name: str = name) -> None:
                advance(f"{name}, {word}")

            found[name] = find_modules(
                values, resolutions=resolutions, seeds=seeds, neighbours=neighbours, least_genes=least_genes, say=say
            )
    own, x = next(iter(found.values())), next(iter(features.values()))
    if own.chosen is None:
        most = int(own.resolutions["modules"].max())
        raise UserError(
            f"{source}: at most {most} modules of {least_genes} genes were found in obsm['{key}'], fewer than "
            f"{LEAST_MODULES}: give higher resolutions than {max(resolutions):g}, or fewer least_genes"
        )
    tables = {name: _table(one, tested, fdr) for name, one in found.items()}
    labels = own.labels[own.chosen]
    names = module_names(labels)
    clustered = embeddings[rows].copy()
    clustered.obs["module"] = names
    clustered.obsp["connectivities"] = own.graph
    settings = {
        "key": key,
        "scale": scale,
        "least_cells": least_cells,
        "neighbours": neighbours,
        "seeds": list(seeds),
        "fdr": fdr,
    }
    clustered.uns["cellfm_modules"] = describe(settings, list(names.categories), own.chosen)
    enriched = pd.DataFrame(columns=COLUMNS) if tested is None else enrichment(labels, tested)
    enriched["module"] = [f"M{number + 1}" for number in enriched["module"]]
    scored = activity = None
    if profiles is not None:
        scores = module_activity(profiles.values[:, rows], labels)
        scored = AnnData(obs=profiles.obs.copy(), obsm={"X_modules": scores}, var=pd.DataFrame(index=[]))
        scored.uns["cellfm_modules"] = clustered.uns["cellfm_modules"]
        if groups is not None:
            there = large_groups(groups)
            activity = group_activity(scores[there], list(groups[there]), list(names.categories))
    resolution_table = pd.concat(tables, names=["features"]).reset_index(level=0).reset_index(drop=True)
    comparison = pd.concat(
        [table[table["resolution"] == found[name].chosen].assign(features=name) for name, table in tables.items()]
    )
    comparison = comparison[["features", *(c for c in comparison if c != "features")]].reset_index(drop=True)
    return ModulesResult(clustered, resolution_table, comparison, enriched, scored, activity, directions(x), key, fdr)


def _check(resolutions: Sequence[float], seeds: Sequence[int], neighbours: int) -> None:
    if not resolutions or min(resolutions) <= 0:
        raise UserError(f"resolutions={list(resolutions)}: give one or more numbers above 0")
    if len(set(seeds)) < 2:
        raise UserError(f"seeds={list(seeds)}: stability takes two or more different ones")
    if neighbours < 3:
        raise UserError(f"neighbours={neighbours}: must be at least 3")


def _expressed(
    genes: AnnData, x: NDArray[Any], key: str, profiles: GeneProfiles | None, least: int, source: str
) -> NDArray[np.int64]:
    """Return the genes with an embedding that enough cells express, (M,)."""
    finite = np.isfinite(x).all(1)
    suffix = key.removeprefix(CONTEXT) if key.startswith(CONTEXT) else ""
    if f"{CELLS}{suffix}" in genes.obs:
        number = genes.obs[f"{CELLS}{suffix}"].to_numpy()
    elif profiles is not None:
        number = profiles.cells_of
    else:
        raise UserError(
            f"{source}: has no obs['{CELLS}{suffix}'], how many cells express a gene: give the cells, cells=FILE"
        )
    rows = np.flatnonzero(finite & (number >= least))
    if len(rows) < 10:
        most = int(number[finite].max(initial=0))
        raise UserError(
            f"{source}: {len(rows) or 'no'} gene{'s' * (len(rows) != 1)} with obsm['{key}'] expressed in "
            f"least_cells={least} cells or more (at most {most:,} cells express one): give more cells, or a smaller "
            "least_cells"
        )
    return rows


def _scaled(x: NDArray[Any]) -> NDArray[np.float64]:
    """Return embeddings with dimensions of unit variance; one that does not vary becomes zeros."""
    centred = np.asarray(x, dtype=np.float64) - np.asarray(x, dtype=np.float64).mean(0)
    spread = centred.std(0)
    return np.asarray(np.where(spread > 1e-9, centred / np.where(spread > 1e-9, spread, 1), 0))


def _table(modules: Modules, sets: GeneSets | None, fdr: float) -> pd.DataFrame:
    """Return the resolutions of an embedding with how many modules have an enriched set."""
    table = modules.resolutions.copy()
    if sets is not None:
        number = [enriched_modules(modules.labels[r], sets, fdr) for r in table["resolution"]]
        table["enriched"] = number
        table["share_enriched"] = np.array(number) / np.maximum(table["modules"], 1)
    return table
