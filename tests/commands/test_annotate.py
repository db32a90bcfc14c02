"""cellfm annotate, as typed: labels written beside the cells, tables beside baselines, mistakes in one line."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from cellfm_torch import CellAnnotator, CellFM, CellFMConfig, cli, embed
from cellfm_torch.paths import PBMC3K

TYPES = ("B", "CD14 monocyte", "NK")
BASELINES = ["random_weights", "majority", "pca_knn", "gene_logistic"]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a reference of three types in two batches, a query of two and a type of its own, and a model."""
    folder = tmp_path_factory.mktemp("annotate")
    adata = anndata.read_h5ad(PBMC3K)
    where = {name: np.flatnonzero(adata.obs["cell_type"] == name) for name in (*TYPES, "platelet")}
    reference = adata[sorted(row for name in TYPES for row in where[name][:16])].copy()
    reference.obs["batch"] = np.resize(["one", "two"], reference.n_obs)
    reference.write_h5ad(folder / "reference.h5ad")
    names = ("B", "NK", "platelet")
    query = adata[sorted(row for name in names for row in where[name][16:22])].copy()
    query.obs["kind"] = query.obs["cell_type"].map({"B": "b-cell", "NK": "NK", "platelet": "platelet"}).astype(str)
    query.layers["twice"] = query.X * 2
    query.write_h5ad(folder / "query.h5ad")
    (folder / "map.csv").write_text("from,to\nb-cell,B\n")
    torch.manual_seed(0)
    CellFM(CellFMConfig.preset("tiny", num_layers=1, dim=32, num_heads=1)).save_pretrained(folder / "model")
    return folder


def typed(places: Path, results: Path, *more: str) -> list[str]:
    given = ["--reference", str(places / "reference.h5ad"), "--model", str(places / "model")]
    return ["annotate", *given, "--results", str(results), *more]


def with_query(places: Path) -> list[str]:
    return ["--query", str(places / "query.h5ad"), "--query-label", "kind", "--labels-map", str(places / "map.csv")]


def test_query_with_known_types(places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, output = tmp_path / "results", tmp_path / "out.h5ad"
    command = typed(places, results, *with_query(places), "--output", str(output), "seeds=[0,1]", "--method", "linear")
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "linear: logistic regression on embeddings" in said and "gene_logistic" in said

    before, after = anndata.read_h5ad(places / "query.h5ad"), anndata.read_h5ad(output)
    assert after.obs_names.equals(before.obs_names) and (after.layers["twice"] != before.layers["twice"]).nnz == 0
    pd.testing.assert_frame_equal(after.obs[before.obs.columns], before.obs)
    assert after.obsm["X_cellfm"].shape == (18, 32)
    loaded = CellAnnotator.load(results / "annotator")
    found = loaded.predict(before)
    for name in found:
        assert (after.obs[f"cellfm_{name}"].to_numpy() == found[name].to_numpy()).all(), name
    np.testing.assert_array_equal(after.obsm["X_cellfm"], loaded.get_latent_representation(before))
    expected = embed(places / "query.h5ad", places / "model", verbose=False).obsm["X_cellfm"]
    # The bar of the project for one cell in other batches, float32.
    assert np.abs(after.obsm["X_cellfm"] - expected).max() < 1e-5 * np.abs(expected).mean()
    assert after.uns["cellfm_annotate"]["method"] == "linear"
    assert len(after.uns["cellfm"]["model"]["weights_sha256"]) == 64

    scores = pd.read_csv(results / "scores.csv")
    assert list(scores["model"].unique())[:5] == ["linear", *BASELINES]
    assert (scores.groupby("model")["seed"].nunique() == 2).all()
    # Platelets are in no class of the reference: they are not scored, only whether they are called unknown.
    assert (scores["cells"] == 12).all() and (scores["novel_cells"] == 6).all() and (scores["train_cells"] == 48).all()
    of_method = scores[(scores["model"] == "linear") & (scores["seed"] == 0)].iloc[0]
    known = before.obs["kind"] != "platelet"
    right = found["label"].astype(str) == before.obs["cell_type"].astype(str)
    assert of_method["accuracy"] == pytest.approx(right[known].mean(), abs=1e-5)  # six digits are written
    assert of_method["false_rejections"] == pytest.approx(found["unknown"][known].mean(), abs=1e-5)
    assert of_method["novel_rejected"] == pytest.approx(found["unknown"][~known].mean(), abs=1e-5)
    majority = scores[scores["model"] == "majority"]
    assert (majority["accuracy"] == 0.5).all()  # classes of equal size: the first is taken, B, half of the known cells
    confusion = pd.read_csv(results / "confusion.csv").query("model == 'linear' and seed == 0")
    assert confusion["cells"].sum() == 12 and set(confusion["true"]) == {"B", "NK"}
    table = pd.read_csv(results / "per_class.csv").query("model == 'linear' and seed == 0").set_index("cell_type")
    assert table.loc["B", "cells"] == table.loc["NK", "cells"] == 6
    summary = pd.read_csv(results / "summary.csv").set_index("model")
    logistic = scores[scores["model"] == "pca_knn"]["macro_f1"]
    assert summary.loc["pca_knn", "macro_f1"] == pytest.approx(logistic.mean(), abs=1e-5)
    assert summary.loc["random_weights", "accuracy_sd"] == pytest.approx(
        scores[scores["model"] == "random_weights"]["accuracy"].std(), abs=1e-5
    )
    settings = json.loads((results / "settings.json").read_text())
    assert settings["seeds"] == [0, 1] and settings["method"] == "linear" and settings["classes"] == list(TYPES)

    assert cli.main(command) == 2  # nothing of what is there is lost
    assert f"{results}/settings.json: exists already" in capsys.readouterr().err


def test_evaluations_within_the_reference(places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    more = ["--folds", "4", "--leave-out", "batch", "--few-shot", "2,5", "fit.k=3"]
    assert cli.main(typed(places, results, *more)) == 0
    assert "knn: nearest neighbours on embeddings: nothing is trained (zero-shot)" in capsys.readouterr().out
    table = pd.read_csv(results / "scores.csv")
    scores = table.query("model == 'knn'").set_index("evaluation")
    expected = {
        "4-fold": (36, 48),
        "without batch one": (24, 24),
        "without batch two": (24, 24),
        "2 per type": (6, 42),
        "5 per type": (15, 33),
    }
    assert {name: (row["train_cells"], row["cells"]) for name, row in scores.iterrows()} == expected
    # The network has random weights; that cells and labels belong together is seen in the genes. A third by chance.
    genes = table.query("model == 'pca_knn'").set_index("evaluation")["accuracy"]
    assert genes["4-fold"] > 0.8 and genes["without batch one"] > 0.8 and genes["5 per type"] > 0.6
    assert not list(results.glob("*.h5ad")) and not (results / "annotator").exists()


def test_a_head_is_trained(places: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    more = [*with_query(places), "--method", "frozen", "trainer.max_epochs=2", "trainer.accelerator=cpu"]
    assert cli.main(typed(places, results, *more, "baselines=none")) == 0
    assert (results / "annotator" / "heads.safetensors").is_file()
    scores = pd.read_csv(results / "scores.csv")
    assert scores["model"].tolist() == ["frozen"]
    found = CellAnnotator.load(results / "annotator").predict(places / "query.h5ad")
    written = anndata.read_h5ad(results / "query.h5ad").obs  # fitted once: scored and written are the same model
    np.testing.assert_array_equal(written["cellfm_probability"].to_numpy(), found["probability"].to_numpy())


def test_a_query_without_types(places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(typed(places, tmp_path / "r", "--query", str(places / "query.h5ad"))) == 0
    assert "unknown: " in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["annotator", "query.h5ad", "settings.json"]


def test_stopped_while_a_head_is_trained(
    places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning makes an end with exit code 0 of SIGTERM."""
    job = typed(places, tmp_path / "r", "--query", str(places / "query.h5ad"), "--method", "frozen")
    monkeypatch.setattr(
        "cellfm_torch.tasks.annotate.AnnotateTask.training_step", lambda *_: os.kill(os.getpid(), signal.SIGTERM)
    )
    assert cli.main([*job, "trainer.max_epochs=2", "trainer.accelerator=cpu"]) == 143
    assert "stopped by SIGTERM" in capsys.readouterr().err and not (tmp_path / "r" / "query.h5ad").exists()


def test_goes_on_where_it_was_killed(
    places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The labelled cells are written last, so that where they are, all is."""
    results = tmp_path / "r"
    job = typed(places, results, "--query", str(places / "query.h5ad"))
    with monkeypatch.context() as patch:
        patch.setattr("cellfm_torch.commands.cells.write_cells", lambda *_: sys.exit(9))
        with pytest.raises(SystemExit):
            cli.main(job)
    assert not list(results.rglob("*.h5ad"))
    assert cli.main([*job, "fit.k=3"]) == 2
    assert f"{results}/settings.json: exists already" in capsys.readouterr().err
    assert cli.main(job) == 0
    assert (results / "query.h5ad").is_file() and (results / "annotator" / "annotator.json").is_file()
    assert cli.main(job) == 2, "now it is done"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ([], "nothing to do: give a query=FILE to label, or folds, leave_out or few_shot"),
        (["--folds", "4", "--label", "celltype"], "label=celltype: no such column in obs"),
        (["--folds", "17"], "folds=17: 3 types have fewer cells than folds, such as 'B' (16)"),
        (["--folds", "1"], "folds=1: must be at least 2 folds"),
        (["--leave-out", "bach"], "leave_out=bach: no such column in obs"),
        (["--leave-out", "source_file"], "leave_out=source_file: has one value only (reference.h5ad)"),
        (["--few-shot", "16"], "few_shot=16: no cell is left to test on"),
        (["--few-shot", "many"], "few_shot=many: give whole numbers"),
        (["--folds", "4", "--method", "kn"], "method=kn: choose knn"),
        (["--folds", "4", "--model", "nowhere"], "nowhere is not a model folder"),
        (["--folds", "4", "--output", "x.h5ad"], "output=x.h5ad: there is no query to label"),
        (["--folds", "4", "--labels-map", "no.csv"], "labels_map=no.csv: no such file"),
        (["--folds", "4", "fit.reject=2"], "reject=2: must be a share"),
        (["--query", "QUERY", "--query-label", "other"], "query_label=other: reference and query share no type"),
        (["--folds", "4", "baselines=[pca_kn]"], "baselines: there is no 'pca_kn'; did you mean 'pca_knn'"),
        (["--query", "cells.csv"], "query=cells.csv: give an h5ad file"),
        (["--folds", "4", "--query-label", "kind"], "query_label=kind: there is no query"),
    ],
)
def test_mistakes(
    more: list[str],
    says: str,
    places: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "other" in more:
        query = anndata.read_h5ad(places / "query.h5ad")
        query.obs["other"] = "B cell"
        query.write_h5ad(places / "other.h5ad")
    more = [str(places / "other.h5ad") if word == "QUERY" else word for word in more]
    assert cli.main(typed(places, tmp_path / "r", *more)) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: ") and says in said[-1] and sum(line.startswith("error") for line in said) == 1
    assert not list(tmp_path.iterdir())
