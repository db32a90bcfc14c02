"""cellfm perturb train, predict and reverse, as typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from jobs import answer_of
from made_up import make_model

from cellfm_torch import GenePerturbation, ScFoundation, ScFoundationConfig, cli
from cellfm_torch.paths import CROPSEQ
from cellfm_torch.perturbation.gene import evaluate
from cellfm_torch.perturbation.gene.evaluate import BASELINES
from cellfm_torch.perturbation.gene.split_files import load_split

SHORT = ["trainer.max_epochs=2", "trainer.accelerator=cpu", "control_cells=8"]
MODEL = "CellFM"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of the 28 genes of the bundled screen, and a part of its cells."""
    folder = tmp_path_factory.mktemp("perturb")
    adata = anndata.read_h5ad(CROPSEQ)
    make_model(folder / "model", list(adata.var_names))
    adata = adata[np.asarray(adata.X.sum(1)).ravel() > 0]
    words = ["ctrl", *sorted(set(adata.obs["condition"]) - {"ctrl", "MLL2+ctrl", "MLL3+ctrl"})[:12]]
    rows = [row for word in words for row in np.flatnonzero(adata.obs["condition"] == word)[:20]]
    small = adata[rows].copy()
    parts = dict(zip(words[1:], ["test", "test", "val", *["train"] * 9], strict=True))
    small.obs["part"] = small.obs["condition"].astype(str).map(parts)
    small.obs["state"] = np.where(small.obs["condition"] == words[1], "after", "before")
    small.layers["counts"] = small.X.copy()
    small.write_h5ad(folder / "small.h5ad")
    return folder


@pytest.fixture(scope="module")
def trained(places: Path) -> Path:
    """Results of a run on the small screen."""
    found = answer_of(typed(places, places / "trained"))
    assert found["predictor"] == str(places / "trained" / "predictor")
    assert {row["model"] for row in found["scores"]} >= {MODEL, "no change"}
    return places / "trained"


def typed(places: Path, results: Path, *more: str, cells: str = "small.h5ad") -> list[str]:
    given = ["perturb", "train", *([str(places / cells)] if cells else []), "--model", str(places / "model")]
    return [*given, "--results", str(results), *SHORT, *more]


def failed(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run what must be refused; returns its one line."""
    capsys.readouterr()
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: "), said
    return said.removeprefix("error: ").strip()


def test_the_bundled_screen(places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    assert cli.main(typed(places, results, "--seeds", "[0,1]", cells="")) == 0
    said = capsys.readouterr().out
    assert "26 genes read out" in said and "unseen single (7 conditions a seed; mean ± sd over seeds)" in said
    assert all(name in said for name in (MODEL, *BASELINES)) and "Reverse perturbation" in said and "…" not in said
    files = {path.name for path in results.iterdir()}
    tables = {"scores.csv", "summary.csv", "reverse.csv", "predictions.h5ad", "split_0.json", "split_1.json"}
    assert files == tables | {"scores.png", "scores.pdf", "page.html", "settings.json", "predictor"}

    scores = pd.read_csv(results / "scores.csv")
    assert list(dict.fromkeys(scores["model"])) == [MODEL, *BASELINES]
    assert len(scores) == 2 * 7 * 7 and scores["mse"].notna().all()
    assert (scores[scores["model"] == "no change"]["pearson_delta"] == 0).all()
    for seed in (0, 1):
        split = load_split(results / f"split_{seed}.json")
        tested = scores[(scores["seed"] == seed) & (scores["model"] == MODEL)]["condition"]
        assert sorted(tested) == ["+".join(condition) for condition in split.test]
    # Scores are of what is written.
    found = anndata.read_h5ad(results / "predictions.h5ad")
    error = np.square(found.layers["change"] - found.layers["measured_change"]).mean(1)
    of_model = scores[scores["model"] == MODEL].set_index(["condition", "seed"])["mse"]
    expected = of_model.loc[list(zip(found.obs["condition"], found.obs["seed"], strict=True))]
    np.testing.assert_allclose(error, expected, rtol=1e-4)
    settings = json.loads((results / "settings.json").read_text())
    assert settings["seeds"] == "[0,1]" and len(settings["left_out"]) == 2
    page = (results / "page.html").read_text()
    assert "linear on embeddings" in page and ">nan" not in page
    assert len(GenePerturbation.load(results / "predictor").saved.trained) == 27  # type: ignore[union-attr]


def test_predict(places: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, given = tmp_path / "out.h5ad", str(places / "small.h5ad")
    command = ["perturb", "predict", "--cells", given, "--predictor", str(trained / "predictor"), "accelerator=cpu"]
    asked = "APC,TP53,APC+TP53,ARID1A+APC"
    capsys.readouterr()
    assert cli.main([*command, "--genes", asked, "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "APC (measured in training): " in said and "TP53 (not perturbed in training): " in said
    assert "APC+TP53 (1 of its 2 genes" in said and "APC+ARID1A (its genes were perturbed in training): " in said
    assert f"written: {output}, 4 conditions x " in said
    found = anndata.read_h5ad(output)
    assert list(found.obs_names) == ["APC", "TP53", "APC+TP53", "APC+ARID1A"]
    # A list in a file is the same, and so are options of reading that say what is there anyway.
    (tmp_path / "genes.txt").write_text("\n".join(asked.split(",")))
    more = ["--genes", str(tmp_path / "genes.txt"), "data.layer=counts", "genes.column=null"]
    assert cli.main([*command, *more, "--output", str(tmp_path / "again.h5ad")]) == 0
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "again.h5ad").X, found.X)

    cells = tmp_path / "cells.h5ad"
    assert cli.main([*command, "--genes", "APC+TP53", "--single-cells", "--output", str(cells)]) == 0
    single = anndata.read_h5ad(cells)
    adata = anndata.read_h5ad(given)
    control = adata.obs["condition"] == "ctrl"
    assert list(single.obs_names) == list(adata.obs_names[control]) and (single.obs["condition"] == "APC+TP53").all()
    genes = [list(adata.var_names).index(gene) for gene in single.var_names]
    counts = adata.X[control.to_numpy()].toarray()
    expected = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))[:, genes]
    np.testing.assert_allclose(single.layers["control"], expected, rtol=1e-5)  # float32, in the cells' order


def test_reverse(places: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["perturb", "reverse", str(places / "small.h5ad"), "--predictor", str(trained / "predictor")]
    states = ["--by", "state", "--from", "before", "--to", "after", "accelerator=cpu"]
    output = tmp_path / "table.csv"
    capsys.readouterr()
    assert cli.main([*given, *states, "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "before -> after: the best of 12 candidates" in said and f"written: {output}, 12 candidates" in said
    table = pd.read_csv(output)
    assert list(table["rank"]) == list(range(1, 13)) and (np.diff(table["pearson"]) <= 0).all()
    more = ["--candidates", "APC,TP53,BID", "--pairs", "rank_by=mse", "--overwrite", "--output", str(output)]
    assert cli.main([*given, *states, *more]) == 0
    table = pd.read_csv(output)
    assert set(table["condition"]) == {"APC", "TP53", "BID", "APC+TP53", "APC+BID", "BID+TP53"}
    assert (np.diff(table["mse"]) >= 0).all()


def test_goes_on_where_it_was_interrupted(
    places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = typed(
        places, tmp_path / "results", "--seeds", "0,1", "baselines=[random_weights,additive]", "final=false"
    )
    assert cli.main([*command, "results=" + str(tmp_path / "whole")]) == 0
    learned, calls = evaluate._learned, []

    def counted(screen: Any, name: str, seed: int, *rest: Any) -> Any:
        calls.append((seed, name))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return learned(screen, name, seed, *rest)

    monkeypatch.setattr(evaluate, "_learned", counted)
    capsys.readouterr()
    assert cli.main(command) == 130
    assert "interrupted: what is done is kept in" in capsys.readouterr().err
    assert not (tmp_path / "results" / "scores.csv").exists()
    assert "had another top_genes: give the same" in failed([*command, "top_genes=5"], capsys)
    kept = sorted((tmp_path / "results" / "parts").glob("*.npz"))
    assert len(kept) == 2
    kept[0].write_bytes(b"damaged")
    assert cli.main(command) == 0
    assert calls[3:] == [(0, MODEL), (1, MODEL), (1, "random weights")]
    whole, resumed = (pd.read_csv(tmp_path / name / "scores.csv") for name in ("whole", "results"))
    pd.testing.assert_frame_equal(whole, resumed)
    assert not (tmp_path / "results" / "parts").exists() and not (tmp_path / "results" / "predictor").exists()


def test_splits_of_the_user(places: Path, tmp_path: Path) -> None:
    """A column, a JSON and a CSV that say the same; control may be listed, as GEARS does."""
    adata = anndata.read_h5ad(places / "small.h5ad")
    pairs = adata.obs[["condition", "part"]].astype(str).drop_duplicates()
    pairs = pairs[pairs["condition"] != "ctrl"]
    parts = {part: list(rows["condition"]) for part, rows in pairs.groupby("part")}
    (tmp_path / "split.json").write_text(json.dumps(parts | {"train": ["ctrl", *parts["train"]]}))
    pairs.rename(columns={"part": "split"}).to_csv(tmp_path / "split.csv", index=False)
    splits = ["split_column=part", f"split={tmp_path / 'split.json'}", f"split={tmp_path / 'split.csv'}"]
    tables = []
    for i, split in enumerate(splits):
        assert cli.main(typed(places, tmp_path / str(i), split, "baselines=none", "final=false")) == 0
        tables.append(pd.read_csv(tmp_path / str(i) / "scores.csv"))
        found = load_split(tmp_path / str(i) / "split_0.json")
        assert [len(part) for part in (found.train, found.val, found.test)] == [9, 1, 2]
    # Without baselines the model is alone, and nothing is said to be better or worse.
    assert set(tables[0]["model"]) == {MODEL}
    page = (tmp_path / "0" / "page.html").read_text()
    assert "baseline" not in page.lower().replace('"baselines"', "").replace("baselines</td>", "").replace(
        ">baselines<", ""
    )
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])


def test_no_split(places: Path, tmp_path: Path) -> None:
    assert (
        cli.main(typed(places, tmp_path / "all", "split=none", "final=false", "--method", "lora", "fit.lora_rank=2"))
        == 0
    )
    assert {path.name for path in (tmp_path / "all").iterdir()} == {"predictor", "settings.json"}
    loaded = GenePerturbation.load(tmp_path / "all" / "predictor")
    assert loaded.saved is not None and loaded.saved.method == "lora" and len(loaded.history) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--split", "simulatoin"], "a .json or .csv file; did you mean 'simulation'?"),
        (["split=gone.json"], "gone.json: no such file; a split is JSON or CSV"),
        (["split_column=prat"], "split_column=prat: no such column in obs (it has "),
        (["--condition", "conditoin"], "condition=conditoin: no such column in obs of small.h5ad (it has "),
        (["condition=state"], "small.h5ad: obs['state'] has no control cells (it has "),
        (["control=DMSO"], "control=DMSO: no cell has it in small.h5ad: obs['condition']"),
        (["baselines=[additiv]"], "random weights; did you mean 'additive'?"),
        (["--seeds", "-1"], ""),
        (["seeds=[a]"], "seeds=a: must be a whole number"),
        (["--method", "frozne"], "method=frozne: choose frozen, lora, full; did you mean 'frozen'?"),
        (["fit.width=12"], "width=12: must be a multiple of 8"),
        (["top_genes=0"], "top_genes=0: must be at least 1"),
        (["least_cells=100"], "small.h5ad: has 20 control cells with counts, it takes 100: give more"),
        (["trainer.accelerator=tpu"], "accelerator=tpu: choose auto, cpu, cuda, gpu, mps"),
        (["test_share=0.9"], "split: of 12 conditions"),
        (["--sets", "gone.gmt"], "gone.gmt"),
        (["data.layer=raw_counts"], "raw_counts"),
    ],
)  # fmt: skip
def test_mistakes_of_train(
    more: list[str], message: str, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in failed(typed(places, tmp_path / "results", *more), capsys)
    assert not (tmp_path / "results").exists()  # nothing was written


def test_files_are_not_written_over(
    places: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "holds results already" in failed(typed(places, trained), capsys)
    (tmp_path / "out.h5ad").write_text("mine")
    command = ["perturb", "predict", "--cells", str(places / "small.h5ad"), "--predictor", str(trained / "predictor")]
    command += ["--genes", "APC", "--output", str(tmp_path / "out.h5ad")]
    assert "exists already" in failed(command, capsys) and (tmp_path / "out.h5ad").read_text() == "mine"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--genes", "BRCA3"], "genes: the model has no gene 'BRCA3'; did you mean 'BRCA"),
        (["--genes", "APC+"], "genes: 'APC+' is no condition: write GENE+ctrl, A+B or ctrl"),
        (["--genes", "ctrl"], "genes: names no gene to perturb"),
        (["--genes", "APC", "--predictor", "gone"], "gone is not a saved predictor: it has no predictor.json"),
        (["--genes", "APC,TP53", "--single-cells"], "single_cells=true: takes one condition, 2 are asked for"),
        (["--genes", "APC", "--output", "out.csv"], "output=out.csv: the name must end in .h5ad"),
        (["--genes", "gone.txt"], "gone.txt: no such list of genes"),
        ([], "the option gene_list must be given: --genes GENES"),
    ],
)
def test_mistakes_of_predict(
    more: list[str], message: str, places: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["perturb", "predict", "--cells", str(places / "small.h5ad"), "--predictor", str(trained / "predictor")]
    assert message in failed([*command, *more], capsys)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--by", "stat"], "by=stat: no such column in obs (it has "),
        (["--from", "befor"], "start=befor: obs['state'] has before, after; did you mean 'before'?"),
        (["--to", "x"], "target=x: obs['state'] has "),
        (["--to", "before"], "reverse perturbation: the two states are equal"),
        (["rank_by=pearsn"], "rank_by=pearsn: choose pearson or mse; did you mean 'pearson'?"),
        (["--candidates", "BRCA3"], "candidates: the model has no gene 'BRCA3'"),
    ],
)
def test_mistakes_of_reverse(
    more: list[str], message: str, places: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["perturb", "reverse", str(places / "small.h5ad"), "--predictor", str(trained / "predictor")]
    states = ["--by", "state", "--from", "before", "--to", "after", "--output", str(tmp_path / "x.csv")]
    assert message in failed([*command, *states, *more], capsys)
    assert not (tmp_path / "x.csv").exists()


def test_predicted_from_a_file_of_another_study(
    places: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Perturbed cells never pass for control: they are left out, or the file is refused."""
    adata = anndata.read_h5ad(places / "small.h5ad")
    control = adata[adata.obs["condition"] == "ctrl"].copy()
    perturbed = adata[adata.obs["condition"] != "ctrl"].copy()
    for cells in (control, perturbed):
        cells.obs["condition"] = cells.obs["condition"].astype(str)
    study = control.copy()
    study.obs["condition"] = "MCF10A"  # one word that is no gene: of the study, not of a perturbation
    results = {}
    for name, cells in {"control": control, "perturbed": perturbed, "study": study}.items():
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
        results[name] = ["perturb", "predict", "--cells", str(tmp_path / f"{name}.h5ad"), "--genes", "TP53"]
        results[name] += ["--predictor", str(trained / "predictor"), "--output", str(tmp_path / f"{name}_out.h5ad")]
    assert cli.main(results["control"]) == 0 and cli.main(results["study"]) == 0
    one, other = (anndata.read_h5ad(tmp_path / f"{name}_out.h5ad") for name in ("control", "study"))
    np.testing.assert_array_equal(one.X, other.X)
    assert "perturbed.h5ad: obs['condition'] has no control cells" in failed(results["perturbed"], capsys)


def test_what_cannot_be_done_leaves_nothing(places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake that shows when training begins does not stand in the way of the next try."""
    genes = list(anndata.read_h5ad(CROPSEQ).var_names)
    config = ScFoundationConfig.preset("scfoundation-tiny", num_genes=len(genes))
    ScFoundation(config, genes=genes).save_pretrained(tmp_path / "model")
    command = typed(places, tmp_path / "results", f"model_folder={tmp_path / 'model'}", "baselines=none", "final=false")
    assert "takes no adapters: choose method=frozen" in failed([*command, "--method", "lora"], capsys)
    assert not list((tmp_path / "results").iterdir())
    assert cli.main(command) == 0
    assert set(pd.read_csv(tmp_path / "results" / "scores.csv")["model"]) == {"ScFoundation"}
