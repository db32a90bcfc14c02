"""Retention maps averaged over cells, against a float64 oracle that writes out every pair."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import networkx
import numpy as np
import pandas as pd
import pytest
import torch
from jobs import answer_of
from one_cell import maps_of, single_cells

from cellfm_torch import CellBatch, CellFM, ScFoundation, ScFoundationConfig, UserError
from cellfm_torch.cli import main
from cellfm_torch.data.gene_sets import read_gmt
from cellfm_torch.gene_tasks.relations import GeneRelations, gene_relations
from cellfm_torch.gene_tasks.relations.score import score_pairs
from cellfm_torch.gene_tasks.relations.sums import MapSums

GENES = ["MALAT1", "B2M", "RPL10", "CD3D", "LYZ", "FTL", "FTH1", "ACTB"]


@pytest.fixture(scope="module")
def found(network: CellFM, adata: anndata.AnnData) -> GeneRelations:
    return gene_relations(network, adata, gene_list=GENES, by_head=True, verbose=False, token_budget=3000)["all"]


def test_equals_the_oracle(found: GeneRelations, network: CellFM, adata: anndata.AnnData) -> None:
    rows = np.array([list(network.genes).index(gene) for gene in GENES])
    total, number, both = np.zeros((2, 2, 8, 8)), np.zeros(8), np.zeros((8, 8))
    cls_total, cls_number = np.zeros((2, 24_078)), np.zeros(24_078)
    for batch in single_cells(adata, network):
        maps = maps_of(batch, network)[0].numpy()
        ids = batch.gene_ids.numpy() - 1
        at = {gene: i for i, gene in enumerate(ids)}
        for i, a in enumerate(rows):
            number[i] += a in at
            for j, b in enumerate(rows):
                if a in at and b in at:
                    total[:, :, i, j] += maps[:, :, 1 + at[a], 1 + at[b]]
                    both[i, j] += 1
        cls_total[:, ids] += maps[:, :, 0, 1:].mean(1) * maps.shape[-1]
        cls_number[ids] += 1
    assert np.array_equal(found.expressed, number) and np.array_equal(found.both, both)
    # float32 products of two layers against float64: 3e-6 of the largest seen, a factor of three kept.
    expected = total / number[:, None]
    assert np.abs(found.shares - expected).max() < 1e-5 * expected.max()
    there = cls_number > 0
    assert list(found.cls.index) == [gene for gene, is_there in zip(network.genes, there, strict=True) if is_there]
    weights = (cls_total[:, there] / cls_number[there]).T
    assert np.abs(found.cls.to_numpy() - weights).max() < 1e-5 * weights.max()


def test_rows_add_up_to_one_over_all_genes_and_prefix(network: CellFM, adata: anndata.AnnData) -> None:
    """Of one cell, all its genes chosen: what is missing to one is what goes to cls."""
    one = adata[[0]].copy()
    (batch,) = list(single_cells(one, network))
    names = [network.genes[i - 1] for i in batch.gene_ids.tolist()]
    found = gene_relations(network, one, gene_list=names, least_cells=1, verbose=False)["all"]
    to_cls = maps_of(batch, network)[0].mean(1)[:, 1:, 0].numpy()
    # A row is a sum of some 700 float32 shares.
    assert np.abs(found.shares[:, 0].sum(-1) + to_cls - 1).max() < 1e-4


def test_mean_of_heads_is_what_is_kept_without_them(
    found: GeneRelations, network: CellFM, adata: anndata.AnnData
) -> None:
    mean = gene_relations(network, adata, gene_list=GENES, verbose=False)["all"]
    assert mean.shares.shape == (2, 1, 8, 8) and found.shares.shape == (2, 2, 8, 8)
    assert np.abs(mean.map() - found.map()).max() < 1e-6 * found.map().max()  # one float32 product or two
    second = gene_relations(network, adata, gene_list=GENES, layers=[2], verbose=False)["all"]
    assert np.array_equal(second.map(), mean.map(2)) and second.layers == (2,)
    with pytest.raises(UserError, match="head=3: there are 1 to 2"):
        found.map(1, 3)
    with pytest.raises(UserError, match="layer=9: there are 1, 2"):
        found.map(9)


def test_edges_and_graph(found: GeneRelations) -> None:
    edges = found.edges(10, least_cells=5)
    assert len(edges) == 10 and edges["strength"].is_monotonic_decreasing and (edges["gene"] != edges["source"]).all()
    first = edges.iloc[0]
    i, j = GENES.index(first["gene"]), GENES.index(first["source"])
    assert first["share"] == found.map()[i, j] and first["cells"] == found.both[i, j] >= 5
    graph = found.graph(10, least_cells=5)
    assert isinstance(graph, networkx.DiGraph) and graph.number_of_edges() == 10
    assert graph[first["source"]][first["gene"]]["weight"] == first["strength"]
    strength = found.strength(least_cells=5)
    counted = np.where(found.both >= 5, 1, 0) - np.eye(8, dtype=int) * (np.diag(found.both) >= 5)
    there = counted.sum(0) > 0
    # A column's mean over the genes that gather from it is what strength is relative to.
    assert np.allclose((strength * counted).sum(0)[there] / counted.sum(0)[there], 1)
    stored = found.to_anndata()
    assert {"retention", "retention_layer1", "retention_layer2_head2", "cells"} <= set(stored.obsp)
    assert np.array_equal(stored.obsp["retention_layer1"], found.map(1).astype(np.float32))


def test_the_most_variable_genes_are_chosen(network: CellFM, adata: anndata.AnnData) -> None:
    """The same genes that analysis.expression ranks first, of those that enough cells express."""
    from cellfm_torch.analysis.expression import variable_genes

    found = gene_relations(network, adata, top_genes=30, least_cells=8, verbose=False)["all"]
    cells = list(single_cells(adata, network))
    dense = np.zeros((len(cells), 24_078))
    for i, batch in enumerate(cells):
        dense[i, batch.gene_ids.numpy() - 1] = batch.values.numpy()
    dense[:, (dense > 0).sum(0) < 8] = 0
    import scipy.sparse as sp

    expected = variable_genes(sp.csr_matrix(dense), 30)
    assert found.genes == tuple(network.genes[i] for i in expected)
    assert (found.expressed >= 8).all()


def test_memory_is_that_of_one_cell(
    network: CellFM, adata: anndata.AnnData, peak_bytes: Callable[[Callable[[], object]], int]
) -> None:
    """Twenty cells at once take what the largest takes, and a few buffers as long as their tokens."""
    batches = [batch for batch in single_cells(adata, network)][:20]
    for batch in batches:
        batch.values = batch.values.float()
    ids, often = np.unique(np.concatenate([batch.gene_ids.numpy() for batch in batches]), return_counts=True)
    sums = MapSums(network, np.sort(ids[np.argsort(-often)[:800]]), layers=[0, 1], by_head=True)
    each = [peak_bytes(lambda batch=batch: sums.add(batch)) for batch in batches]
    together = CellBatch(
        gene_ids=torch.cat([batch.gene_ids for batch in batches]),
        values=torch.cat([batch.values for batch in batches]),
        hidden=torch.cat([batch.hidden for batch in batches]),
        offsets=torch.tensor([0, *(batch.num_genes for batch in batches)]).cumsum(0),
        cell_index=torch.arange(len(batches)),
    )
    # Beside the maps there are the tokens of the batch, 32 numbers wide: 20 cells of some 700.
    tokens = together.num_genes * 32 * 4
    most = peak_bytes(lambda: sums.add(together))
    assert most < max(each) + 22 * tokens < 0.7 * sum(each)  # the sum: all of their maps held together


def test_score_of_planted_sets(tmp_path: Path) -> None:
    """A relation that is the truth scores 1, its opposite the least, chance the share of true pairs."""
    genes = [f"G{i}" for i in range(30)]
    file = tmp_path / "sets.gmt"
    file.write_text("".join(f"S{s}\tx\t" + "\t".join(genes[s * 5 : s * 5 + 5]) + "\n" for s in range(4)))
    sets = read_gmt(file, genes)
    truth = sets.matrix() @ sets.matrix().T.astype(float)
    rng = np.random.default_rng(0)
    table = score_pairs({"truth": truth, "against": -truth, "chance": rng.random((30, 30))}, sets)
    pairs, true = 20 * 19 // 2, 4 * 10
    assert table.attrs == {"pairs": pairs, "true_pairs": true}
    assert table.loc["truth", "aupr"] == 1 and table.loc["truth", "early_precision"] == 1
    assert table.loc["truth", "aupr_ratio"] == pytest.approx(pairs / true)
    assert table.loc["against", "early_precision"] == 0
    assert abs(table.loc["chance", "aupr_ratio"] - 1) < 0.4  # 190 pairs: a guess varies that much
    ties = score_pairs({"all the same": np.zeros((30, 30))}, sets)
    assert ties["early_ratio"].iloc[0] == pytest.approx(1), "of ties the expected share counts"
    one = tmp_path / "one.gmt"
    one.write_text("S\tx\t" + "\t".join(genes) + "\n")
    with pytest.raises(UserError, match="there must be some that do and some that do not"):
        score_pairs({"truth": truth}, read_gmt(one, genes))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gene_list": ["CD3D", "MALATI"]}, "gene_list: the model has no gene 'MALATI'; did you mean 'MALAT1'"),
        ({"gene_list": ["CD3D", "ENSG00000167286"]}, "is there twice, by this name or another"),
        ({"gene_list": ["CD3D"]}, "1 of the genes asked for: relations take two"),
        ({"layers": [3]}, "there is no layer 3; this model has 1 to 2"),
        ({"top_genes": 200_000, "by_head": True, "least_cells": 1}, "lower top_genes, name fewer layers"),
    ],
)
def test_says_what_is_wrong(
    options: dict[str, Any], says: str, network: CellFM, adata: anndata.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellfm_torch.gene_tasks.relations.run.available_memory", lambda: 1e8)
    with pytest.raises(UserError, match=says):
        gene_relations(network, adata, verbose=False, **options)


def test_another_backbone_is_refused(adata: anndata.AnnData) -> None:
    with torch.device("meta"):
        other = ScFoundation(ScFoundationConfig.preset("scfoundation-tiny"))
    with pytest.raises(UserError, match="come from retention maps, which ScFoundation has not"):
        gene_relations(other.to_empty(device="cpu"), adata, verbose=False)


def test_command(folder: Path, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = tmp_path / "sets.gmt"
    sets.write_text("one\tx\tMALAT1\tB2M\tRPL10\ntwo\tx\tLYZ\tFTL\tFTH1\n")
    names = tmp_path / "names.txt"
    names.write_text("\n".join(GENES))
    results = tmp_path / "results"
    arguments = ["genes", "relations", str(cells), "--model", str(folder), "--by", "kind", "--genes", str(names)]
    answer = answer_of([*arguments, "--sets", str(sets), "--results", str(results)])
    assert set(answer["groups"]) == {"a", "b"} and {row["group"] for row in answer["scores"]} == {"a", "b"}
    said = capsys.readouterr().err
    assert "retention, all layers" in said and "retention of random weights" in said and "a: 2" in said
    files = {path.name for path in results.iterdir()}
    assert {"a.h5ad", "b.edges.csv", "a.cls.csv", "b.graphml", "a.png", "a.pdf", "scores.csv", "scores.png"} <= files
    assert "parts" not in files
    scores = pd.read_csv(results / "scores.csv")
    assert set(scores["group"]) == {"a", "b"} and (scores["pairs"] == 15).all() and (scores["true_pairs"] == 6).all()
    assert networkx.read_graphml(results / "b.graphml").number_of_edges() > 5
    assert main([*arguments, "--results", str(results)]) == 2
    assert "holds results already" in capsys.readouterr().err


def test_wrong_gene_sets_are_found_before_the_work(
    folder: Path, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets, results = tmp_path / "mouse.gmt", tmp_path / "results"
    sets.write_text("one\tx\tCd3d\tLyz2\n")
    arguments = ["genes", "relations", str(cells), "--sets", str(sets), "--results", str(results)]
    assert main([*arguments, "--model", str(folder)]) == 2
    assert "none of the genes of its 1 sets is known" in capsys.readouterr().err and not results.exists()
    assert main([*arguments, "--model", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "config.json" in error and error.count("\n") == 1
