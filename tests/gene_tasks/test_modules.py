"""Modules of genes: cluster, enrichment, activity; cellfm genes modules, as typed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from jobs import answer_of
from scipy.stats import fisher_exact, hypergeom
from sklearn.metrics import adjusted_rand_score

from cellfm_torch import CellFM, CellFMConfig, cli, gene_modules
from cellfm_torch.analysis.markers import benjamini_hochberg
from cellfm_torch.data.gene_sets import GeneSets
from cellfm_torch.errors import UserError
from cellfm_torch.gene_tasks.modules.activity import group_activity, module_activity
from cellfm_torch.gene_tasks.modules.cluster import find_modules
from cellfm_torch.gene_tasks.modules.enrichment import enriched_modules, enrichment, upper_tail

NUM_GENES, NUM_CELLS, PLANTED = 240, 60, 4
MODULE = np.arange(NUM_GENES) % PLANTED
NAMES = [f"GENE{i}" for i in range(NUM_GENES)]


def made_up_genes() -> anndata.AnnData:
    """Four blobs of genes; one gene without an embedding, one that few cells express."""
    rng = np.random.default_rng(0)
    x = (4 * np.eye(PLANTED, 10)[MODULE] + rng.normal(size=(NUM_GENES, 10))).astype(np.float32)
    x[5] = np.nan
    genes = anndata.AnnData(
        obs=pd.DataFrame({"cells": np.where(np.arange(NUM_GENES) == 7, 2, 40)}, index=NAMES),
        obsm={"X_context": x, "X_static": rng.normal(size=x.shape).astype(np.float32)},
        var=pd.DataFrame(index=[]),
    )
    genes.uns["cellfm_genes"] = "{}"
    return genes


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with genes.h5ad, cells.h5ad, sets.gmt."""
    folder = tmp_path_factory.mktemp("modules")
    made_up_genes().write_h5ad(folder / "genes.h5ad")
    rng = np.random.default_rng(1)
    kind = np.arange(NUM_CELLS) % PLANTED
    counts = rng.poisson(np.where(kind[:, None] == MODULE, 6.0, 1.0)).astype(np.float32)
    obs = pd.DataFrame({"kind": [f"T{k}" for k in kind]}, index=[f"c{i}" for i in range(NUM_CELLS)])
    anndata.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=NAMES)).write_h5ad(folder / "cells.h5ad")
    sets = {
        "first": [f"GENE{i}" for i in range(0, 120, 4)],
        "second": [f"GENE{i}" for i in range(1, 120, 4)],
        "any": [f"GENE{i}" for i in range(30)],
        "tiny": ["GENE1", "GENE2"],
    }
    (folder / "sets.gmt").write_text("".join(f"{name}\t\t" + "\t".join(of) + "\n" for name, of in sets.items()))
    return folder


def test_planted_modules_are_found_and_noise_is_not_stable() -> None:
    rng = np.random.default_rng(0)
    planted = 4 * np.eye(PLANTED, 10)[MODULE] + rng.normal(size=(NUM_GENES, 10))
    options: dict[str, Any] = {"resolutions": [0.2, 1.0, 3.0], "seeds": [0, 1, 2]}
    found = find_modules(planted, **options)
    labels = found.labels[found.chosen]  # type: ignore[index]
    # Blobs four standard deviations from each other: all but a few genes.
    assert found.resolutions.set_index("resolution").loc[found.chosen, "modules"] == PLANTED
    assert np.mean([np.bincount(MODULE[labels == k]).max() for k in range(PLANTED)]) > 0.95 * NUM_GENES / PLANTED
    best = found.resolutions["stability"].max()
    noise = find_modules(rng.normal(size=(NUM_GENES, 10)), **options)
    own = noise.resolutions.set_index("resolution")["stability"]
    assert best > 0.9 and noise.chosen is not None and own[noise.chosen] < best - 0.3
    again = find_modules(planted, **options)
    pd.testing.assert_frame_equal(found.resolutions, again.resolutions)
    np.testing.assert_array_equal(labels, again.labels[again.chosen])  # type: ignore[index]


def test_small_clusters_are_no_modules() -> None:
    rng = np.random.default_rng(0)
    x = np.vstack([10 * np.eye(4)[i] + 0.1 * rng.normal(size=(n, 4)) for i, n in enumerate((60, 40, 30, 8))])
    found = find_modules(x, resolutions=[0.5], seeds=[0, 1], neighbours=6, least_genes=20)
    labels = found.labels[0.5]
    assert (labels[130:] == -1).all() and found.resolutions["genes"][0] == (labels >= 0).sum()


def test_enrichment_is_fishers_exact_test() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 3, 200)
    members = {f"s{i}": np.flatnonzero(rng.random(200) < 0.2) for i in range(5)}
    members["planted"] = np.flatnonzero(labels == 1)[:20]
    sets = GeneSets(tuple(f"G{i}" for i in range(200)), members, {name: 1 for name in members})
    table = enrichment(labels, sets, least_overlap=0)
    assert len(table) == 3 * 6
    for row in table.itertuples():
        inside, member = labels == row.module, np.isin(np.arange(200), members[row.set])
        cross = [[(side & part).sum() for part in (member, ~member)] for side in (inside, ~inside)]
        # The same sum of probabilities, computed in another order.
        assert row.p == pytest.approx(fisher_exact(cross, alternative="greater").pvalue, rel=1e-9)
        assert row.fold == pytest.approx(cross[0][0] * 200 / (inside.sum() * member.sum()))
    np.testing.assert_allclose(table["fdr"], benjamini_hochberg(table["p"].to_numpy()))
    first = table.sort_values("p").iloc[0]
    assert (first["module"], first["set"], first["overlap"]) == (1, "planted", 20)
    assert first["genes"].split() == [f"G{i}" for i in members["planted"]]
    assert enriched_modules(labels, sets, 1e-6) == 1 and enriched_modules(labels, sets, 1.0) == 3
    assert not enrichment(np.full(200, -1), sets).size and enriched_modules(np.full(200, -1), sets, 1.0) == 0


def test_upper_tail_is_scipys() -> None:
    rng = np.random.default_rng(0)
    total = 8000
    drawn, good = rng.integers(1, 3000, 300), rng.integers(1, 500, 300)
    overlap = np.minimum(rng.binomial(good, np.clip(rng.random(300), 0, 1)), drawn)
    wanted = hypergeom.sf(overlap - 1, total, good, drawn)
    # Logarithms of factorials are of the order of 6e4, which leaves eleven digits of the probability.
    np.testing.assert_allclose(upper_tail(overlap, total, drawn, good), wanted, rtol=1e-9, atol=1e-290)
    assert upper_tail(np.array([5]), 5, np.array([5]), np.array([5])) == pytest.approx(1)
    assert upper_tail(np.array([0, 3]), 10, np.array([3]), np.array([3])).tolist() == pytest.approx([1, 1 / 120])


def test_enrichment_is_that_of_gseapy() -> None:
    gseapy = pytest.importorskip("gseapy")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    members = {f"s{i}": np.flatnonzero(rng.random(300) < 0.15) for i in range(6)}
    names = tuple(f"G{i}" for i in range(300))
    table = enrichment(labels, GeneSets(names, members, {n: 1 for n in members}), least_overlap=0).set_index("set")
    found = gseapy.enrich(
        gene_list=[names[i] for i in np.flatnonzero(labels == 0)],
        gene_sets={name: [names[i] for i in rows] for name, rows in members.items()},
        background=list(names),
        outdir=None,
        no_plot=True,
    ).results.set_index("Term")
    for name in members:
        own = table[table["module"] == 0].loc[name, "p"]
        assert own == pytest.approx(found.loc[name, "P-value"], rel=1e-6)


def test_activity_is_the_mean_z_score() -> None:
    rng = np.random.default_rng(0)
    x = rng.poisson(1.0, (30, 12)).astype(np.float32)
    x[:, 4] = 2.0  # does not vary: its z-score is 0
    labels = np.array([0, 1, 2, -1, 0, 1] * 2)
    spread = x.std(0, ddof=1, dtype=np.float64)
    z = (x - x.mean(0, dtype=np.float64)) / np.where(spread > 0, spread, np.inf)
    wanted = np.stack([z[:, labels == k].mean(1) - z[:, labels >= 0].mean(1) for k in range(3)], axis=1)
    found = module_activity(sp.csr_matrix(x), labels)
    np.testing.assert_allclose(found, wanted, atol=1e-5)  # float32 out, sums of a dozen float64
    table = group_activity(found, ["a", "b"] * 15, ["M1", "M2", "M3"])
    assert table.index.tolist() == ["M1", "M2", "M3"] and table.columns.tolist() == ["a", "b"]
    np.testing.assert_allclose(table["b"], found[1::2].mean(0), atol=1e-6)


def test_modules_with_cells_and_sets(files: Path) -> None:
    result = gene_modules(
        made_up_genes(),
        files / "cells.h5ad",
        sets=files / "sets.gmt",
        by="kind",
        resolutions=[0.5, 1.0],
        seeds=[0, 1],
        verbose=False,
    )
    assert "GENE5" not in result.genes.obs_names and "GENE7" not in result.genes.obs_names
    assert result.genes.n_obs == NUM_GENES - 2 and result.names == ["M1", "M2", "M3", "M4"]
    kinds = {name: {int(gene[4:]) % PLANTED for gene in result.members(name)} for name in result.names}
    planted = {name: max(kinds[name], key=[int(g[4:]) % PLANTED for g in result.members(name)].count) for name in kinds}
    assert sorted(planted.values()) == [0, 1, 2, 3]
    overview = result.overview().set_index("module")
    for name, kind in planted.items():
        assert overview.loc[name, "active_in"] == f"T{kind}"
        assert overview.loc[name, "first"] == {0: "first", 1: "second"}.get(kind, "")
    assert "tiny" not in set(result.enrichment["set"])
    assert set(result.comparison["features"]) == {"context", "static", "pca"}
    assert result.comparison.set_index("features").loc[["context", "pca"], "enriched"].tolist() == [2, 2]
    own = result.comparison.set_index("features")["stability"]
    assert own["context"] > own["static"] + 0.3  # the static one is noise
    assert result.cells is not None and result.cells.obsm["X_modules"].shape == (NUM_CELLS, 4)
    edges = result.edges("M1", most=10)
    assert len(edges) == 10 and edges["weight"].is_monotonic_decreasing and edges["weight"].max() <= 1 + 1e-6
    assert {*edges["a"], *edges["b"]} <= {*result.members("M1")}


def test_scaled_dimensions_weigh_alike() -> None:
    genes = made_up_genes()
    genes.obsm["X_context"][:, 9] *= 1000  # a dimension without meaning that hides the others
    options: dict[str, Any] = {"resolutions": [1.0], "seeds": [0, 1], "baselines": False, "verbose": False}
    found = {scale: gene_modules(genes, scale=scale, **options) for scale in (False, True)}
    kinds = {
        scale: adjusted_rand_score(
            [int(name[4:]) % PLANTED for name in result.genes.obs_names], result.genes.obs["module"].cat.codes
        )
        for scale, result in found.items()
    }
    # Dimensions that tell the modules are brought down to the size of those that do not, hence not 1; without it the
    # cosine still sees a little of them on either side of the large one.
    assert kinds[True] > 0.7 and kinds[False] < kinds[True] - 0.15
    assert found[True].edges("M1", most=5)["weight"].between(0.5, 1 + 1e-6).all()


def test_a_key_called_as_a_baseline_is_another_one(files: Path) -> None:
    genes = made_up_genes()
    genes.obsm["X_pca"] = genes.obsm["X_context"]
    result = gene_modules(genes, files / "cells.h5ad", key="X_pca", resolutions=[1.0], seeds=[0, 1], verbose=False)
    assert list(result.comparison["features"]) == ["X_pca", "static", "pca"]


def test_files_written(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    typed = ["genes", "modules", str(files / "genes.h5ad"), "--cells", str(files / "cells.h5ad"), "--by", "kind"]
    typed += ["--sets", str(files / "sets.gmt"), "--results", str(results), "resolutions=[1]", "seeds=[0,1]"]
    answer = answer_of(typed)
    assert len(answer["modules"]) == 4 and {row["features"] for row in answer["comparison"]} >= {"context", "static"}
    said = capsys.readouterr().err
    assert "238 genes clustered by obsm['X_context']: 4 modules at resolution 1, the most stable" in said
    assert "context is more stable than static" in said
    tables = {"modules", "members", "enrichment", "resolutions", "comparison", "activity"}
    others = {"genes.h5ad", "cells.h5ad", "activity.png", "networks.png", "report.html", "settings.json"}
    assert {path.name for path in results.iterdir()} == others | {f"{name}.csv" for name in tables}
    genes = anndata.read_h5ad(results / "genes.h5ad")
    assert json.loads(genes.uns["cellfm_modules"])["modules"] == ["M1", "M2", "M3", "M4"]
    assert genes.obsp["connectivities"].shape == (238, 238) and genes.obs["module"].notna().sum() >= 230
    page = (results / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 5 and page.count("No gene set is enriched.") == 2
    assert "GENE56 and 15 more" in page  # of thirty: every fourth from 0 on
    assert not re.search(r"(src|href)=.https?:", page)  # nothing is fetched
    assert cli.main(typed) == 2
    assert "holds results already" in capsys.readouterr().err


def test_from_cells_and_a_model(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = CellFMConfig.preset("tiny", num_layers=1, dim=32, num_heads=1, num_genes=NUM_GENES)
    CellFM(config, genes=NAMES).save_pretrained(tmp_path / "model")
    typed = ["genes", "modules", str(files / "cells.h5ad"), f"results={tmp_path / 'out'}", "resolutions=[1,2]"]
    typed += ["seeds=[0,1]", "networks=1", "least_genes=5"]
    assert cli.main(typed) == 2
    assert "holds no genes of cellfm genes embed: where it holds cells, give --model" in capsys.readouterr().err
    assert cli.main([*typed, "--model", str(tmp_path / "model")]) == 0
    table = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert {"context", "static"} <= set(table["features"]) and "enriched" not in table
    assert not (tmp_path / "out" / "activity.csv").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"least_cells": 41}, "no genes with obsm['X_context'] expressed in least_cells=41 cells or more (at most 40"),
        ({"resolutions": [0.01]}, "fewer than 3: give higher resolutions than 0.01"),
        ({"resolutions": []}, "resolutions=[]: give one or more"),
        ({"seeds": [1]}, "seeds=[1]: stability takes two"),
        ({"neighbours": 2}, "neighbours=2: must be at least 3"),
        ({"key": "X_contex"}, "did you mean 'X_context'?"),
        ({"key": "X_static_B"}, "no obsm['X_static_B']"),
        ({"by": "kind"}, "by=kind: groups of cells take the cells"),
        ({"cells": "cells.h5ad", "by": "kinds"}, "did you mean 'kind'?"),
        ({"sets": "foreign.gmt"}, "none of the genes of its 1 sets is known"),
        ({"sets": "no.gmt"}, "no.gmt: no such file of gene sets"),
    ],
)
def test_refusals(options: dict[str, Any], says: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    Path("foreign.gmt").write_text("set\t\tX1\tX2\n")
    given = {"resolutions": [1.0], "seeds": [0, 1], "baselines": False, "verbose": False, **options}
    with pytest.raises(UserError) as caught:
        gene_modules(made_up_genes(), given.pop("cells", None), **given)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_path_is_no_embedding() -> None:
    with pytest.raises(UserError, match="give an AnnData of genes, as gene_embeddings returns it, not a str"):
        gene_modules("model", "cells.h5ad")  # type: ignore[arg-type]


def test_a_truncated_file_is_named(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = tmp_path / "whole.h5ad"
    made_up_genes().write_h5ad(whole)
    path = tmp_path / "genes.h5ad"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    sets = str(files / "sets.gmt")
    for arguments in (["modules", str(path)], ["function", "--labels", sets, "--embeddings", str(path)]):
        assert cli.main(["genes", *arguments, "--results", str(tmp_path / "results")]) == 2
        error = capsys.readouterr().err
        assert f"{path}: is truncated (its end is missing)" in error and error.count("\n") == 1
