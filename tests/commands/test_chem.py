"""cellfm chem, as typed: a predictor with its split, scores and a page; predictions as h5ad; mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from jobs import answer_of
from treated_cells import ASPIRIN, ETHANOL, few_cells, network, small_file

from cellfm_torch import cli

SHORT = ("trainer.max_epochs=1", "fit.markers=40", "least_cells=4", "seeds=[0,1]", "share=0.5")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with treated cells, untreated ones, and a model."""
    folder = tmp_path_factory.mktemp("chem")
    small_file().write_h5ad(folder / "treated.h5ad")
    few_cells(5).write_h5ad(folder / "untreated.h5ad")
    network().save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def results(places: Path) -> Path:
    folder = places / "results"
    typed = ["chem", "train", str(places / "treated.h5ad"), "--model", str(places / "model")]
    typed += ["--drug", "drug", "--dose", "dose", "--smiles", "smiles", "--split", "compound"]
    found = answer_of([*typed, "--results", str(folder), *SHORT])
    assert found["results"] == str(folder) and found["predictor"] == str(folder / "predictor")
    assert {row["method"] for row in found["scores"]} >= {"no change", "mean shift"}
    return folder


def test_what_training_leaves(results: Path, places: Path) -> None:
    names = {path.name for path in results.iterdir()}
    assert names == {
        *("split.json", "scores.csv", "summary.csv", "by_condition.csv", "page.html", "settings.json", "predictor")
    }
    splits = json.loads((results / "split.json").read_text())
    assert [split["seed"] for split in splits] == [0, 1]
    scores = pd.read_csv(results / "scores.csv")
    for split in splits:
        tested, learned = ({drug for drug, _, _ in split[name]} for name in ("test", "train"))
        assert tested and learned and not tested & learned
        assert set(scores.loc[scores["seed"] == split["seed"], "drug"]) == tested
    settings = json.loads((results / "settings.json").read_text())
    assert settings["columns"]["smiles"] == "smiles" and settings["version"] and len(settings["verdicts"]) == 6


def test_the_page_says_what_was_found(results: Path) -> None:
    page = (results / "page.html").read_text()
    verdicts = json.loads((results / "settings.json").read_text())["verdicts"]
    assert all(line in page for line in verdicts)
    for words in ("Held-out conditions", "What was held out", "no change", "random weights", "<svg", "aspirin at 10"):
        assert words in page, words
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_predictions_are_written(
    results: Path, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.h5ad"
    typed = ["chem", "predict", "--predictor", str(results / "predictor"), "--output", str(output)]
    cells = ["--cells", str(places / "untreated.h5ad")]
    assert cli.main([*typed, *cells, "--drug", "aspirin", "--dose", "10"]) == 0
    assert "5 control cells under aspirin" in capsys.readouterr().out
    found = anndata.read_h5ad(output)
    assert found.shape == (5, 40) and {"X_cellfm", "X_cellfm_control"} == set(found.obsm)
    assert (found.obs["smiles"] == ASPIRIN).any() or len(found.obs["smiles"].iloc[0]) > 5
    assert cli.main([*typed, *cells, "--drug", "aspirin", "--dose", "10"]) == 2
    assert "exists already" in capsys.readouterr().err
    more = ["--smiles", ETHANOL, "--dose", "500", "--overwrite"]
    assert cli.main([*typed, "--cells", str(places / "treated.h5ad"), *more]) == 0
    said = capsys.readouterr().out
    assert "20 control cells under CCO" in said and "outside of those in training (1 to 10)" in said
    assert np.isfinite(anndata.read_h5ad(output).X).all()


def test_nothing_held_out_and_names_only(places: Path, tmp_path: Path) -> None:
    typed = ["chem", "train", str(places / "treated.h5ad"), "--model", str(places / "model"), "--smiles", "none"]
    assert cli.main([*typed, "--split", "none", "--results", str(tmp_path / "r"), *SHORT]) == 0
    assert "Nothing was held out" in (tmp_path / "r" / "page.html").read_text()
    assert not (tmp_path / "r" / "scores.csv").exists() and (tmp_path / "r" / "predictor" / "chem.json").is_file()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--control", "water"], "no control cells: column drug has none of water (it has DMSO, aspirin, caffeine)"),
        (["--drug", "drgu"], "drug=drgu: no such column in obs"),
        (["--split", "compuond"], "split=compuond: choose compound, dose, context, none; did you mean 'compound'"),
        (["--split", "context"], "there are not two contexts: give by=COLUMN"),
        (["--smiles", "line"], "compound aspirin has several SMILES (A549, K562)"),
        (["seeds=x"], "seeds=x: must be a whole number"),
        (["fit.lr=0"], "fit.lr=0: must be more than 0"),
    ],
)
def test_mistakes_are_one_line(
    more: list[str], message: str, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["chem", "train", str(places / "treated.h5ad"), "--model", str(places / "model")]
    assert cli.main([*typed, "--results", str(tmp_path / "r"), *SHORT, *more]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_smiles_that_do_not_parse(places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adata = small_file(12)
    adata.obs["smiles"] = adata.obs["smiles"].replace(ASPIRIN, "CC(=O")
    adata.write_h5ad(tmp_path / "bad.h5ad")
    assert cli.main(["chem", "train", str(tmp_path / "bad.h5ad"), "--model", str(places / "model")]) == 2
    said = capsys.readouterr().err
    assert "bad.h5ad: smiles: the SMILES of aspirin does not parse (CC(=O): correct it" in said
    assert said.count("\n") == 1


def test_a_prediction_needs_a_compound(
    results: Path, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["chem", "predict", "--cells", str(places / "untreated.h5ad"), "--output", str(tmp_path / "o.h5ad")]
    of = ["--predictor", str(results / "predictor")]
    for more, message in (
        (of, "say which compound: --drug NAME, or --smiles SMILES"),
        ([*of, "--drug", "aspirin"], "dose: give the dose of aspirin"),
        ([*of, "--drug", "asprin", "--dose", "1"], "did you mean 'aspirin'"),
        (["--predictor", str(places), "--drug", "aspirin"], "is not a saved predictor"),
    ):
        assert cli.main([*typed, *more]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "o.h5ad").exists()
