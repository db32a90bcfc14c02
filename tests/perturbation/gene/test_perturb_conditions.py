"""Words of others for what was done to a cell, and their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cellfm_torch import CellFM, GenePerturbation, cli
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.errors import UserError
from cellfm_torch.perturbation.gene.cells import PerturbedCells
from cellfm_torch.perturbation.gene.conditions import (
    asked_conditions,
    condition_column,
    conditions_of,
    is_control,
    parse,
)

GENES = ("ATF6", "BAK1", "CEBPA", "CREB1", "CTRB1", "ELF1", "KLF1", "NTF3", "WT1", "HLA-A", "NT5E")
VOCAB = GeneVocab(GENES, first_id=1)
ENSEMBL = {"KLF1": "ENSG00000105610", "CEBPA": "ENSG00000245848"}


def series(words: Sequence[str | None], name: str = "condition") -> pd.Series:
    return pd.Series(list(words), name=name, dtype=object)


@pytest.mark.parametrize(
    ("word", "condition"),
    [
        ("KLF1+ctrl", ("KLF1",)),
        ("ctrl+KLF1", ("KLF1",)),
        ("KLF1", ("KLF1",)),
        ("CEBPA+KLF1", ("CEBPA", "KLF1")),
        ("KLF1+CEBPA", ("CEBPA", "KLF1")),
        (" KLF1 + CEBPA ", ("CEBPA", "KLF1")),
        ("CEBPA_KLF1", ("CEBPA", "KLF1")),
        ("KLF1;CEBPA", ("CEBPA", "KLF1")),
        ("KLF1|CEBPA|WT1", ("CEBPA", "KLF1", "WT1")),
        ("WT1+KLF1+CEBPA", ("CEBPA", "KLF1", "WT1")),
        ("KLF1_ctrl", ("KLF1",)),
        ("ENSG00000105610", ("KLF1",)),
        ("ENSG00000105610+ENSG00000245848", ("CEBPA", "KLF1")),
        ("HLA-A", ("HLA-A",)),
        ("KLF1_NegCtrl0__KLF1_NegCtrl0", ("KLF1",)),  # Norman et al., guide_identity
        ("CEBPA_KLF1__CEBPA_KLF1", ("CEBPA", "KLF1")),
        ("NegCtrl10_NegCtrl0__NegCtrl10_NegCtrl0", ()),
        ("CREB1_pDS269", ("CREB1",)),  # Adamson et al.
        ("p-sgELF1-2", ("ELF1",)),  # Dixit et al.
        ("p-INTERGENIC345", ()),
        *((word, ()) for word in ("ctrl", "CTRL", "control", "Control", "non-targeting", "Non_Targeting", "NT")),
        *((word, ()) for word in ("ctrl+ctrl", "negctrl", "NegCtrl0", "non-targeting_00123", "safe-targeting")),
    ],
)  # fmt: skip
def test_words(word: str, condition: tuple[str, ...]) -> None:
    parsed = parse([word], VOCAB, option="condition")
    assert parsed.conditions == {word: condition} and not parsed.unknown


@pytest.mark.parametrize("gene", ["WT1", "CTRB1", "NTF3", "NT5E"])
def test_genes_that_begin_as_control_words_do(gene: str) -> None:
    assert not is_control(gene)
    assert parse([f"{gene}+ctrl", gene], VOCAB, option="condition").conditions == {
        f"{gene}+ctrl": (gene,),
        gene: (gene,),
    }


@pytest.mark.parametrize(
    "word", ["*", "62(mod)_pBA581", "KLF1_FOO", "_KLF1_", "FOO+KLF1", "3x_neg_ctrl_pMJ144-1", "pDS269"]
)
def test_what_is_no_gene_is_unknown_and_stops_nothing(word: str) -> None:
    """A word of a file that cannot be understood leaves its cells out; the others are read."""
    parsed = parse([word, "KLF1"], VOCAB, option="condition")
    assert list(parsed.conditions) == ["KLF1"] and list(parsed.unknown) == [word]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("KLF1+", "x: 'KLF1+' is no condition: write GENE+ctrl, A+B or ctrl"),
        ("+", "x: '+' is no condition: write GENE+ctrl, A+B or ctrl"),
        ("", "x: '' is no condition: write GENE+ctrl, A+B or ctrl"),
        ("KLF1+KLF1", "x: 'KLF1+KLF1' names a gene twice: write GENE+ctrl, A+B or ctrl"),
        ("KLF1_KLF1", "x: 'KLF1_KLF1' names a gene twice: write GENE+ctrl, A+B or ctrl"),
        ("KLF1+ENSG00000105610", "x: 'KLF1+ENSG00000105610' names a gene twice: write GENE+ctrl, A+B or ctrl"),
        ("KLF2", "x: the model has no gene 'KLF2'; did you mean 'KLF1'?"),
        ("CEBPA+klf2", "x: the model has no gene 'klf2'; did you mean 'KLF1'?"),
        ("ctrl", "x: names no gene to perturb: write GENE, or A+B for both at once"),
    ],
)
def test_mistakes_of_what_is_asked(word: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        asked_conditions([word], VOCAB, option="x")
    assert str(caught.value) == message


def test_asked_once_and_in_order() -> None:
    assert asked_conditions(["KLF1", "WT1+CEBPA", "ctrl+KLF1", "CEBPA+WT1"], VOCAB) == [("KLF1",), ("CEBPA", "WT1")]
    assert asked_conditions("KLF1", VOCAB) == [("KLF1",)]
    with pytest.raises(UserError, match="names no gene to perturb"):
        asked_conditions([], VOCAB)


def test_cells_without_a_condition_are_said() -> None:
    words = series(["ctrl", "KLF1+ctrl", None, "FOO1", "ctrl+KLF1", "FOO1+KLF1", "ctrl"])
    found, said = conditions_of(words, VOCAB, source="a.h5ad")
    assert found == [(), ("KLF1",), None, None, ("KLF1",), None, ()]
    assert said[0] == "left out: 1 cells without a word in a.h5ad: obs['condition']"
    assert (
        said[1].startswith("left out: 2 of 5 conditions (2 cells) with genes that the model does not know: FOO1")
        and len(said) == 2
    )


@pytest.mark.parametrize(
    ("words", "control", "message"),
    [
        (["KLF1", "WT1"], None, " has no control cells (it has KLF1, WT1 ...): call them ctrl, or say control=WORD"),
        (["ctrl", "ctrl"], None, " has no perturbation that the model knows: all cells are control"),
        (
            ["ctrl", "KLF2"],
            None,
            " has no perturbation that the model knows: the model has no gene 'KLF2'; did you mean 'KLF1'?",
        ),
        (["ctrl", "KLF1+"], None, ": 'KLF1+' is no condition: write GENE+ctrl, A+B or ctrl"),
        (["ctrl", "KLF1"], "DMSO", "control=DMSO: no cell has it in f: obs['condition']"),
        (["DMSO-1", "KLF1"], "DMSO", "control=DMSO: no cell has it in f: obs['condition']; did you mean 'DMSO-1'?"),
    ],
)
def test_columns_that_cannot_be_used(words: list[str], control: str | None, message: str) -> None:
    with pytest.raises(UserError) as caught:
        conditions_of(series(words), VOCAB, source="f", control=control)
    assert str(caught.value) == (message if message.startswith("control") else f"f: obs['condition']{message}")


def test_a_word_for_control_besides_the_usual_ones() -> None:
    words = series(["62(mod)_pBA581", "CREB1_pDS269", "KLF1+ctrl", "ctrl"])
    found, said = conditions_of(words, VOCAB, source="f", control="62(mod)_pBA581")
    assert found == [(), ("CREB1",), ("KLF1",), ()] and not said


def test_the_column_is_found_by_name() -> None:
    obs = pd.DataFrame({"gene": ["a"], "perturbation": ["a"], "cell_type": ["a"]})
    assert condition_column(obs, None, source="f") == "perturbation"
    assert condition_column(obs.assign(condition="a"), None, source="f") == "condition"
    assert condition_column(obs, "gene", source="f") == "gene"
    with pytest.raises(UserError) as caught:
        condition_column(obs, "perturbatoin", source="f")
    assert str(caught.value) == (
        "condition=perturbatoin: no such column in obs of f (it has gene, perturbation, cell_type); "
        "did you mean 'perturbation'?"
    )
    with pytest.raises(UserError, match=r"f: obs has no column condition, perturbation, perturbation_name: say with"):
        condition_column(obs[["cell_type"]], None, source="f")


# Layouts of published files: what each has in X, layers, obs and var, with the words of the study.
GEARS = {"norman": ("A549", "A549_{}_1+1"), "adamson": ("K562(?)", "K562(?)_{}_1+1"), "dixit": ("K562", "K562_{}_1+1")}


def gears_file(real: anndata.AnnData, path: Path, *, study: str, doubles: bool) -> list[str]:
    """Write perturb_processed.h5ad as GEARS does: X log-normalised, counts in a layer, Ensembl ids as index."""
    genes = list(real.var_names[:12:3])
    words = ["ctrl", *(f"{gene}+ctrl" for gene in genes), *([f"{genes[0]}+{genes[1]}"] if doubles else [])]
    rows = np.resize(np.arange(real.n_obs), 20 * len(words))
    counts = real.X[rows].tocsr()
    logged = sp.csr_matrix(np.log1p(counts.multiply(1e4 / counts.sum(1))), dtype=np.float32)
    condition = np.repeat(words, 20)
    cell_type, name = GEARS[study]
    obs = pd.DataFrame(
        {
            "condition": pd.Categorical(condition),
            "cell_type": pd.Categorical([cell_type] * len(rows)),
            "dose_val": pd.Categorical(["1" if word == "ctrl" else "1+1" for word in condition]),
            "control": (condition == "ctrl").astype(int),
            "condition_name": pd.Categorical([name.format(word) for word in condition]),
        },
        index=[f"AAAC{i}-1" for i in range(len(rows))],
    )
    index = pd.Index([f"ENSG{i:011d}" for i in range(real.n_vars)], name="gene_id")
    var = pd.DataFrame({"gene_name": pd.Categorical(real.var_names)}, index=index)
    adata = anndata.AnnData(logged, obs=obs, var=var, layers={"counts": counts})
    adata.uns["rank_genes_groups_cov_all"] = {name.format(words[1]): np.array(index[:5])}
    adata.write_h5ad(path)
    return words


@pytest.mark.parametrize(("study", "doubles"), [("norman", True), ("adamson", False), ("dixit", False)])
def test_files_of_gears(
    real_cells: anndata.AnnData, network: CellFM, tmp_path: Path, study: str, doubles: bool
) -> None:
    path = tmp_path / "perturb_processed.h5ad"
    words = gears_file(real_cells, path, study=study, doubles=doubles)
    options: dict[str, Any] = {"layer": "counts", "genes": {"column": "gene_name"}}
    cells = PerturbedCells.read(path, network.input_spec, **options)
    assert cells.column == "condition" and not cells.said and cells.source == path.name
    expected = {tuple(sorted(set(word.split("+")) - {"ctrl"})) for word in words[1:]}
    assert set(cells.conditions) == expected and len(cells.control) == 20
    assert all((cells.codes == i).sum() == 20 for i in range(len(expected)))
    # The same counts as those in memory: the layer was read, not X.
    rows = np.resize(np.arange(real_cells.n_obs), 20 * len(words))
    assert (cells.cells.counts != real_cells.X[rows]).nnz == 0


def scperturb_file(real: anndata.AnnData, path: Path, words: list[str], numbers: list[int]) -> None:
    """Write a file as scPerturb does: counts in X, symbols as index, perturbation and nperts in obs."""
    rows = np.resize(np.arange(real.n_obs), 10 * len(words))
    counts = real.X[rows].tocsr()
    obs = pd.DataFrame(
        {
            "perturbation": pd.Categorical(np.repeat(np.array(words, dtype=object), 10)),
            "nperts": np.repeat(numbers, 10),
            "perturbation_type": "CRISPR",
            "celltype": "lymphoblasts",
            "organism": "human",
            "ncounts": np.asarray(counts.sum(1)).ravel(),
            "ngenes": counts.getnnz(axis=1),
            "percent_mito": 1.0,
        },
        index=[f"cell{i}-1" for i in range(len(rows))],
    )
    var = pd.DataFrame({"ensembl_id": [f"ENSG{i:011d}" for i in range(real.n_vars)]}, index=real.var_names)
    anndata.AnnData(counts, obs=obs, var=var).write_h5ad(path)


@pytest.mark.parametrize(
    ("study", "control", "form", "double"),
    [
        ("NormanWeissman2019", None, "{}", "{}_{}"),
        ("AdamsonWeissman2016", "62(mod)_pBA581", "{}_pDS269", None),
        ("DixitRegev2016", "p-INTERGENIC345", "p-sg{}-2", None),
    ],
)
def test_files_of_scperturb(
    real_cells: anndata.AnnData,
    network: CellFM,
    tmp_path: Path,
    study: str,
    control: str | None,
    form: str,
    double: str | None,
) -> None:
    genes = [str(name) for name in real_cells.var_names[:9:3]]
    words = [control or "control", *map(form.format, genes)]
    numbers = [0, 1, 1, 1]
    if double is not None:
        words, numbers = [*words, double.format(genes[2], genes[0])], [*numbers, 2]
    path = tmp_path / f"{study}.h5ad"
    scperturb_file(real_cells, path, words, numbers)
    cells = PerturbedCells.read(path, network.input_spec, control=control)
    pair = [tuple(sorted((genes[0], genes[2])))] if double else []
    assert cells.column == "perturbation" and set(cells.conditions) == {*((gene,) for gene in genes), *pair}
    assert len(cells.control) == 10 and not cells.said
    sizes = np.array([len(cells.conditions[code]) if code >= 0 else 0 for code in cells.codes])
    assert (sizes == cells.cells.obs["nperts"]).all()


@pytest.mark.parametrize(
    ("column", "control", "form"),
    [
        ("perturbation_name", "control", "{}"),  # pertpy, and its doubles A+B
        ("guide_identity", "NegCtrl0_NegCtrl0__NegCtrl0_NegCtrl0", "{0}_NegCtrl0__{0}_NegCtrl0"),  # Norman et al.
        ("gene", "non-targeting", "{}"),  # Replogle et al.
    ],
)
def test_other_columns(real_cells: anndata.AnnData, network: CellFM, column: str, control: str, form: str) -> None:
    genes = list(real_cells.var_names[:9:3])
    adata = real_cells[:40].copy()
    words = np.repeat([control, *map(form.format, genes)], 10)
    # Categories that no cell has are no conditions.
    adata.obs[column] = pd.Categorical(words, categories=[*dict.fromkeys(words), "KLF1+", "FOO"])
    adata.obs["cell_type"] = "K562"
    cells = PerturbedCells.read(adata, network.input_spec)
    assert cells.column == column and cells.source == "AnnData" and not cells.said
    assert cells.conditions == tuple((gene,) for gene in sorted(genes)) and len(cells.control) == 10


@pytest.mark.parametrize(
    ("study", "options"),
    [
        ("gears", ["data.layer=counts", "genes.column=gene_name"]),
        ("scperturb", ["control='62(mod)_pBA581'"]),  # as typed in a shell: "control='62(mod)_pBA581'"
    ],
)
def test_published_layouts_as_typed(
    study: str, options: list[str], real_cells: anndata.AnnData, network: CellFM, tmp_path: Path
) -> None:
    path = tmp_path / "cells.h5ad"
    if study == "gears":
        expected = len(gears_file(real_cells, path, study="norman", doubles=True)) - 1
    else:
        genes = [str(name) for name in real_cells.var_names[:9:3]]
        scperturb_file(real_cells, path, ["62(mod)_pBA581", *(f"{gene}_pDS269" for gene in genes)], [0, 1, 1, 1])
        expected = 3
    network.save_pretrained(tmp_path / "model")
    few = ["trainer.max_epochs=1", "trainer.accelerator=cpu", "split=none", "control_cells=4"]
    given = ["perturb", "train", str(path), "--model", str(tmp_path / "model"), "--results", str(tmp_path / "results")]
    assert cli.main([*given, *few, *options]) == 0
    predictor = tmp_path / "results" / "predictor"
    loaded = GenePerturbation.load(predictor)
    assert loaded.saved is not None and len(loaded.saved.trained) == expected
    # The same file later: its control cells alone, by the same options of reading.
    gene, output = loaded.saved.genes[0], tmp_path / "out.h5ad"
    asked = ["perturb", "predict", "--genes", gene, "--cells", str(path), "--predictor", str(predictor)]
    assert cli.main([*asked, "--single-cells", "--output", str(output), "accelerator=cpu"]) == 0
    assert anndata.read_h5ad(output).n_obs == (20 if study == "gears" else 10)
