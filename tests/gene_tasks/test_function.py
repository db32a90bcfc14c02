"""cellfm genes function, as typed and as called."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from jobs import answer_of

from cellfm_torch import CellFM, CellFMConfig, ScFoundation, ScFoundationConfig, cli, gene_function
from cellfm_torch.errors import UserError
from cellfm_torch.gene_tasks.function import FunctionResult
from cellfm_torch.gene_tasks.function.labels import Question
from cellfm_torch.tasks.gene_function import GeneFunctionTask, fit_gene_function

TESTED = 90
"""Genes with a label."""


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few cells of few genes, counts without meaning."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("function") / "cells.h5ad"
    counts = rng.poisson(0.5, (40, 120)).astype(np.float32)
    anndata.AnnData(counts, var=pd.DataFrame(index=[f"GENE{i}" for i in range(120)])).write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose embedding has the label of a gene in its first number."""
    torch.manual_seed(0)
    genes = [f"GENE{i}" for i in range(120)]
    network = CellFM(CellFMConfig.preset("tiny", num_layers=1, dim=32, num_heads=1, num_genes=120), genes=genes)
    with torch.no_grad():
        network.gene_emb.weight[1:121, 0] += torch.tensor([1.0 if i % 3 == 0 else -1.0 for i in range(120)])
    folder = tmp_path_factory.mktemp("function") / "model"
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("function") / "labels.csv"
    rows = [f"GENE{i},{'third' if i % 3 == 0 else 'other'}" for i in range(TESTED)]
    path.write_text("\n".join(["gene,label", *rows, "NOGENE,third"]) + "\n")
    return path


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("function") / "sets.gmt"
    named = {"thirds": range(0, 90, 3), "seconds": range(0, 90, 2), "few": range(5)}
    path.write_text("".join(f"{name}\t\t" + "\t".join(f"GENE{i}" for i in of) + "\n" for name, of in named.items()))
    return path


def test_tables_predictions_and_the_picture(
    model: Path, labels: Path, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    typed = ["genes", "function", "--labels", str(labels), "--model", str(model), "--cells", str(cells)]
    typed += ["--results", str(results), "seeds=[0,1]", "folds=3", "training.most_epochs=15"]
    answer = answer_of(typed)
    said = capsys.readouterr().err
    assert "labels (30 third, 60 other; 1 left out), mean ± standard deviation over folds and seeds" in said
    assert "beats the best baseline" in said and str(results) in said
    names = {path.name for path in results.iterdir()}
    tables = {"scores.csv", "summary.csv", "per_term.csv"}
    assert names == tables | {"predictions.h5ad", "settings.json", "scores.png", "scores.pdf"}
    scores = pd.read_csv(results / "scores.csv")
    features = ["static", "expression", "random", "untrained", "pca"]
    assert len(scores) == 2 * 3 * (1 + 3 * len(features))
    assert set(scores["features"]) == {"majority", *features}
    summary = pd.read_csv(results / "summary.csv").set_index(["features", "probe"])
    told = pd.DataFrame(answer["scores"]).set_index(["features", "probe"])
    assert told.loc[("static", "logistic"), "auroc"] == pytest.approx(summary.loc[("static", "logistic"), "auroc"])
    assert (summary.loc["static", "auroc"].drop("mlp") > 0.95).all()
    assert summary.loc[("static", "mlp"), "auroc"] > 0.7  # of 60 genes it learns from 51, and it stops early
    # Thirty positives: three standard deviations of an AUROC without meaning are 0.2.
    assert (summary.loc[features[1:], "auroc"].between(0.3, 0.7)).all()
    assert summary.loc[("majority", "none"), "auroc"] == 0.5
    assert summary.loc[("majority", "none"), "accuracy"] == pytest.approx(2 / 3)
    found = anndata.read_h5ad(results / "predictions.h5ad")
    assert found.n_obs == TESTED and found.obs["labels"].value_counts().to_dict() == {"other": 60, "third": 30}
    right = (found.obs["labels|static|logistic"] > 0.5) == (found.obs["labels"] == "third")
    assert right.mean() > 0.9
    settings = json.loads((results / "settings.json").read_text())
    assert settings["questions"]["labels"] == {"genes": 90, "terms": {"third": 30, "other": 60}, "left_out": 1}
    assert settings["folds"] == 3
    assert cli.main(typed) == 2
    assert "holds results already" in capsys.readouterr().err


def test_no_test_gene_is_learned_from(
    model: Path, labels: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from cellfm_torch.gene_tasks.function import probes

    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def spy(x: np.ndarray, y: np.ndarray, asked: np.ndarray, **_: object) -> np.ndarray:
        seen.append((x, asked))
        return np.full((len(asked), y.shape[1]), 0.5)

    monkeypatch.setitem(probes.PROBES, "knn", spy)
    families = tmp_path / "families.csv"
    families.write_text("gene,family\n" + "".join(f"GENE{i},F{i // 2}\n" for i in range(90)))
    gene_function(
        labels, model, cells=None, probes=["knn"], baselines=[], families=families, folds=3, seeds=[0], verbose=False
    )
    assert len(seen) == 3 and sum(len(asked) for _, asked in seen) == TESTED
    for x, asked in seen:
        assert len(x) + len(asked) == TESTED
        np.testing.assert_allclose(x.mean(0), 0, atol=1e-9)  # of training genes: a mean of sixty numbers
        assert np.abs(asked.mean(0)).max() > 0.01


def test_terms_of_stored_embeddings(sets: Path, model: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 8)).astype(np.float32)
    x[:, 0] = np.where(np.arange(120) % 3 == 0, 2, -2)
    x[12] = np.nan
    genes = anndata.AnnData(obs=pd.DataFrame(index=[f"GENE{i}" for i in range(120)]), obsm={"X_context": x})
    options = {"keys": ["X_context"], "cells": None, "folds": 3, "seeds": [0], "probes": ["logistic", "mlp"]}
    result = gene_function(sets, embeddings=genes, **options, top_terms=2, verbose=False)
    assert result.left_out == (
        "left out: baselines of expression, which take cells=FILE",
        "left out: the untrained network, which takes its folder (--model FOLDER)",
    )
    (question,) = result.questions
    assert question.terms == ("seconds", "thirds") and len(question.rows) == 59  # GENE12 has no embedding
    terms = result.per_term().set_index(["features", "probe", "term"])
    assert terms.loc[("context", "logistic", "thirds"), "auroc"] > 0.95
    assert terms.loc[("context", "logistic", "thirds"), "genes"] == 29
    assert 0.2 < terms.loc[("random", "logistic", "thirds"), "auroc"] < 0.8
    assert {"fmax", "fmax_sd"} <= {*result.summary()}
    found = result.predictions()
    assert found.obsm["sets|context|mlp"].shape == (59, 2) and np.isfinite(found.obsm["sets|context|mlp"]).all()
    np.testing.assert_array_equal(found.obsm["sets"], question.targets)
    (verdict,) = result.verdicts()
    assert verdict.startswith("sets: context by") and "of 3 folds)" in verdict
    again = gene_function(sets, model, embeddings=genes, **options, top_terms=2, verbose=False)
    assert "untrained" in set(again.scores["features"])
    pd.testing.assert_frame_equal(again.per_term().head(6), result.per_term().head(6))


@pytest.mark.parametrize(
    ("ahead", "gain", "word"), [(9, 0.1, "beats"), (6, 0.1, "is not clearly ahead of"), (5, -0.1, "does not beat")]
)
def test_verdicts(ahead: int, gain: float, word: str) -> None:
    question = Question("t", np.arange(3), np.ones((3, 1), dtype=bool), ("a", "b"), True)
    result = FunctionResult(["static"], [question], ["A", "B", "C"])
    for fold in range(10):
        step = gain if gain < 0 else 0
        own = 0.6 + (0.2 if fold < ahead else -0.05) + 2 * step
        for name, value in (("static", own), ("pca", 0.6), ("random", 0.5)):
            which = {"task": "t", "features": name, "probe": "knn", "seed": 0, "fold": fold}
            result.score_rows.append({**which, "auroc": value})
    (verdict,) = result.verdicts()
    assert f" {word} the best baseline, pca by knn 0.600" in verdict


def test_the_untrained_network_is_another_one_for_each_seed(model: Path) -> None:
    from cellfm_torch.gene_tasks.function.features import read_features

    features = read_features(model, None, ["X_static"], None, baselines=["untrained", "random"])
    one, two = features.by_name["untrained"](0), features.by_name["untrained"](1)
    static = features.by_name["static"](0)
    assert one.shape == static.shape == features.by_name["random"](0).shape == (120, 32)
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.1  # of 3,840 numbers: six standard deviations
    np.testing.assert_array_equal(one, features.by_name["untrained"](0))
    # Xavier's of the same table, without what was added to it.
    assert one.std() == pytest.approx(static[:, 1:].std(), rel=0.1)


def test_another_backbone(labels: Path) -> None:
    genes = [f"GENE{i}" for i in range(120)]
    network = ScFoundation(ScFoundationConfig.preset("scfoundation-tiny", num_genes=120), genes=genes).train()
    options = {"probes": ["logistic"], "baselines": ["untrained"], "cells": None, "seeds": [0], "verbose": False}
    result = gene_function(labels, network, **options)
    assert set(result.scores["features"]) == {"static", "untrained"} and network.training
    # Neither has learned anything; thirty positives: three standard deviations are 0.2.
    assert result.summary()["auroc"].between(0.3, 0.7).all()


def test_an_interrupted_training_is_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(GeneFunctionTask, "training_step", interrupted)
    x, y = torch.zeros(20, 4), torch.arange(20)[:, None] % 2 == 0
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit_gene_function(GeneFunctionTask(4, 1), x, y, held_out=torch.arange(20) < 4)
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning has it ignored from then on


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"embeddings": "no.h5ad"}, "embeddings=no.h5ad: there is no such file"),
        ({"keys": ["X_contxt"]}, "no obsm['X_contxt']: there are X_context; did you mean 'X_context'?"),
        ({"probes": ["svm"]}, "probes: there is no 'svm'"),
        ({"baselines": ["expresion"]}, "there is no 'expresion'; did you mean 'expression'?"),
        ({"embeddings": None}, "there is nothing to ask about"),
        ({"embeddings": None, "model": "nowhere"}, "nowhere"),
        ({"folds": 40}, "labels: fewer genes than folds=40 in 'third' (30)"),
        ({"labels": "nothing.csv"}, "nothing.csv: no such file of labelled genes"),
        ({"labels": "foreign.gmt"}, "none of the genes of its 1 sets is known"),
        ({"families": "no.csv"}, "families=no.csv: no such file"),
        ({"seeds": []}, "give at least one seed"),
        ({"training": {"patience": 0}}, "training.patience=0: must be a whole number, at least 1"),
        ({"training": {"epochs": 3}}, "training.epochs: there is no such option; did you mean 'most_epochs'?"),
    ],
)
def test_refusals(
    options: dict[str, object], says: str, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("foreign.gmt").write_text("set\t\tX1\tX2\n")
    x = np.random.default_rng(0).normal(size=(120, 8)).astype(np.float32)
    genes = anndata.AnnData(obs=pd.DataFrame(index=[f"GENE{i}" for i in range(120)]), obsm={"X_context": x})
    given = {"labels": labels, "embeddings": genes, "keys": ["X_context"], "cells": None, **options}
    with pytest.raises(UserError) as caught:
        gene_function(**given, verbose=False)  # type: ignore[arg-type]
    assert says in str(caught.value) and "\n" not in str(caught.value)
