"""Columns of public layouts, control cells, and one clear line for each mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from treated_cells import ASPIRIN, CAFFEINE, few_cells, network, small_file

from cellfm_torch import UserError
from cellfm_torch.perturbation.chem.cells import Condition, TreatedCells, read_controls, read_treated
from cellfm_torch.perturbation.chem.columns import CONTROLS


def read(adata: anndata.AnnData, **options: Any) -> TreatedCells:
    return read_treated(adata, network().input_spec, **options)


def test_conditions_and_their_cells() -> None:
    cells = read(small_file(), by="line")
    assert len(cells.conditions) == 2 * 2 * 2
    assert cells.conditions[0] == Condition("aspirin", 1.0, "A549") and str(cells.conditions[0]) == "aspirin at 1, A549"
    rows = np.concatenate(list(cells.rows.values()))
    assert sorted([*rows, *np.flatnonzero(cells.control)]) == list(range(60))
    for (drug, dose, line), own in cells.rows.items():
        obs = cells.cells.obs.iloc[own]
        assert (obs["drug"] == drug).all() and (obs["dose"] == dose).all() and (obs["line"] == line).all()
    assert (cells.cells.obs["line"].iloc[cells.controls("K562")] == "K562").all()
    assert cells.smiles == {"aspirin": ASPIRIN, "caffeine": CAFFEINE}
    assert (cells.columns.drug, cells.columns.dose, cells.columns.smiles) == ("drug", "dose", "smiles")


def test_layout_of_scperturb() -> None:
    adata = few_cells(40)
    adata.obs["perturbation"] = np.resize(["control", "Belinostat"], 40)
    adata.obs["dose_value"] = np.resize([0.0, 10.0, 0.0, 100.0], 40)
    adata.obs["dose_unit"] = "nM"
    adata.obs["cell_line"] = np.repeat(["A549", "MCF7"], 20)
    cells = read(adata, by="cell_line")
    assert cells.columns.unit == "nM" and cells.smiles is None
    assert cells.conditions[:2] == [Condition("Belinostat", 10.0, "A549"), Condition("Belinostat", 10.0, "MCF7")]


def test_layout_of_one_joined_column() -> None:
    adata = few_cells(20)
    adata.obs["cov_drug_dose_name"] = np.resize(["A549_control_1.0", "A549_Beli_nostat_10.0"], 20)
    adata.obs["SMILES"] = np.resize(["", CAFFEINE], 20)
    cells = read(adata)
    assert cells.conditions == [Condition("Beli_nostat", 10.0, "A549")] and cells.smiles == {"Beli_nostat": CAFFEINE}
    start, rows = read_controls(adata, network().input_spec, cells.columns)
    assert rows.tolist() == list(range(0, 20, 2)) and len(start) == 20


@pytest.mark.parametrize("word", sorted(CONTROLS))
def test_words_for_control(word: str) -> None:
    adata = small_file(12)
    adata.obs["drug"] = adata.obs["drug"].replace("DMSO", word.upper())
    assert read(adata).control.sum() == 4


def test_smiles_from_a_table(tmp_path: Path) -> None:
    table = tmp_path / "compounds.csv"
    table.write_text(f"compound,smiles\naspirin,{ASPIRIN}\ncaffeine,{CAFFEINE}\n")
    adata = small_file(12)
    del adata.obs["smiles"]
    assert read(adata, smiles=str(table)).smiles == {"aspirin": ASPIRIN, "caffeine": CAFFEINE}
    assert read(small_file(12), smiles="none").smiles is None
    table.write_text("name,text\n")
    with pytest.raises(UserError, match=r"compounds.csv: needs columns drug and smiles \(it has name, text\)"):
        read(adata, smiles=str(table))


def test_cells_that_say_nothing_take_no_part() -> None:
    adata = small_file(30)
    adata.obs["drug"] = adata.obs["drug"].where(np.arange(30) != 4)
    counts = adata.X.tolil()
    counts[7] = 0
    adata.X = counts.tocsr()
    cells = read(adata)
    assert cells.left_out == (
        "1 cells take no part: no value in column drug",
        "1 cells take no part: no counts in the model's genes",
    )
    assert not any(np.isin([4, 7], rows).any() for rows in cells.rows.values())


def test_missing_control_is_one_line() -> None:
    adata = small_file(12)
    adata.obs["drug"] = adata.obs["drug"].replace("DMSO", "water")
    with pytest.raises(
        UserError, match=r"^AnnData: no control cells: column drug has none of .*dmso.* \(it has aspirin"
    ):
        read(adata)
    assert read(adata, control="water").control.sum() == 4
    with pytest.raises(UserError, match=r"has none of salt \(it has aspirin, caffeine, water\): name the value with"):
        read(adata, control="salt")


def change(adata: anndata.AnnData, column: str, values: Any) -> anndata.AnnData:
    adata.obs[column] = values
    return adata


@pytest.mark.parametrize(
    ("adata", "options", "message"),
    [
        (few_cells(6), {}, "no column of obs says what cells were treated with: give drug=COLUMN"),
        (small_file(6), {"drug": "drgu"}, "drug=drgu: no such column in obs .*did you mean 'drug'"),
        (small_file(6), {"by": "batch"}, "by=batch: no such column"),
        (change(small_file(6), "drug", "DMSO"), {}, "every cell is control"),
        (
            change(small_file(6), "dose", "much"),
            {},
            r"dose of cell .* \(row 1, aspirin\) is 'much': .* positive number",
        ),
        (change(small_file(6), "dose", -1.0), {}, "is '-1.0': treated cells need a positive number"),
        (change(small_file(6), "dose_unit", ["nM", "uM"] * 3), {}, r"dose_unit has several units \(nM, uM\)"),
        (change(small_file(6), "smiles", list("CCCCCO")), {}, r"compound caffeine has several SMILES \(C, O\)"),
        (change(small_file(6), "line", ["a", "b"] * 3), {"by": "line", "control": "aspirin"}, None),
        (
            change(small_file(6), "line", ["a", "b", "b", "a", "a", "b"]),
            {"by": "line"},
            "line=b: this context has treated",
        ),
    ],
)
def test_mistakes_are_one_line(adata: anndata.AnnData, options: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert read(adata, dose="none", **options).control.sum() == 2
        return
    with pytest.raises(UserError, match=message) as caught:
        read(adata, **options)
    assert "\n" not in str(caught.value)


def test_a_prediction_starts_from_untreated_cells() -> None:
    columns = read(small_file(12)).columns
    spec = network().input_spec
    assert read_controls(few_cells(5), spec, columns)[1].tolist() == [0, 1, 2, 3, 4]
    assert read_controls(small_file(12), spec, columns)[1].tolist() == [0, 3, 6, 9]
    with pytest.raises(UserError, match="no control cells in column drug"):
        read_controls(change(small_file(6), "drug", "aspirin"), spec, columns)
