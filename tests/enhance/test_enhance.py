"""Expression at another read depth: what is asked of the network, what is scored, and against what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from cellfm_torch import CellFM, CellFMConfig, ScFoundation, ScFoundationConfig, UserError, enhance
from cellfm_torch.data.labelled import CellSet
from cellfm_torch.enhance import baselines
from cellfm_torch.enhance.evaluate import downsampled, evaluate, subset
from cellfm_torch.enhance.network import depth_rule
from cellfm_torch.enhance.scores import expression_scores
from cellfm_torch.paths import PBMC3K
from cellfm_torch.report.depth import verdicts


@pytest.fixture(scope="module")
def network() -> CellFM:
    torch.manual_seed(0)
    config = CellFMConfig.preset("tiny", num_layers=2, dim=32, num_heads=2, zeros=True, read_depth=True, max_genes=256)
    made = CellFM(config)
    with torch.no_grad():  # gains and offsets start where they hide mistakes
        for name, p in made.named_parameters():
            if "norm" in name or name.endswith("bias") or "depth" in name:
                p.add_(0.3 * torch.randn_like(p))
    return made.eval()


@pytest.fixture(scope="module")
def adata() -> anndata.AnnData:
    return anndata.read_h5ad(PBMC3K)[:120].copy()


def test_a_layer_at_another_depth_and_embeddings_at_it(network: CellFM, adata: anndata.AnnData) -> None:
    """What the depth is changes what is said; counts and annotations stay as they were."""
    few = adata[:12].copy()
    deep, deeper = (enhance(few, network, target_depth=depth, verbose=False) for depth in (10_000, 100_000))
    assert list(deep.obs_names) == list(few.obs_names)
    assert deep.layers["enhanced"].shape == deep.shape == deep.X.shape
    assert np.isfinite(deep.layers["enhanced"]).all()
    assert (deep.layers["enhanced"] >= 0).all()
    assert np.abs(deep.layers["enhanced"] - deeper.layers["enhanced"]).max() > 1e-3
    assert np.abs(deep.obsm["X_cellfm"] - deeper.obsm["X_cellfm"]).max() > 1e-3
    common = ["CD3D", "LYZ", "NKG7", "MALAT1"]  # genes of one name in the file: no other row is added to theirs
    np.testing.assert_array_equal(deep[:, common].X.toarray(), few[:, common].X.toarray())


def test_a_rule_is_the_same_as_the_counts_it_means(network: CellFM, adata: anndata.AnnData) -> None:
    """T = 10,000 counts, as a number and as the decimal logarithm of scFoundation's rule."""
    few = adata[:5].copy()
    a, b = (enhance(few, network, target_depth=depth, verbose=False) for depth in (10_000, "t4"))
    np.testing.assert_allclose(a.layers["enhanced"], b.layers["enhanced"], atol=1e-5)  # float32 of the same numbers


def test_a_cell_without_counts_is_nan(network: CellFM, adata: anndata.AnnData) -> None:
    few = adata[:4].copy()
    few.X = sp.csr_matrix(few.X.multiply(np.array([[1], [0], [1], [1]])))
    found = enhance(few, network, verbose=False)
    assert np.isnan(found.layers["enhanced"][1]).all()
    assert np.isfinite(found.layers["enhanced"][[0, 2, 3]]).all()


def test_expected_expression_is_probability_times_value(network: CellFM, adata: anndata.AnnData) -> None:
    """Against a plain recomputation, one gene at a time, with the decoders as the network calls them."""
    batch = next(iter(CellSet.read(adata[:3].copy(), network.input_spec).loader()))
    batch.values[::5] = 0  # tokens without counts, as cells with few genes are filled up with
    found = network.outputs()["expression"](batch)
    with torch.no_grad():
        said = network(batch)
        token = int((batch.values > 0).nonzero()[7])
        cell, gene = int(batch.cell_of_gene[token]), int(batch.gene_ids[token])
        own = said.by_gene[token] * said.expressed_by_gene[token]
        by_cell = said.by_cell[token] * said.expressed_by_cell[token]
        assert float(found[cell, gene - 1]) == pytest.approx(max(0.0, float(own + by_cell) / 2), abs=1e-5)  # float32
        # By gene, a token without counts knows that it has none.
        token = int((batch.values == 0).nonzero()[3])
        cell, gene = int(batch.cell_of_gene[token]), int(batch.gene_ids[token])
        by_cell = float(said.by_cell[token] * said.expressed_by_cell[token])
        assert float(found[cell, gene - 1]) == pytest.approx(max(0.0, by_cell), abs=1e-5)
        absent = next(g for g in range(1, 24079) if g not in batch.gene_ids[batch.cell_of_gene == 0].tolist())
        row = network.gene_emb.weight[absent][None]
        value, expressed = network.cell_decoder(row, said.encoding.cell[:1])
        assert float(found[0, absent - 1]) == pytest.approx(max(0.0, float(value * expressed)), abs=1e-5)


def test_the_second_backbone_does_it_too(adata: anndata.AnnData) -> None:
    torch.manual_seed(0)
    network = ScFoundation(ScFoundationConfig.preset("scfoundation-tiny")).eval()
    found = enhance(adata[:3].copy(), network, gene_list=["CD3D", "LYZ"], verbose=False)
    assert list(found.var_names) == ["CD3D", "LYZ"]
    assert np.isfinite(found.layers["enhanced"]).all()


@pytest.mark.parametrize("depth", [-5, 0, "t99", "deep"])
def test_a_depth_that_is_none_is_refused(depth: Any) -> None:
    with pytest.raises(UserError, match="target.depth"):
        depth_rule(depth)


def test_networks_that_cannot_are_refused(adata: anndata.AnnData) -> None:
    plain = CellFM(CellFMConfig.preset("tiny", num_layers=1, dim=32, num_heads=1))
    with pytest.raises(UserError, match="no read-depth tokens"):
        enhance(adata[:2].copy(), plain, verbose=False)
    depth = CellFM(CellFMConfig.preset("tiny", num_layers=1, dim=32, num_heads=1, read_depth=True))
    with pytest.raises(UserError, match="knows expressed genes only"):
        enhance(adata[:2].copy(), depth, verbose=False)


def test_an_unknown_gene_is_named_with_the_nearest(network: CellFM, adata: anndata.AnnData) -> None:
    with pytest.raises(UserError, match="no gene 'CD3DD'; did you mean 'CD3D'"):
        enhance(adata[:2].copy(), network, gene_list=["CD3DD"], verbose=False)


def test_downsampling_keeps_a_share_of_the_counts(network: CellFM, adata: anndata.AnnData) -> None:
    cells = CellSet.read(adata, network.input_spec)
    thin = downsampled(cells, 0.1, seed=0)
    before, after = cells.counts.sum(), thin.counts.sum()
    # Binomial: five standard deviations around the mean.
    assert abs(after - 0.1 * before) < 5 * np.sqrt(before * 0.09)
    assert (cells.counts - thin.counts).min() >= 0
    assert (thin.counts != downsampled(cells, 0.1, seed=1).counts).nnz > 0
    with pytest.raises(UserError, match="above 0 and at most 1"):
        downsampled(cells, -0.1, seed=0)


def test_scores_by_hand() -> None:
    full = np.array([[0, 1, 3], [2, 0, 2]], dtype=np.float32)
    exact = expression_scores(full, full)
    assert exact["mae"] == 0
    assert exact["pearson"] == pytest.approx(1)
    off = expression_scores(full + np.float32(0.5), full)
    assert off["mae"] == pytest.approx(0.5)
    assert off["mae_expressed"] == pytest.approx(0.5)
    assert off["mre_expressed"] == pytest.approx(np.mean([(0.5 / 1 + 0.5 / 3) / 2, (0.25 + 0.25) / 2]))
    assert expression_scores(np.ones_like(full), full)["pearson"] == 0  # says nothing of which genes


def test_neighbours_are_averaged_with_the_cell_itself(adata: anndata.AnnData) -> None:
    """With one neighbour, itself, smoothing changes nothing; with more, cells become alike."""
    counts = sp.csr_matrix(adata.X[:, :5000])
    plain = baselines.as_it_is(counts)
    np.testing.assert_allclose(baselines.mean_of_neighbours(counts, k=2).sum(), plain.sum(), rtol=0.2)
    assert baselines.mean_of_neighbours(counts).std(0).mean() < plain.std(0).mean()
    assert (baselines.pooled_neighbours(counts) > 0).sum() > (plain > 0).sum()


def test_evaluation_scores_cells_that_were_not_their_own_reference(network: CellFM, adata: anndata.AnnData) -> None:
    """Half of the cells are the reference, the others are scored; each way is there for each share and seed."""
    cells = CellSet.read(adata, network.input_spec)
    labels = np.array(adata.obs["cell_type"].astype(str), dtype=object)
    scores = evaluate(network, cells, [0.1, 0.5], labels=labels)
    ways = ["CellFM", "downsampled cell", "neighbours, pooled", "neighbours, mean", "mean of others", "random weights"]
    for share in (0.1, 0.5):
        for seed in (0,):
            part = scores[(scores["share"] == share) & (scores["seed"] == seed)]
            assert set(ways) <= set(part["model"])
            assert part["cells"].max() <= 60
    own = scores[scores["model"] == "downsampled cell"].groupby("share")["pearson"].mean()
    assert own[0.5] > own[0.1] + 0.1  # more counts, nearer to the full cell
    with pytest.raises(UserError, match="too few to score"):
        evaluate(network, subset(cells, np.arange(10)), [0.1])


def test_the_command_writes_a_layer_scores_and_a_page(
    network: CellFM, adata: anndata.AnnData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cellfm_torch.commands.enhance import main

    network.save_pretrained(tmp_path / "model")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    given = [f"cells={tmp_path}/cells.h5ad", f"model_folder={tmp_path}/model", f"output={tmp_path}/out.h5ad"]
    scored = ["downsample=[0.2]", "label=cell_type", f"results={tmp_path}/results"]
    assert main([*given, *scored, "target_depth=5000"]) == 0
    out = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert "enhanced" in out.layers
    assert {path.name for path in (tmp_path / "results").iterdir()} == {
        "scores.csv",
        "scores.png",
        "scores.pdf",
        "page.html",
        "settings.json",
    }
    assert "20% of the counts" in capsys.readouterr().out
    assert main([*given, "target_depth=-3", "overwrite=true"]) == 2
    assert "target_depth=-3: give the counts of a cell" in capsys.readouterr().err


def test_verdicts_name_smoothing_and_what_beats_the_model() -> None:
    rows = [
        ("CellFM", 0.5, 0.9), ("neighbours, pooled", 0.6, 0.7), ("neighbours, mean", 0.7, 0.8),
        ("downsampled cell", 0.8, 0.95), ("full cell", 0.0, 1.0),
    ]  # fmt: skip
    scores = pd.DataFrame(rows, columns=["model", "mae", "pearson"]).assign(share=0.1, seed=0)
    (line,) = verdicts(scores, "CellFM")
    assert line.startswith(
        "10% of the counts: CellFM beats smoothing over neighbours in 2 of 2 scores, and every baseline"
    )
    assert line.endswith("in 1. Another baseline is in r (0.900, downsampled cell 0.950).")
    scores.loc[1, "mae"] = 0.4
    assert "Smoothing is as good or better in MAE (0.500, neighbours, pooled 0.400)." in verdicts(scores, "CellFM")[0]
