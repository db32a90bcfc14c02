"""A trained predictor comes back from its folder as it was, or it is said what is wrong."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from small_screens import FEW

from cellfm_torch import CellFM, CellFMConfig, GenePerturbation, UserError


@pytest.fixture(scope="module")
def folder(network: CellFM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("perturb_saved") / "model"
    network.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def trained(screen_cells: anndata.AnnData, folder: Path) -> GenePerturbation:
    return GenePerturbation(screen_cells, folder, top_genes=50, control_cells=12).train(**FEW)


@pytest.fixture
def saved(trained: GenePerturbation, tmp_path: Path) -> Path:
    trained.save(tmp_path / "predictor")
    return tmp_path / "predictor"


def asked(screen: GenePerturbation) -> list[str]:
    genes = screen.network.input_spec.genes
    return [genes[0], f"{genes[0]}+{genes[15]}", genes[1], f"{genes[1]}+{genes[2]}+{genes[15]}"]


@pytest.mark.parametrize("method", ["frozen", "lora", "full"])
def test_the_same_predictions(method: str, screen_cells: anndata.AnnData, folder: Path, tmp_path: Path) -> None:
    screen = GenePerturbation(screen_cells, folder, top_genes=50, control_cells=12, coexpression=True)
    screen.train(method=method, lora_rank=2, lr=1e-2, **FEW)
    screen.save(tmp_path / "saved")
    loaded = GenePerturbation.load(tmp_path / "saved")
    assert loaded.screen is None and loaded.genes == screen.genes
    expected, found = (x.predict(asked(screen), screen_cells) for x in (screen, loaded))
    np.testing.assert_allclose(found.X, expected.X, atol=1e-6)
    np.testing.assert_allclose(found.layers["change"], expected.layers["change"], atol=1e-6)
    assert np.abs(found.layers["change"]).mean() > 1e-3
    assert (found.obs == expected.obs).all(axis=None) and found.obs_names.equals(expected.obs_names)
    files = {path.name for path in (tmp_path / "saved").iterdir()}
    more = {"frozen": set(), "lora": {"adapter.safetensors"}, "full": {"model"}}[method]
    assert files == {"predictor.json", "head.safetensors", "history.csv"} | more
    if method != "frozen":  # and the backbone that was given is as it was
        assert screen.predict(asked(screen)).X.shape == loaded.predict(asked(screen), screen_cells).X.shape


def test_what_is_said_of_a_prediction(trained: GenePerturbation, saved: Path, screen_cells: anndata.AnnData) -> None:
    found = GenePerturbation.load(saved).predict(asked(trained), screen_cells)
    assert found.obs["perturbed"].tolist() == [1, 2, 1, 3] and found.obs["seen"].tolist() == [1, 2, 0, 1]
    assert found.obs["measured"].tolist() == [True, True, False, False]
    assert found.X.min() >= 0 and found.uns["perturbation"]["unit"] == "log1p(CP10K)"
    np.testing.assert_allclose(found.X, found.var["control"].to_numpy() + found.layers["change"], atol=1e-5)
    # The control cells alone are the start, whatever else the file holds.
    own = trained.predict(asked(trained))
    np.testing.assert_allclose(found.var["control"], own.var["control"], atol=1e-6)


def test_a_loaded_one_has_no_cells(saved: Path, trained: GenePerturbation) -> None:
    loaded = GenePerturbation.load(saved)
    for call in (loaded.predict, loaded.predict_cells):
        with pytest.raises(UserError, match="was loaded without its cells: give the control cells to start from"):
            call(asked(trained)[0])
    with pytest.raises(UserError, match="loaded without its cells"):
        loaded.train(**FEW)


def test_nothing_is_learned_yet(screen_cells: anndata.AnnData, network: CellFM, tmp_path: Path) -> None:
    screen = GenePerturbation(screen_cells, network)
    for call in (lambda: screen.predict("A"), lambda: screen.save(tmp_path / "x"), lambda: screen.history):
        with pytest.raises(UserError, match="has learned nothing yet|no gene 'A'"):
            call()
    screen.train(**FEW)
    with pytest.raises(UserError, match="the model was not given as a folder: save with include_model=True"):
        screen.save(tmp_path / "x")
    assert not (tmp_path / "x").exists()
    screen.save(tmp_path / "x", include_model=True)
    found = GenePerturbation.load(tmp_path / "x").predict(asked(screen), screen_cells)
    np.testing.assert_allclose(found.X, screen.predict(asked(screen)).X, atol=1e-6)


def test_a_moved_and_a_wrong_model(saved: Path, folder: Path, tmp_path: Path, trained: GenePerturbation) -> None:
    moved, wrong = tmp_path / "moved", tmp_path / "wrong"
    shutil.copytree(folder, moved)
    about = json.loads((saved / "predictor.json").read_text())
    about["model"]["path"] = str(tmp_path / "gone")
    (saved / "predictor.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="gone"):
        GenePerturbation.load(saved)
    assert GenePerturbation.load(saved, model=moved).genes == trained.genes
    config = CellFMConfig.preset("tiny", num_layers=2, dim=32, num_heads=2, num_genes=120)
    CellFM(config, genes=trained.network.genes).save_pretrained(wrong)
    with pytest.raises(UserError, match="wrong is not the model that .* was trained with"):
        GenePerturbation.load(saved, model=wrong)


def test_what_is_no_predictor(tmp_path: Path, folder: Path) -> None:
    for path in (tmp_path / "nothing", folder):
        with pytest.raises(UserError, match="is not a saved predictor: it has no predictor.json; cellfm perturb train"):
            GenePerturbation.load(path)


def broken(path: Path, how: str) -> None:
    about = json.loads((path / "predictor.json").read_text())
    if how == "no json":
        (path / "predictor.json").write_text("{")
    elif how in ("lacks", "format", "width", "heads"):
        change: dict[str, Any] = {"format": 99} if how == "format" else {"width": 128 if how == "width" else "x"}
        change = {"num_heads": 3} if how == "heads" else change
        about = {k: v for k, v in about.items() if k != "trained"} if how == "lacks" else about | change
        (path / "predictor.json").write_text(json.dumps(about))
    elif how == "no head":
        (path / "head.safetensors").unlink()
    elif how == "no history":
        (path / "history.csv").unlink()
    elif how == "cut":
        data = (path / "head.safetensors").read_bytes()
        (path / "head.safetensors").write_bytes(data[: len(data) // 2])
    else:
        tensors = load_file(path / "head.safetensors")
        name = "measured" if how == "lost tensor" else "readout"
        tensors = (
            {k: v for k, v in tensors.items() if k != name}
            if how == "lost tensor"
            else tensors | {name: tensors[name] + 10**6}
        )
        save_file(tensors, path / "head.safetensors")


@pytest.mark.parametrize(
    "how", ["no json", "lacks", "format", "width", "heads", "no head", "no history", "cut", "lost tensor", "far rows"]
)
def test_damaged_folders(saved: Path, how: str) -> None:
    broken(saved, how)
    with pytest.raises(UserError, match="train the predictor again") as caught:
        GenePerturbation.load(saved)
    assert "\n" not in str(caught.value) and str(saved) in str(caught.value)


def test_it_is_not_written_over(saved: Path, trained: GenePerturbation, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        trained.save(saved)
    trained.save(saved, overwrite=True)
    assert GenePerturbation.load(saved).genes == trained.genes
    (saved / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is not a saved predictor \(what is thesis.txt\?\)"):
        trained.save(saved, overwrite=True)
    assert (saved / "thesis.txt").read_text() == "mine" and GenePerturbation.load(saved).genes == trained.genes


def test_nothing_is_pickled(saved: Path) -> None:
    for path in saved.rglob("*"):
        assert path.suffix in (".json", ".safetensors", ".csv")
        assert not zipfile.is_zipfile(path) and not path.read_bytes().startswith(b"\x80")


def test_options_of_reading_in_python_are_kept(screen_cells: anndata.AnnData, folder: Path, tmp_path: Path) -> None:
    from cellfm_torch.data.options import GeneOptions

    adata = screen_cells.copy()
    adata.layers["counts"], adata.X = adata.X.copy(), adata.X * 2
    screen = GenePerturbation(adata, folder, layer="counts", genes=GeneOptions(match="exact"), control_cells=12)
    screen.train(**FEW).save(tmp_path / "saved")
    loaded = GenePerturbation.load(tmp_path / "saved")
    np.testing.assert_allclose(loaded.predict("ACTB", adata).X, screen.predict("ACTB").X, atol=1e-6)
