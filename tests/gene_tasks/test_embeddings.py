"""Gene embeddings: the mean over the right cells, whatever the batch; interrupted and gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from one_cell import maps_of, single_cells

from cellfm_torch import CellFM, ScFoundation, ScFoundationConfig, UserError
from cellfm_torch.cli import main
from cellfm_torch.gene_tasks import stream as streaming
from cellfm_torch.gene_tasks.embeddings import gene_embeddings, static_embeddings
from cellfm_torch.gene_tasks.embeddings.contextual import ContextSums
from cellfm_torch.gene_tasks.embeddings.table import embedding_table


def close(found: Any, expected: Any) -> bool:
    # float32 through two layers against float64: 2e-6 of the largest seen, a factor of five kept.
    return bool(np.nanmax(np.abs(found - expected)) < 1e-5 * np.nanmax(np.abs(expected)))


def test_static_embeddings_are_labelled(network: CellFM) -> None:
    genes = static_embeddings(network)
    assert genes.n_obs == 24_078 and genes.obs_names[0] == network.genes[0]
    assert genes.obs.loc["CD3D", "ensembl_id"] == "ENSG00000167286"
    assert genes.obs.loc["CD3D", "biotype"] == "protein_coding" and genes.obs.loc["MALAT1", "biotype"] == "lncRNA"
    row = list(network.genes).index("CD3D")
    assert np.array_equal(genes.obsm["X_static"][row], network.gene_emb.weight[row + 1].detach().numpy())


def test_contextual_is_the_mean_over_the_cells_of_a_group(network: CellFM, adata: anndata.AnnData) -> None:
    found = gene_embeddings(network, adata, by="kind", verbose=False, token_budget=3000)
    assert {key for key in found.obsm if key != "X_static"} == {"X_context_a", "X_context_b"}, "one cell is no group"
    for kind in "ab":
        total, number = np.zeros((24_078, 32)), np.zeros(24_078)
        for batch in single_cells(adata, network):
            if adata.obs["kind"].iloc[int(batch.cell_index[0])] == kind:
                rows = batch.gene_ids.numpy() - 1
                total[rows] += maps_of(batch, network)[1].numpy()
                number[rows] += 1
        assert np.array_equal(found.obs[f"cells_{kind}"], number)
        with np.errstate(invalid="ignore"):
            expected = total / number[:, None]
        assert np.array_equal(np.isnan(found.obsm[f"X_context_{kind}"]), np.isnan(expected))
        assert close(found.obsm[f"X_context_{kind}"], expected)
    made = json.loads(found.uns["cellfm_genes"])
    assert set(made["cells_of"]) == {"a", "b"} and sum(made["cells_of"].values()) == 41  # one cell has no counts


def test_goes_on_where_it_was_interrupted(
    network: CellFM, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in mid-group, with the sums of one batch kept: no cell is lost or counted twice."""
    options: dict[str, Any] = {"verbose": False, "token_budget": 1, "keep": tmp_path / "keep"}
    whole = gene_embeddings(network, cells, verbose=False, token_budget=1)
    monkeypatch.setattr(streaming, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(streaming, "SAVE_SHARE", 1e9)
    add, seen = ContextSums.add, []

    def interrupted(self: ContextSums, batch: Any) -> None:
        seen.extend(batch.cell_index.tolist())
        if len(seen) > 20:
            raise KeyboardInterrupt
        add(self, batch)

    monkeypatch.setattr(ContextSums, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gene_embeddings(network, cells, **options)
    again: list[int] = []
    monkeypatch.setattr(
        ContextSums, "add", lambda self, batch: (again.extend(batch.cell_index.tolist()), add(self, batch))[1]
    )
    resumed = gene_embeddings(network, cells, **options)
    assert again and again[0] > 10 and len(again) < 42, "it began again"
    assert np.array_equal(resumed.obs["cells"], whole.obs["cells"])
    # The cells left are packed into other batches, where float32 products round otherwise: 4e-6 at most.
    assert np.array_equal(np.isnan(resumed.obsm["X_context"]), np.isnan(whole.obsm["X_context"]))
    assert close(resumed.obsm["X_context"], whole.obsm["X_context"])
    with pytest.raises(UserError, match="holds what an interrupted job has done that had another by"):
        gene_embeddings(network, cells, by="kind", **options)
    (tmp_path / "keep" / "000000.npz").write_bytes(b"damaged")
    assert np.array_equal(gene_embeddings(network, cells, **options).obs["cells"], whole.obs["cells"])


def test_memory_does_not_grow_with_cells(network: CellFM, adata: anndata.AnnData) -> None:
    sums = ContextSums(network)
    for batch in list(single_cells(adata, network))[:5]:
        batch.values = batch.values.float()
        sums.add(batch)
        assert {name: x.shape for name, x in sums.arrays().items()} == {"total": (24_078, 32), "cells": (24_078,)}


def test_scfoundation_has_gene_embeddings_too(adata: anndata.AnnData) -> None:
    torch.manual_seed(0)
    config = ScFoundationConfig.preset("scfoundation-tiny")
    network = ScFoundation(config).eval()
    found = gene_embeddings(network, adata[:12].copy(), verbose=False)
    assert found.n_obs == 19_264 and np.isfinite(found.obsm["X_static"]).all()
    known = np.isfinite(found.obsm["X_context"]).all(1)
    assert np.array_equal(known, found.obs["cells"] > 0) and known.sum() > 1000


def test_table(network: CellFM, adata: anndata.AnnData) -> None:
    table = embedding_table(gene_embeddings(network, adata, verbose=False))
    assert set(table["embedding"]) == {"static", "context"} and "e31" in table
    context = table[table["embedding"] == "context"]
    assert len(context) < 24_078 and np.isfinite(context["e0"]).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"by": "kinds"}, "by=kinds: no such column in obs .* did you mean 'kind'?"),
        ({"by": "kind", "groups": ["A"]}, "no group 'A' in obs\\['kind'\\]"),
        ({"by": "kind", "groups": ["rare"]}, "group 'rare' of obs\\['kind'\\] has 1 cell with counts, fewer than 10"),
        ({"by": "kind", "least_cells": 30}, "no group of obs\\['kind'\\] has 30 cells with counts, the largest has 2"),
        ({"accelerator": "tpu"}, "accelerator=tpu: choose auto, cpu"),
    ],
)
def test_says_what_is_wrong(options: dict[str, Any], says: str, network: CellFM, adata: anndata.AnnData) -> None:
    with pytest.raises(UserError, match=says):
        gene_embeddings(network, adata, verbose=False, **options)


def test_command(folder: Path, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, table = tmp_path / "genes.h5ad", tmp_path / "genes.parquet"
    arguments = ["genes", "embed", str(cells), "--model", str(folder), "--output", str(output)]
    assert main([*arguments, "--by", "kind", "--parquet", str(table)]) == 0
    said = capsys.readouterr().out
    assert "left out: 1 of 3 groups, with fewer than 10 cells: rare (1)" in said
    assert f"written: {output}" in said and table.is_file() and not output.with_name("genes.h5ad.parts").exists()
    assert set(anndata.read_h5ad(output).obsm) == {"X_static", "X_context_a", "X_context_b"}
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["genes", "embed", "--model", str(tmp_path / "none"), "--output", str(tmp_path / "x.h5ad")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "none" in error and not (tmp_path / "x.h5ad").exists()
