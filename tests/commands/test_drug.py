"""cellfm drug, as typed: tables, a split and a page; mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import pandas as pd
import pytest
from jobs import answer_of
from line_tables import network, simulated, write

from cellfm_torch import cli
from cellfm_torch.drug import bulk
from cellfm_torch.drug.simulation import simulated_cells

SHORT = ("trainer.max_epochs=2", "fit.hidden=16", "seeds=[0,1]")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Tables of 40 lines, and a model."""
    folder = tmp_path_factory.mktemp("drug")
    network().save_pretrained(folder / "model")
    return write(folder, simulated(40, 300)) | {"model": str(folder / "model")}


def typed(tables: dict[str, Any], *names: str) -> list[str]:
    words = ["drug", "bulk", tables["expression"]]
    for name in names or ("model", "ic50", "smiles", "drugs", "annotation"):
        words += [f"--{name}", tables[name]]
    return words


def test_what_is_left(tables: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "results"
    words = [*typed(tables), "--split", "line", "--results", str(folder), *SHORT]
    found = answer_of(words)
    assert {row["method"] for row in found["scores"]} >= {"drug mean", "ridge on expression"}
    said = capsys.readouterr().err
    assert "40 of 40 lines with IC50 joined" in said and "drug mean + line mean" in said
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("scores.csv", "summary.csv", "per_drug.csv", "predictions.csv", "joined.csv", "split.json", "page.html"),
        "settings.json",
    }
    splits = json.loads((folder / "split.json").read_text())
    predicted = pd.read_csv(folder / "predictions.csv")
    for split in splits:
        tested, learned = set(split["units"]["test"]), set(split["units"]["train"])
        assert tested and not tested & (learned | set(split["units"]["validation"]))
        assert set(predicted.loc[predicted["seed"] == split["seed"], "line"]) == tested
    settings = json.loads((folder / "settings.json").read_text())
    page = (folder / "page.html").read_text()
    assert all(line in page for line in settings["verdicts"]) and settings["epochs"] == {
        f"{name}, seed {seed}": 2 for seed in (0, 1) for name in ("model", "random weights")
    }
    for text in (
        "Held-out IC50",
        "Drug by drug",
        "drug 1",
        "ridge on expression",
        "<svg",
        splits[0]["units"]["test"][0],
    ):
        assert text in page, text
    assert len(pd.read_csv(folder / "joined.csv")) == 40 + 12
    assert cli.main(words) == 2
    assert "holds results already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--split", "lnie"], "split=lnie: choose pair, line, drug, tissue; did you mean 'line'"),
        (["--ic50", "nowhere.csv"], "ic50=nowhere.csv: there is no such file"),
        (["seeds=x"], "seeds=x: must be a whole number"),
        (["fit.lr=0"], "fit.lr=0: must be more than 0"),
        (["accelerator=cudda"], "accelerator=cudda: choose auto, cpu, cuda, gpu, mps; did you mean 'cuda'?"),
        (["share=1.5"], "share=1.5: must be between 0 and 1"),
        (["unit=uM"], "look like ln(uM), where uM is expected: set unit=ln_uM"),
        (["unit=pIC50"], "look like ln(uM), where pIC50 is expected: set unit=ln_uM"),
    ],
)
def test_mistakes_are_one_line(
    more: list[str], message: str, tables: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*typed(tables), "--results", str(tmp_path / "r"), *SHORT, *more]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_tissues_take_an_annotation(tables: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*typed(tables, "model", "ic50"), "--split", "tissue", "--results", str(tmp_path / "r"), *SHORT]
    assert cli.main(words) == 2
    assert "the tissue of no line is known: give annotation=FILE" in capsys.readouterr().err


def test_cells(tables: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = simulated(40, 300)
    simulated_cells(made, 40).write_h5ad(tmp_path / "c.h5ad")
    words = ["drug", "cells", str(tmp_path / "c.h5ad"), "--lines", tables["expression"]]
    for name in ("model", "ic50", "drugs", "annotation"):
        words += [f"--{name}", tables[name]]
    more = ["--response", made.family["GDSC:1"], "--results", str(tmp_path / "r")]
    found = answer_of([*words, "--drug", "1", *more])
    assert len(found["scores"]) > 1 and found["cells"] == str(tmp_path / "r" / "cells.h5ad")
    said = capsys.readouterr().err
    assert "resistant lines; sensitive: lowest third of IC50" in said
    names = {path.name for path in (tmp_path / "r").iterdir()}
    assert names == {"cells.h5ad", "scores.csv", "page.html", "settings.json"}
    obs = anndata.read_h5ad(tmp_path / "r" / "cells.h5ad").obs
    assert obs["drug_sensitivity"].between(0, 1).all() and set(obs["drug_response"]) <= {"sensitive", "resistant"}
    assert len(pd.read_csv(tmp_path / "r" / "scores.csv")) == 4
    page = (tmp_path / "r" / "page.html").read_text()
    assert all(line in page for line in json.loads((tmp_path / "r" / "settings.json").read_text())["verdicts"])
    assert cli.main([*words, "--drug", "nothing", "--results", str(tmp_path / "s")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: drug=nothing: is no drug of the IC50 table") and said.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_ctrl_c_keeps_what_is_done(
    tables: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, fit, calls = tmp_path / "r", bulk.fit, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit(*args)

    monkeypatch.setattr(bulk, "fit", interrupted)
    words = [*typed(tables), "--results", str(folder), *SHORT]
    assert cli.main(words) == 130
    said = capsys.readouterr().err
    assert f"interrupted: what is done is kept in {folder / 'parts'}; the same command goes on" in said
    assert {path.name for path in folder.iterdir()} == {"parts"}
    assert cli.main([*words, "fit.hidden=17"]) == 2
    said = capsys.readouterr().err
    assert "an interrupted job has done that had another fit: give the same options" in said and said.count("\n") == 1
    assert cli.main(words) == 0
    assert len(calls) == 3 + 2 and not (folder / "parts").exists() and (folder / "settings.json").is_file()
