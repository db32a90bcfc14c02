"""Weights for cls cell by cell, and what the table says of planted differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from one_cell import maps_of, single_cells

from cellfm_torch import CellFM, UserError
from cellfm_torch.analysis.markers import benjamini_hochberg
from cellfm_torch.cli import main
from cellfm_torch.data.gene_annotation import annotate_genes
from cellfm_torch.gene_tasks.specificity import SpecificGenes, specific_genes
from cellfm_torch.gene_tasks.specificity.result import WEIGHTS, specificity


@pytest.fixture(scope="module")
def found(network: CellFM, adata: anndata.AnnData) -> SpecificGenes:
    return specific_genes(network, adata, by="kind", verbose=False, token_budget=3000)


def test_weights_are_those_of_the_cells(found: SpecificGenes, network: CellFM, adata: anndata.AnnData) -> None:
    assert found.cells.n_obs == 41 and set(found.cells.obs["kind"]) == {"a", "b"}
    for batch in single_cells(adata, network):
        name = adata.obs_names[int(batch.cell_index[0])]
        if name not in found.cells.obs_names:
            continue
        maps = maps_of(batch, network)[0].numpy()
        expected = np.zeros(24_078)
        expected[batch.gene_ids.numpy() - 1] = maps[:, :, 0, 1:].mean((0, 1)) * maps.shape[-1]
        row = found.cells[name]
        # float32 through two layers against float64: 3e-6 of the largest seen.
        assert np.abs(row.layers[WEIGHTS].toarray()[0] - expected).max() < 1e-5 * expected.max()
        assert np.array_equal(row.X.toarray()[0] > 0, expected > 0)
        assert str(row.obs["kind"].iloc[0]) == str(adata.obs.loc[name, "kind"])


def planted() -> tuple[anndata.AnnData, np.ndarray]:
    """Gene 0 has weight in the first group, gene 1 is expressed alike but weighs more there, gene 2 is no different."""
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1], 40)
    values = rng.uniform(1, 2, (80, 4))
    weights = rng.uniform(0.5, 1.5, (80, 4))
    values[codes == 1, 0] = weights[codes == 1, 0] = 0
    weights[codes == 0, 1] += 2
    values[:, 3] = weights[:, 3] = 0
    var = annotate_genes(["CD3D", "MALAT1", "LYZ", "B2M"])
    return anndata.AnnData(sp.csr_matrix(values), var=var, layers={WEIGHTS: sp.csr_matrix(weights)}), codes


def test_table_of_planted_differences() -> None:
    cells, codes = planted()
    table = specificity(cells, codes, ["one", "two"])
    one = table[table["group"] == "one"].set_index("gene")
    assert set(one.index) == {"CD3D", "MALAT1", "LYZ"}, "a gene that no cell expresses is not there"
    assert one.loc["CD3D", "expressing"] == 40
    assert one.loc["CD3D", "auc"] == 1 and np.isnan(one.loc["CD3D", "auc_expressed"])
    assert one.loc["CD3D", "expression_auc"] == 1 and one.loc["CD3D", "share_rest"] == 0
    assert one.loc["MALAT1", "auc"] == one.loc["MALAT1", "auc_expressed"] == 1
    assert 0.3 < one.loc["MALAT1", "expression_auc"] < 0.7 and one.loc["MALAT1", "expression_fdr"] > 0.05
    assert one.loc["LYZ", "fdr"] > 0.05
    assert one.loc["MALAT1", "weight"] == pytest.approx(cells.layers[WEIGHTS][:40, 1].mean())
    assert np.allclose(one["fdr"], benjamini_hochberg(one["p"].to_numpy()))
    two = table[table["group"] == "two"].set_index("gene")
    assert two.loc["MALAT1", "auc"] == 0 and two.loc["CD3D", "auc"] == 0
    found = SpecificGenes(table, cells, "kind")
    assert found.top("one")["gene"].tolist() == ["CD3D", "MALAT1"] and found.top("two").empty
    assert found.top("one", biotype="lncRNA")["gene"].tolist() == ["MALAT1"]
    with pytest.raises(UserError, match="biotype=lncrna: genes here are lncRNA, protein_coding; did you"):
        found.top("one", biotype="lncrna")
    with pytest.raises(UserError, match="group=on: there are one, two"):
        found.top("on")
    assert found.agreement(1).loc["one", "overlap"] == 1


def test_rare_genes_are_not_tested() -> None:
    """One cell of five expresses a gene, and nobody else: the rank test would say 5e-5, Fisher's exact one 0.06."""
    cells, _ = planted()
    codes = np.repeat([0, 1], [5, 75])
    rare = sp.csr_matrix(([1.0], ([0], [3])), shape=cells.shape)
    cells.X, cells.layers[WEIGHTS] = cells.X + rare, cells.layers[WEIGHTS] + rare
    one = specificity(cells, codes, ["one", "two"]).query("group == 'one'").set_index("gene")
    assert np.isnan(one.loc["B2M", ["p", "fdr", "fdr_expressed", "expression_fdr"]].astype(float)).all()
    assert one.loc["B2M", "auc"] > 0.5 and one.loc["B2M", "expressing"] == 1 and np.isfinite(one.loc["LYZ", "fdr"])


def test_labels_that_mean_nothing_find_nothing(found: SpecificGenes) -> None:
    """The groups were drawn at random: at a rate of 5 % hardly a gene is found."""
    assert (found.table["fdr"] <= 0.05).sum() <= 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"by": "kind", "groups": ["a"]}, "'a' is the only group of obs\\['kind'\\]: there is no rest"),
        ({"by": "knd"}, "by=knd: no such column in obs .* did you mean 'kind'?"),
        ({"by": "kind", "layers": [0]}, "there is no layer 0"),
    ],
)
def test_says_what_is_wrong(options: dict[str, Any], says: str, network: CellFM, adata: anndata.AnnData) -> None:
    with pytest.raises(UserError, match=says):
        specific_genes(network, adata, verbose=False, **options)


def test_command(folder: Path, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    arguments = ["genes", "specific", str(cells), "--model", str(folder), "--by", "kind", "--results", str(results)]
    assert main([*arguments, "fdr=1", "most_cells=12"]) == 0
    said = capsys.readouterr().out
    assert "ranks by weight and by expression: Spearman" in said
    assert {"genes.csv", "agreement.csv", "cells.h5ad", "genes.png", "genes.pdf", "settings.json"} == {
        x.name for x in results.iterdir()
    }
    assert anndata.read_h5ad(results / "cells.h5ad").n_obs == 24
    assert set(pd.read_csv(results / "genes.csv")["group"]) == {"a", "b"}
