"""No test perturbation reaches training."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from treated_cells import ASPIRIN, CAFFEINE, ETHANOL, few_cells, network

from cellfm_torch import UserError
from cellfm_torch.perturbation.chem.cells import TreatedCells, read_treated
from cellfm_torch.perturbation.chem.compounds import Compounds
from cellfm_torch.perturbation.chem.evaluate import evaluate_split
from cellfm_torch.perturbation.chem.fitted import FitOptions
from cellfm_torch.perturbation.chem.splits import check_leak_free, make_splits, unit_of

SMILES = {"aspirin": ASPIRIN, "acetylsalicylic acid": "OC(=O)c1ccccc1OC(C)=O", "caffeine": CAFFEINE, "ethanol": ETHANOL}


@pytest.fixture(scope="module")
def cells() -> TreatedCells:
    """Four names of three molecules, three doses, two lines."""
    adata, number = few_cells(100), 100
    adata.obs["drug"] = np.resize(["DMSO", *SMILES], number)
    adata.obs["dose"] = np.repeat([1.0, 10.0, 1.0, 10.0, 100.0], 20)
    adata.obs["line"] = np.resize(np.repeat(["A549", "K562"], 5), number)
    adata.obs["smiles"] = [SMILES.get(name, "") for name in adata.obs["drug"]]
    return read_treated(adata, network().input_spec, by="line")


@pytest.fixture(scope="module")
def compounds(cells: TreatedCells) -> Compounds:
    return Compounds.of([c.drug for c in cells.conditions], cells.smiles, source="x")


@pytest.mark.parametrize("kind", ["compound", "dose", "context"])
def test_no_test_condition_reaches_training(kind: str, cells: TreatedCells, compounds: Compounds) -> None:
    unit = unit_of(kind, compounds)
    for split in make_splits(cells, compounds, kind, range(8), share=0.4):
        assert split.test and split.train and {*split.test, *split.train} == {*cells.conditions}
        assert not {unit(c) for c in split.test} & {unit(c) for c in split.train}
        rows = split.training_rows(cells)
        assert np.isin(np.flatnonzero(cells.control), rows).all()
        for condition in split.test:
            assert not np.isin(cells.rows[condition], rows).any()
        check_leak_free(split, cells, compounds, rows)
        as_json = split.as_json()
        assert [tuple(c) for c in as_json["test"]] == list(split.test) and as_json["split"] == kind


def test_names_of_one_molecule_stay_together(cells: TreatedCells, compounds: Compounds) -> None:
    pair = {"aspirin", "acetylsalicylic acid"}
    held = [{c.drug for c in split.test} for split in make_splits(cells, compounds, "compound", range(12), share=0.3)]
    assert any(pair <= names for names in held) and all(pair <= names or not pair & names for names in held)


def test_a_leak_is_refused(cells: TreatedCells, compounds: Compounds) -> None:
    split = next(
        s for s in make_splits(cells, compounds, "compound", range(12), share=0.3) if s.test[0].drug == "caffeine"
    )
    rows = split.training_rows(cells)
    with pytest.raises(ValueError, match="the split by compound leaks: caffeine .* is tested and learned from"):
        check_leak_free(split, cells, compounds, [*rows, cells.rows[split.test[0]][0]])
    leaking = dataclasses.replace(split, train=(*split.train, split.test[0]))
    with pytest.raises(ValueError, match="leaks"):
        check_leak_free(leaking, cells, compounds, leaking.training_rows(cells))
    # The same molecule by its other name is the same test.
    aspirin = next(c for c in split.train if c.drug == "aspirin")
    other = [c for c in split.train if c.drug != "aspirin"]
    renamed = dataclasses.replace(split, test=(aspirin,), train=tuple(other))
    with pytest.raises(ValueError, match="acetylsalicylic acid .* is tested and learned from"):
        check_leak_free(renamed, cells, compounds, renamed.training_rows(cells))


def test_learning_is_given_training_conditions_only(cells: TreatedCells, compounds: Compounds) -> None:
    split = make_splits(cells, compounds, "compound", [1])[0]
    asked: list[Any] = []

    def fitter(*arguments: Any) -> Any:
        asked.extend(arguments[3])
        raise StopIteration

    empty = np.zeros((len(cells.cells), 2))
    with pytest.raises(StopIteration):
        evaluate_split(split, cells, empty, cells.cells.counts, compounds, FitOptions(), least_cells=1, fitter=fitter)
    assert tuple(asked) == split.train


def test_contexts_are_each_left_out_once(cells: TreatedCells, compounds: Compounds) -> None:
    splits = make_splits(cells, compounds, "context", [0, 1])
    assert [(s.seed, s.held_out) for s in splits] == [(0, "A549"), (0, "K562"), (1, "A549"), (1, "K562")]
    assert {c.context for c in splits[0].test} == {"A549"} and {c.context for c in splits[0].train} == {"K562"}


def test_what_cannot_be_held_out(cells: TreatedCells, compounds: Compounds) -> None:
    assert make_splits(cells, compounds, "none", [3])[0].test == ()
    with pytest.raises(UserError, match=r"split=compuond: choose compound, .*; did you mean 'compound'"):
        make_splits(cells, compounds, "compuond", [0])
    one = dataclasses.replace(cells, rows={c: rows for c, rows in cells.rows.items() if c.drug == "ethanol"})
    same = dataclasses.replace(one, rows={c: rows for c, rows in one.rows.items() if c.context == "A549"})
    single = dataclasses.replace(same, rows=dict(list(same.rows.items())[:1]))
    for kind, few, message in (
        ("compound", one, "there is one compound only"),
        ("context", same, "there are not two contexts: give by=COLUMN"),
        ("dose", single, "no compound has two doses"),
    ):
        with pytest.raises(UserError, match=message):
            make_splits(few, compounds, kind, [0])
