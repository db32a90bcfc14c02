"""cellfm integrate, as typed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from made_up import make_cells, make_model

from cellfm_torch import cli, embed


@dataclass
class Given:
    cells: Path
    model: Path
    adata: anndata.AnnData


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp("integrate")
    adata = make_cells(folder / "cells.h5ad")
    return Given(folder / "cells.h5ad", make_model(folder / "model", list(adata.var_names)), adata)


def typed(given: Given, *more: str) -> list[str]:
    return ["integrate", str(given.cells), "--batch", "batch", "--model", str(given.model), *more]


def test_zero_shot_without_labels(given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.h5ad"
    assert cli.main(typed(given, "--output", str(output))) == 0
    assert "no scores: they need cell types" in capsys.readouterr().out
    written = anndata.read_h5ad(output)
    before = anndata.read_h5ad(given.cells)
    pd.testing.assert_frame_equal(written.obs[before.obs.columns], before.obs)
    np.testing.assert_array_equal(written.X.toarray(), given.adata.X.toarray())
    expected = embed(given.adata.copy(), given.model, verbose=False)
    np.testing.assert_allclose(written.obsm["X_cellfm"], expected.obsm["X_cellfm"], atol=1e-5)  # float32 sums
    assert written.uns["cellfm"]["model"]["folder"] == str(given.model)
    assert json.loads(written.uns["cellfm_integrate"])["method"] == "zero-shot"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5ad"]


def test_fine_tuned_and_scored(given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.h5ad"
    arguments = ["--label", "cell_type", "--method", "finetune", "--epochs", "2", "--output", str(output)]
    assert cli.main(typed(given, *arguments, "scorer=own", "baselines=[pca]", "optim.lr=1e-3")) == 0
    said = capsys.readouterr().out
    assert "graph connectivity" in said and "held-out loss" in said
    table = pd.read_csv(tmp_path / "out.scores.csv", index_col="method")
    assert list(table.index) == ["CellFM, zero-shot", "CellFM, fine-tuned", "PCA"]
    assert table.loc["PCA", "pcr"] == 0 and ((table >= 0) & (table <= 1)).all(axis=None)
    assert {path.name for path in tmp_path.iterdir()} >= {"out.scores.png", "out.scores.pdf", "out.model"}
    written = anndata.read_h5ad(output)
    before, tuned = (
        embed(given.adata.copy(), folder, verbose=False).obsm["X_cellfm"]
        for folder in (given.model, tmp_path / "out.model")
    )
    np.testing.assert_allclose(written.obsm["X_cellfm"], tuned, atol=1e-5)  # float32 sums
    assert np.abs(tuned - before).max() > 1e-3
    recorded = json.loads(written.uns["cellfm_integrate"])
    assert recorded["recipe"]["task"]["threshold"] == 0.8 and recorded["scores"]["table"]["PCA"]["pcr"] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--batch", "bach"], "batch=bach: cells.h5ad has no such column in obs"),
        (["--batch", "bach"], "did you mean 'batch'?"),
        (["--label", "celltype"], "did you mean 'cell_type'?"),
        (["--batch", "same"], "all cells of cells.h5ad are of 'only'"),
        (["--model", "nowhere"], "nowhere"),
        (["--method", "fine-tune"], "choose zero-shot or finetune"),
        (["--output", "out.csv"], "give a file that ends in .h5ad"),
        (["baselines=[bbknn]"], "baselines: there is no 'bbknn'"),
        (["data.layer=counts", "--label", "cell_type"], "counts"),
        (["task.similarity=genes", "--method", "finetune"], "choose cell or positional"),
    ],
)
def test_mistakes(
    arguments: list[str],
    says: str,
    given: Given,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = given.cells.with_name("same") / "cells.h5ad"
    if not cells.is_file():
        cells.parent.mkdir()
        adata = given.adata.copy()
        adata.obs["same"] = "only"
        adata.write_h5ad(cells)
    base = ["integrate", str(cells), "--batch", "batch", "--model", str(given.model)]
    assert cli.main([*base, *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())
