"""cellfm integrate, as typed."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from jobs import answer_of, finished, spawn, wait_for
from made_up import make_cells, make_model
from safetensors.torch import load_file

from cellfm_torch import cli, embed

EPOCHS = 4


@dataclass
class Given:
    cells: Path
    model: Path
    adata: anndata.AnnData


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp("integrate")
    adata = make_cells(folder / "cells.h5ad")
    model = make_model(folder / "model", list(adata.var_names), num_layers=2)  # the first layer has no dropout
    return Given(folder / "cells.h5ad", model, adata)


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
    found = answer_of(typed(given, *arguments, "scorer=own", "baselines=[pca]", "optim.lr=1e-3"))
    assert {row["method"] for row in found["scores"]} == {"CellFM, zero-shot", "CellFM, fine-tuned", "PCA"}
    said = capsys.readouterr().err
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
    assert not (tmp_path / "out.training").exists()
    assert recorded["recipe"]["task"]["threshold"] == 0.8 and recorded["scores"]["table"]["PCA"]["pcr"] == 0


def long_job(given: Given, output: Path, *more: str) -> list[str]:
    # Several epochs, so that runs stop within one and go on across their ends; dropout is on.
    options = ("--method", "finetune", "--epochs", str(EPOCHS), "--output", str(output), "data.token_budget=3000")
    every = ("callbacks.checkpoint.every_n_train_steps=4", "trainer.check_val_every_n_epoch=2")
    return typed(given, *options, *every, *more)


@pytest.fixture(scope="module")
def unbroken(given: Given, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of a fine-tuning that nothing stopped."""
    folder = tmp_path_factory.mktemp("unbroken")
    finished(long_job(given, folder / "out.h5ad"), folder, "cellfm_torch.cli")
    return folder / "out.h5ad"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_run_goes_on_to_the_same_weights(
    number: signal.Signals, unbroken: Path, given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.h5ad"
    process = spawn(long_job(given, output), tmp_path, "cellfm_torch.cli")
    wait_for(tmp_path / "out.training" / "checkpoints" / "last.ckpt", process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), err
    assert (number == signal.SIGKILL) or ("the same command goes on" in out and "Traceback" not in err)
    state = torch.load(tmp_path / "out.training" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] > 0 and state["epoch"] < EPOCHS - 1, "the training ended before the signal came"

    before = sorted(path for path in tmp_path.rglob("*") if path.suffix != ".part")
    assert cli.main(long_job(given, output, "optim.lr=1e-3")) == 2
    said = capsys.readouterr().err
    assert "optim.lr=0.0001 there, 0.001 now" in said and "remove the folder to begin again" in said
    assert said.count("\n") == 1 and str(tmp_path / "out.training") in said
    assert before == sorted(path for path in tmp_path.rglob("*") if path.suffix != ".part")

    assert "going on with what" in finished(long_job(given, output), tmp_path, "cellfm_torch.cli")
    found, expected = (anndata.read_h5ad(path).obsm["X_cellfm"] for path in (output, unbroken))
    np.testing.assert_array_equal(found, expected)
    resumed, whole = (load_file(path.parent / "out.model" / "model.safetensors") for path in (output, unbroken))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert not (tmp_path / "out.training").exists()


def test_a_trained_model_is_not_trained_again(
    given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = typed(given, "--method", "finetune", "--epochs", "1", "--output", str(tmp_path / "out.h5ad"))
    with monkeypatch.context() as stopped_late:

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        stopped_late.setattr("cellfm_torch.commands.cells.write_cells", interrupt)
        assert cli.main(job) == 130
    first = load_file(tmp_path / "out.model" / "model.safetensors")
    capsys.readouterr()
    assert cli.main(job) == 0
    assert "Training" not in capsys.readouterr().out and not (tmp_path / "out.training").exists()
    again = load_file(tmp_path / "out.model" / "model.safetensors")
    assert all(torch.equal(again[name], first[name]) for name in first)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--batch", "bach"], "batch=bach: cells.h5ad has no such column in obs"),
        (["--batch", "bach"], "did you mean 'batch'?"),
        (["--label", "celltype"], "did you mean 'cell_type'?"),
        (["--batch", "same"], "all cells of cells.h5ad are of 'only'"),
        (["--model", "nowhere"], "nowhere"),
        (["--method", "fine-tune"], "choose zero-shot or finetune"),
        (["--output", "out.csv"], "the name must end in .h5ad"),
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
