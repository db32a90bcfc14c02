"""What the models say of the cells of a file: each output, names, depths, and cells that have none.

Shapes: C = 12 cells, G genes of the vocabulary.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from cellfm_torch import (
    CellDataModule,
    CellFM,
    CellFMConfig,
    ScFoundation,
    ScFoundationConfig,
    UserError,
    load_model,
    predict,
)
from cellfm_torch.data.gene_table import BUNDLED, GeneTable
from cellfm_torch.paths import PBMC3K

GENES = 400


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve of the bundled cells, the third without counts."""
    adata = anndata.read_h5ad(PBMC3K)[:12].copy()
    counts = adata.X.tolil()
    counts[2] = 0
    adata.X = counts.tocsr()
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def genes(cells: Path) -> list[str]:
    """Those with most counts."""
    adata = anndata.read_h5ad(cells)
    table = GeneTable.load(BUNDLED)
    known = [table.find(name)[0] >= 0 for name in adata.var_names]
    order = np.argsort(-np.asarray(adata.X.sum(0)).ravel() * np.array(known), kind="stable")[:GENES]
    return sorted(adata.var_names[order])


@pytest.fixture
def network(genes: list[str]) -> ScFoundation:
    torch.manual_seed(0)
    return ScFoundation(ScFoundationConfig.preset("scfoundation-tiny", num_genes=GENES), genes=genes).eval()


def whole(parts: Any) -> pd.DataFrame:
    return pd.concat(pd.DataFrame(x.reshape(len(x), -1), index=names) for names, x in parts)


def test_outputs_of_scfoundation(network: ScFoundation, cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (batch,) = CellDataModule(cells, input_spec=network.input_spec, min_genes=1).predict_dataloader()
    capsys.readouterr()
    with torch.no_grad():
        prediction = network(batch)
        tokens = network.tokens(batch)
        encoded = network.encoder(tokens.x, lengths=tokens.lengths).split(tokens.lengths)
        expected = {
            "cell": prediction.encoding.cell,
            "max": torch.stack([x.amax(0) for x in encoded]),
            "gene": network.gene_embeddings(batch).flatten(1),
            "expression": prediction.expression,
        }
    names = anndata.read_h5ad(cells).obs_names
    network.train()  # dropout would be seen
    for output, x in expected.items():
        with pytest.warns(UserWarning, match=f"1 of 12 cells have no counts .* such as {names[2]}: their rows are NaN"):
            frame = whole(predict(cells, network, output, token_budget=700))
        assert frame.index.tolist() == names.tolist() and frame.isna().all(axis=1).tolist() == [
            i == 2 for i in range(12)
        ]
        # The bar of the project for one cell in other batches, float32.
        assert np.abs(frame.dropna().to_numpy() - x.numpy()).max() < 1e-5 * float(x.abs().mean()), output
        assert "genes: 402 by symbol, 2 duplicated" in " ".join(capsys.readouterr().out.split())
    assert network.training


@pytest.mark.parametrize("rule", ["t4", "t3", "f1", "f2", "a0.5"])
def test_target_depth_is_a_decimal_logarithm(rule: str, network: ScFoundation, cells: Path) -> None:
    """As if the batch had been given 10^T counts, whichever way T was asked for."""
    (batch,) = CellDataModule(cells, input_spec=network.input_spec, min_genes=1).predict_dataloader()
    counts = batch.read_depth[:, 0].double()
    number = float(rule[1:])
    log10_t = {"t": 0 * counts + number, "f": torch.log10(number * counts), "a": torch.log10(counts) + number}[rule[0]]
    batch.read_depth[:, 1] = 10**log10_t
    found = whole(predict(cells, network, target_depth=rule, min_genes=1)).to_numpy()
    with torch.no_grad():
        expected = network.encode(batch).cell.numpy()
    # float32 totals: 6e-8 of themselves.
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).mean()


def test_any_gene_ids(network: ScFoundation, genes: list[str], cells: Path, tmp_path: Path) -> None:
    """Ensembl ids with and without version, in another order, most genes missing: the same rows are found."""
    adata = anndata.read_h5ad(cells)[:, genes[::-1]].copy()
    adata.write_h5ad(tmp_path / "symbols.h5ad")
    table = GeneTable.load(BUNDLED)
    ids = [table.genes[table.find(name)[0]].ensembl[0] for name in adata.var_names]
    adata.var_names = [f"{name}.{i}" if i % 2 else name for i, name in enumerate(ids)]
    adata.write_h5ad(tmp_path / "ids.h5ad")
    by_symbol, by_id = (whole(predict(tmp_path / f"{name}.h5ad", network, min_genes=1)) for name in ("symbols", "ids"))
    np.testing.assert_array_equal(by_symbol, by_id)


def test_every_backbone_has_cell_embeddings(tmp_path: Path, cells: Path) -> None:
    torch.manual_seed(0)
    CellFM(CellFMConfig.preset("tiny", num_layers=2, dim=32, num_heads=1)).save_pretrained(tmp_path / "a")
    ScFoundation(ScFoundationConfig.preset("scfoundation-tiny")).save_pretrained(tmp_path / "b")
    for folder in ("a", "b"):
        model = load_model(tmp_path / folder)
        frame = whole(predict(cells, model, min_genes=1))
        assert frame.shape == (11, model.cell_dim) and np.isfinite(frame.to_numpy()).all()


def test_empty_cells_wherever_they_are(network: ScFoundation, cells: Path, tmp_path: Path) -> None:
    """First, last, between batches: each has its row of NaN; with `min_genes` they have none."""
    adata = anndata.read_h5ad(cells)
    names = adata.obs_names[[2, 0, 2, 1, 2, 2]]
    mixed = adata[[2, 0, 2, 1, 2, 2]].copy()
    mixed.obs_names_make_unique()
    mixed.write_h5ad(tmp_path / "mixed.h5ad")
    with pytest.warns(UserWarning, match="4 of 6 cells have no counts"):
        frame = whole(predict(tmp_path / "mixed.h5ad", network, token_budget=640))
    assert frame.isna().all(axis=1).tolist() == [name == names[0] for name in names]
    np.testing.assert_array_equal(frame.iloc[[1, 3]], whole(predict(tmp_path / "mixed.h5ad", network, min_genes=1)))
    adata[[2]].copy().write_h5ad(tmp_path / "empty.h5ad")
    with pytest.raises(UserError, match="all 1 cells are empty"):
        whole(predict(tmp_path / "empty.h5ad", network))


def test_refusals(network: ScFoundation, cells: Path) -> None:
    for options, says in (
        ({"output": "genes"}, "output 'genes': this ScFoundation has cell, max, gene, expression; did you mean 'gene'"),
        ({"target_depth": "t10000"}, "10000 is a decimal logarithm"),
        ({"counts": "normalised"}, "name the column of obs that holds them with data.totals=COLUMN"),
    ):
        with warnings.catch_warnings(), pytest.raises(UserError, match=says) as caught:
            warnings.simplefilter("error")
            predict(cells, network, **options)  # before anything is read
        assert "\n" not in str(caught.value)
