"""CellAnnotator: each method on few real cells, saved and loaded, and every mistake a user can make."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from cellfm_torch import (
    BackboneFreezer,
    CellAnnotator,
    CellFM,
    CellFMConfig,
    ScFoundation,
    ScFoundationConfig,
    UserError,
)
from cellfm_torch.annotation.methods import METHODS
from cellfm_torch.embedding.cell_sets import shown
from cellfm_torch.model.loading import untrained
from cellfm_torch.paths import PBMC3K

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
TYPES = ("B", "CD14 monocyte", "NK")


def some_cells(start: int, number: int) -> anndata.AnnData:
    """Cells of three types that are easy to tell apart, as many of each."""
    adata = anndata.read_h5ad(PBMC3K)
    rows = [r for t in TYPES for r in np.flatnonzero(adata.obs["cell_type"] == t)[start : start + number]]
    return adata[sorted(rows)].copy()


@pytest.fixture(scope="module")
def reference() -> anndata.AnnData:
    return some_cells(0, 20)


@pytest.fixture(scope="module")
def query() -> anndata.AnnData:
    """New cells; the second has no counts."""
    adata = some_cells(60, 6)
    counts = adata.X.tolil()
    counts[1] = 0
    adata.X = counts.tocsr()
    return adata


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    CellFM(CellFMConfig.preset("tiny", num_layers=1, dim=32, num_heads=1)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=METHODS)
def trained(request: pytest.FixtureRequest, reference: anndata.AnnData, model: Path) -> CellAnnotator:
    epochs = {} if request.param in ("knn", "linear") else {"max_epochs": 8, "lr": 3e-3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        annotator = CellAnnotator(reference, model, method=request.param, token_budget=8192)
        return annotator.train(reject=0.2, val_fraction=0.2, **epochs, **QUIET)


def test_predict(trained: CellAnnotator, query: anndata.AnnData) -> None:
    found = trained.predict(query)
    assert found.index.equals(query.obs_names) and list(found) == ["label", "probability", "runner_up", "unknown"]
    assert list(found["label"].cat.categories) == list(TYPES)
    empty = np.arange(len(found)) == 1
    assert (found["label"].isna() == empty).all() and (found["probability"].isna() == empty).all()
    assert found["unknown"].iloc[1]
    kept = found[~empty]
    assert (kept["label"].astype(str) != kept["runner_up"].astype(str)).all()
    assert (kept["probability"] >= 1 / 3).all() and (kept["probability"] <= 1).all()
    shares = trained.probabilities(query)
    np.testing.assert_allclose(shares[~empty].sum(1), 1, atol=1e-6)  # of a float32 softmax
    np.testing.assert_allclose(shares[~empty].max(1), kept["probability"])
    assert ((kept["probability"] < trained.fitted.rejection.threshold) == kept["unknown"]).all()
    right = kept["label"].astype(str) == query.obs["cell_type"][~empty].astype(str)
    assert trained.score(query)["accuracy"] == pytest.approx(right.mean()) and trained.score(query)["cells"] == 17


def test_it_learns(trained: CellAnnotator, reference: anndata.AnnData) -> None:
    """The cells it was taught, which 32 random features or a trained backbone can hold; a third by chance."""
    if trained.method in ("linear", "full"):
        assert trained.score(reference)["accuracy"] > 0.8


def test_history(trained: CellAnnotator) -> None:
    if trained.method in ("knn", "linear"):
        assert trained.history.empty
    else:
        assert trained.history.index.tolist() == list(range(8))
        assert {"train_loss", "val_loss", "val_accuracy", "val_macro_f1"} <= set(trained.history)
        assert trained.history["train_loss"].iloc[-1] < trained.history["train_loss"].iloc[0]


def test_the_pretrained_weights_stay(trained: CellAnnotator, model: Path) -> None:
    start = CellFM.from_pretrained(model).state_dict()
    assert all(torch.equal(x, start[name]) for name, x in trained.network.state_dict().items())


def test_saved_and_loaded(trained: CellAnnotator, query: anndata.AnnData, tmp_path: Path) -> None:
    folder = tmp_path / "annotator"
    trained.save(folder)
    names = {path.name for path in folder.iterdir()}
    weights = {"knn": {"arrays"}, "linear": {"arrays"}, "frozen": {"heads"}, "lora": {"heads", "adapter"}}
    expected = {f"{name}.safetensors" for name in weights.get(trained.method, {"heads"})}
    assert names == {"annotator.json", "history.csv", *expected, *(["model"] if trained.method == "full" else [])}
    if trained.method == "lora":
        assert sum(path.stat().st_size for path in folder.iterdir()) < 400_000  # 3 MB with the backbone
    loaded = CellAnnotator.load(folder)
    pd.testing.assert_frame_equal(loaded.predict(query), trained.predict(query), check_exact=True)
    pd.testing.assert_frame_equal(loaded.history, trained.history, check_dtype=False, check_column_type=False)
    np.testing.assert_array_equal(loaded.get_latent_representation(query), trained.get_latent_representation(query))
    with pytest.raises(UserError, match="exists already: choose another folder, or save with overwrite=True"):
        trained.save(folder)
    trained.save(folder, overwrite=True, include_model=True)
    assert (folder / "model" / "config.json").is_file()
    moved = folder.rename(tmp_path / "moved")  # with its backbone inside it goes anywhere
    again = CellAnnotator.load(moved)
    (moved / "annotator.json").unlink()  # as a save that was killed leaves it
    again.save(moved, overwrite=True)  # the model it was loaded with is in there
    pd.testing.assert_frame_equal(CellAnnotator.load(moved).predict(query), trained.predict(query))


def test_latent_representation(trained: CellAnnotator, query: anndata.AnnData, model: Path) -> None:
    found = trained.get_latent_representation(query)
    assert found.shape == (18, 32) and np.isnan(found).all(1).tolist() == [i == 1 for i in range(18)]
    assert trained.get_latent_representation().shape == (60, 32)
    plain = CellAnnotator(query, model).get_latent_representation()
    assert np.array_equal(plain, found, equal_nan=True) == (trained.method in ("knn", "linear", "frozen"))


def test_same_seed_same_model(reference: anndata.AnnData, query: anndata.AnnData, model: Path) -> None:
    def one(seed: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.rand(seed + 1)  # what was drawn before is no matter
            annotator = CellAnnotator(reference, model, method="frozen").train(max_epochs=1, seed=seed, **QUIET)
            return annotator.probabilities(query).to_numpy()

    state = torch.random.get_rng_state()
    first = one(3)
    assert np.array_equal(first, one(3), equal_nan=True) and not np.array_equal(first, one(4), equal_nan=True)
    torch.random.set_rng_state(state)


def test_callbacks_of_the_user(reference: anndata.AnnData, model: Path) -> None:
    """The backbone of full fine-tuning is frozen for the first epoch, and so for all of a run of one."""
    start = CellFM.from_pretrained(model).state_dict()
    changed = []
    for epochs in (1, 2):
        freezer = BackboneFreezer("network", unfreeze_at_epoch=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            annotator = CellAnnotator(reference, model, method="full")
            annotator.train(max_epochs=epochs, callbacks=[freezer], **QUIET)
        state = annotator.fitted.model.network.state_dict()  # type: ignore[union-attr]
        changed.append(any(not torch.equal(x, start[name]) for name, x in state.items()))
        assert len(annotator.history) == epochs
    assert changed == [False, True]


def test_scfoundation_as_well(reference: anndata.AnnData, query: anndata.AnnData, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ScFoundation(ScFoundationConfig.preset("scfoundation-tiny")).save_pretrained(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for method in ("knn", "frozen"):
            epochs = {"max_epochs": 1} if method == "frozen" else {}
            annotator = CellAnnotator(reference, tmp_path / "model", method=method).train(**epochs, **QUIET)
            annotator.save(tmp_path / method)
            loaded = CellAnnotator.load(tmp_path / method)
            pd.testing.assert_frame_equal(loaded.predict(query), annotator.predict(query), check_exact=True)
        lora = CellAnnotator(reference, tmp_path / "model", method="lora")
        with pytest.raises(UserError, match="ScFoundation takes no adapters"):
            lora.train(**QUIET)


def test_random_weights_are_new_and_the_given_ones_stay(model: Path) -> None:
    network = CellFM.from_pretrained(model)
    before = {name: x.clone() for name, x in network.state_dict().items()}
    fresh = untrained(network, seed=5)
    assert fresh.config == network.config and fresh.genes == network.genes
    assert not torch.equal(fresh.gene_emb.weight, network.gene_emb.weight)
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())
    assert torch.equal(fresh.gene_emb.weight, untrained(network, seed=5).gene_emb.weight)


def test_labels_map_and_cells_without_label(reference: anndata.AnnData, model: Path, tmp_path: Path) -> None:
    adata = reference.copy()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.iloc[0, adata.obs.columns.get_loc("cell_type")] = None
    table = tmp_path / "map.csv"
    table.write_text("from,to\nB,lymphoid\nNK,lymphoid\n")
    annotator = CellAnnotator(adata, model, method="knn", labels_map=table)
    assert annotator.classes == ("CD14 monocyte", "lymphoid") and (annotator.codes < 0).sum() == 1
    table.write_text("from,to\nB,\n")
    assert CellAnnotator(adata, model, method="knn", labels_map=table).classes == ("CD14 monocyte", "NK")
    for text, says in (
        ("old,new\n", "has no column 'from'"),
        ("from,to\nB,x\nB,y\n", "row 3 names 'B' a second time"),
    ):
        table.write_text(text)
        with pytest.raises(UserError, match=says):
            CellAnnotator(adata, model, labels_map=table)


def test_mistakes(reference: anndata.AnnData, query: anndata.AnnData, model: Path, tmp_path: Path) -> None:
    def refused(says: str, call: Any) -> None:
        with pytest.raises(UserError, match=says) as caught:
            call()
        assert "\n" not in str(caught.value)

    def made(adata: anndata.AnnData = reference, folder: Path = model, **options: Any) -> CellAnnotator:
        return CellAnnotator(adata, folder, **options)

    one = reference[reference.obs["cell_type"] == "B"].copy()
    bare = reference.copy()
    bare.obs["empty"] = ""
    refused("label=cell_typ: no such column in obs .*; did you mean 'cell_type'", lambda: made(label="cell_typ"))
    refused("all labelled cells are 'B'; it takes two types", lambda: made(one))
    refused("label=empty: none of the 60 cells has a label there", lambda: made(bare, label="empty"))
    refused("method=knnn: choose knn, linear, .*did you mean 'knn'", lambda: made(method="knnn"))
    refused("is not a model folder: it has no config.json", lambda: made(folder=tmp_path))
    refused("no such file", lambda: made(tmp_path / "no.h5ad"))
    annotator = made(method="knn")
    refused("has learned nothing yet: call train", lambda: annotator.predict(query))
    refused("reject=1: must be a share", lambda: annotator.train(reject=1))
    refused("class_weights=even: choose balanced", lambda: annotator.train(class_weights="even"))
    annotator.train()
    other = query.copy()
    other.obs["cell_type"] = "x"
    refused("no cell is of a type that the reference has", lambda: annotator.score(other))
    annotator.save(tmp_path / "saved")
    refused("is not a saved annotator", lambda: CellAnnotator.load(model))
    loaded = CellAnnotator.load(tmp_path / "saved")
    refused("was loaded and has no reference", loaded.train)
    refused("was loaded without its reference: give the cells", loaded.predict)
    assert len(CellAnnotator.load(tmp_path / "saved", adata=query).predict()) == 18
    network = CellFM.from_pretrained(model)
    unsaved = CellAnnotator(reference, network, method="knn").train()
    refused("the model was not given as a folder: save with include_model", lambda: unsaved.save(tmp_path / "x"))
    with torch.no_grad():
        network.cls_token += 1
    network.save_pretrained(tmp_path / "changed")
    refused(
        "changed is not the model that .*saved was trained with",
        lambda: CellAnnotator.load(tmp_path / "saved", model=tmp_path / "changed"),
    )
    about = json.loads((tmp_path / "saved" / "annotator.json").read_text())
    del about["classes"]
    (tmp_path / "saved" / "annotator.json").write_text(json.dumps(about))
    refused("annotator.json is damaged", lambda: CellAnnotator.load(tmp_path / "saved"))
    refused("changed: is not a saved annotator", lambda: annotator.save(tmp_path / "changed", overwrite=True))


def test_progress_where_nobody_watches(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(shown([1, 2, 3], "embedding")) == [1, 2, 3]
    assert capsys.readouterr().err == ""  # soon done
    monkeypatch.setattr("cellfm_torch.embedding.cell_sets.PLAIN_SECONDS", 0)
    assert list(shown([1, 2, 3], "embedding")) == [1, 2, 3]
    assert capsys.readouterr().err.splitlines() == ["embedding 1/3 batches", "embedding 2/3 batches"]


def test_a_device_that_there_is_not_is_one_line() -> None:
    network = CellFM(CellFMConfig.preset("tiny", num_layers=1, dim=32, num_heads=1))
    adata = anndata.AnnData(np.ones((4, 3), dtype=np.float32))
    for device in ("cdua", "cuda:7", "meta"):
        with pytest.raises(UserError, match=f"device={device}: "):
            CellAnnotator(adata, model=network, label="cell_type", device=device)
