"""cellfm compare, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from jobs import answer_of
from made_up import NUM_CELLS, make_cells

from cellfm_torch import cli
from cellfm_torch.analysis.comparison import two_conditions
from cellfm_torch.errors import UserError


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells whose embedding is their type and noise; of type B, the stimulated ones are nine in ten."""
    path = tmp_path_factory.mktemp("compare") / "cells.h5ad"
    adata = make_cells(path)
    rng = np.random.default_rng(1)
    codes = adata.obs["cell_type"].astype("category").cat.codes.to_numpy()
    adata.obsm["X_cellfm"] = np.eye(codes.max() + 1, dtype=np.float32)[codes] * 6 + rng.normal(size=(NUM_CELLS, 1))
    adata.obsm["X_cellfm"][3] = np.nan
    adata.obsm["X_cellfm"] = adata.obsm["X_cellfm"].astype(np.float32)
    adata.obs["cellfm_label"] = adata.obs["cell_type"]
    adata.obs["three"] = rng.choice(["a", "b", "c"], NUM_CELLS)
    adata.obs["one"] = "d1"
    adata.write_h5ad(path)
    return path


def typed(cells: Path, *more: str) -> list[str]:
    return ["compare", str(cells), "--condition", "condition", "--donor", "donor", "k=10", *more]


def test_tables_pictures_and_the_file(cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.h5ad"
    found = answer_of(typed(cells, "--output", str(output), "share=0.3"))
    assert found["output"] == str(output) and set(found["hits"]) == {"CellFM", "PCA"}
    said = capsys.readouterr().err
    assert "stim against ctrl, tested over 2 donors, each compared with itself; FDR 0.1" in said
    assert "2 donors bound the power" in said and "CellFM: " in said and "PCA: " in said
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"out.h5ad", "out.umap.png", "out.umap.pdf", "out.groups.csv", "out.neighbourhoods.csv"}
    table = pd.read_csv(tmp_path / "out.neighbourhoods.csv")
    assert set(table["embedding"]) == {"CellFM", "PCA"} and set(table["type"]) - {"mixed"}
    before, after = anndata.read_h5ad(cells), anndata.read_h5ad(output)
    assert set(table["cell"]) <= set(before.obs_names) - {before.obs_names[3]}
    pd.testing.assert_frame_equal(after.obs[before.obs.columns], before.obs)
    assert after.obs["cellfm_enrichment"].iloc[3] == 0 and np.isnan(after.obsm["X_umap_cellfm"][3]).all()
    recorded = json.loads(after.uns["cellfm_compare"])
    assert (recorded["case"], recorded["control"], recorded["paired"]) == ("stim", "ctrl", True)


def test_which_two_conditions() -> None:
    words = np.array(["sick", "Healthy", "sick"], object)
    assert two_conditions(words, None, None, "c") == ("sick", "Healthy")
    assert two_conditions(words, "Healthy", None, "c") == ("Healthy", "sick")
    assert two_conditions(np.array(["b", "a"], object), None, None, "c") == ("b", "a")
    three = np.array(["a", "b", "c"], object)
    assert two_conditions(three, "c", "a", "x") == ("c", "a")
    with pytest.raises(UserError, match="pick them with case=VALUE and control=VALUE"):
        two_conditions(three, "c", None, "x")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--condition", "conditions"], "did you mean 'condition'?"),
        (["--donor", "patient"], "donor=patient: cells.h5ad has no such column"),
        (["--donor", "one"], "all cells are of one donor ('d1')"),
        (
            ["--condition", "three"],
            "has 3 values (a, b, c), two are compared: pick them with case=VALUE and control=VALUE",
        ),
        (["--condition", "one"], "has 1 values (d1)"),
        (["--case", "stin"], "case=stin: no such value in condition (it has ctrl, stim); did you mean 'stim'?"),
        (["--case", "stim", "--control", "stim"], "case and control are both 'stim'"),
        (["--model", "nowhere"], "nowhere"),
        (["--fdr", "0"], "fdr=0: must be between 0 and 1"),
        (["k=500"], "k=500: must be at least 5 and below the number of cells"),
    ],
)
def test_mistakes(
    arguments: list[str],
    says: str,
    cells: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(typed(cells, *arguments)) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_no_embedding(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_cells(tmp_path / "plain.h5ad")
    assert cli.main(typed(tmp_path / "plain.h5ad")) == 2
    said = capsys.readouterr().err
    assert "plain.h5ad has no obsm['X_cellfm']" in said and "--model FOLDER" in said
