"""Scores of the maps of groups, with what they are compared with computed from the same cells.

Shapes: M genes of the maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from anndata import AnnData

from cellfm_torch.data.gene_sets import read_gmt
from cellfm_torch.gene_tasks.cells import CellGroups
from cellfm_torch.gene_tasks.expression import CoExpressionSums, correlation
from cellfm_torch.gene_tasks.genes import named_genes
from cellfm_torch.gene_tasks.network import on_device, retention_only
from cellfm_torch.gene_tasks.relations.compare import compare_relations
from cellfm_torch.gene_tasks.relations.result import GeneRelations
from cellfm_torch.gene_tasks.relations.sums import MapSums
from cellfm_torch.gene_tasks.stream import stream
from cellfm_torch.model.loading import Backbone, untrained


def score_relations(
    model: Backbone | str | Path,
    cells: AnnData | str | Path,
    found: Mapping[str, GeneRelations],
    sets: str | Path,
    *,
    accelerator: str = "auto",
    least_cells: int = 10,
    seed: int = 0,
    **reading: Any,
) -> pd.DataFrame:
    """Score maps against genes that share a set, beside co-expression, embeddings and a network of random weights.

    Parameters
    ----------
    model, cells, accelerator, least_cells, reading
        As they were given to :func:`~cellfm_torch.gene_tasks.relations.run.gene_relations`.
    found
        What it returned.
    sets
        .gmt file.
    seed
        Of the random weights, and of the cells drawn.

    Returns
    -------
    DataFrame with ``group``, ``relation``, ``pairs``, ``true_pairs`` and the scores of
    :func:`~cellfm_torch.gene_tasks.relations.score.score_pairs`; groups whose pairs cannot be scored have no rows.

    Raises
    ------
    UserError
        If the file of sets cannot be used, or no group can be scored.
    """
    first = next(iter(found.values()))
    gene_sets = read_gmt(sets, first.genes)
    with on_device(model, accelerator) as (network, _):
        network = retention_only(network, "gene relations")
        rows = named_genes(network, first.genes)
        ids = rows + network.input_spec.first_id
        static = network.static_genes.detach()[torch.from_numpy(rows)].float().cpu().numpy()
        given = CellGroups.read(cells, network, least_cells=least_cells, seed=seed, verbose=False, **reading)
        num_ids = len(network.gene_emb.weight)
        together = dict(stream(given, lambda _: CoExpressionSums(ids, num_ids), what="Co-expression"))
        blank = retention_only(untrained(network, seed=seed), "gene relations")
        layers = [i - 1 for i in first.layers]
        tables = []
        for group, arrays in stream(
            given,
            lambda _: MapSums(blank, ids, layers=layers, by_head=False),
            device=network.static_genes.device,
            what="Random weights",
        ):
            one = found[group]
            by_chance = GeneRelations.of(group, one.cells, one.genes, one.layers, arrays, one.expressed_by_gene)
            table = compare_relations(
                one,
                gene_sets,
                co_expression=correlation(together[group]),
                static=static,
                random=by_chance.strength(least_cells=least_cells),
                least_cells=least_cells,
            )
            table.insert(0, "group", group)
            tables.append(table.reset_index().assign(**table.attrs))
    return pd.concat(tables, ignore_index=True)
