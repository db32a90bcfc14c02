"""Splits by perturbation: nothing leaks, groups say what was seen, files come back or say what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellfm_torch.errors import UserError
from cellfm_torch.perturbation.gene.effects import Condition
from cellfm_torch.perturbation.gene.split_files import (
    column_split,
    given_split,
    load_split,
    parse_condition,
    save_split,
)
from cellfm_torch.perturbation.gene.splits import (
    GROUPS,
    Split,
    check_leaks,
    groups_of,
    make_split,
    no_split,
    simulation_split,
)

SINGLES: list[Condition] = [(f"G{i:02d}",) for i in range(20)]
DOUBLES: list[Condition] = [(*a, *b) for a, b in combinations(SINGLES, 2)]
SCREEN = [(), *SINGLES, *DOUBLES[::3]]


def test_simulation_split_has_the_four_groups() -> None:
    split = simulation_split(SCREEN, seed=1)
    assert split.groups == GROUPS
    assert sorted([*split.train, *split.val, *split.test]) == sorted(SCREEN[1:])
    assert len(split.tested("unseen single")) == 5  # a quarter of 20 genes
    unseen = {gene for (gene,) in split.tested("unseen single")}
    assert {c for c in SCREEN if unseen & set(c)} <= set(split.test)
    seen = {gene for c in split.train for gene in c}
    for condition in split.test:
        if len(condition) == 2:
            assert split.group[condition] == f"combo seen {len(seen & set(condition))}"
    validated = {c[0] for c in split.val if len(c) == 1}
    assert len(validated) == 2 and not validated & seen
    both = [c for c in SCREEN if len(c) == 2 and set(c) <= seen]
    assert len(split.tested("combo seen 2")) == round(len(both) / 4)


def test_the_seed_draws() -> None:
    assert simulation_split(SCREEN, seed=5) == simulation_split(list(reversed(SCREEN)), seed=5)
    assert len({simulation_split(SCREEN, seed=seed).test for seed in range(5)}) == 5


def test_singles_alone_are_enough() -> None:
    split = simulation_split([(f"G{i}",) for i in range(28)], seed=0)
    assert (len(split.train), len(split.val), len(split.test)) == (18, 3, 7)
    assert split.groups == ("unseen single",)
    smallest = simulation_split(SINGLES[:5])
    assert (len(smallest.train), len(smallest.val), len(smallest.test)) == (3, 1, 1)


@given(st.sets(st.sampled_from([*SINGLES[:9], *DOUBLES[:60]]), min_size=1), st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_no_screen_leaks(conditions: set[Condition], seed: int) -> None:
    try:
        split = simulation_split(sorted(conditions), seed)
    except UserError as error:
        assert "too few" in str(error)
        return
    check_leaks(split)
    assert sorted([*split.train, *split.val, *split.test]) == sorted(conditions)


def test_no_split_trains_on_all() -> None:
    split = no_split([("B",), ("A",), ("A", "B")])
    assert split.train == (("A",), ("A", "B"), ("B",)) and not split.val and not split.test


def test_leaks_are_found() -> None:
    good = make_split("x", 0, [("A",), ("B",)], [("C",)], [("D",), ("A", "D")])
    assert good.group == {("D",): "unseen single", ("A", "D"): "combo seen 1"}
    with pytest.raises(ValueError, match="A both in train and in test"):
        check_leaks(replace(good, test=(*good.test, ("A",)), group={**good.group, ("A",): "unseen single"}))
    with pytest.raises(ValueError, match="C both in val and in test"):
        check_leaks(replace(good, test=(*good.test, ("C",)), group={**good.group, ("C",): "unseen single"}))
    with pytest.raises(ValueError, match=r"group of A\+D, D is not"):
        check_leaks(replace(good, train=(*good.train, ("B", "D"))))
    with pytest.raises(ValueError, match=r"C\+D of validation"):
        check_leaks(replace(good, val=(*good.val, ("C", "D"))))
    with pytest.raises(ValueError, match="twice, or control"):
        check_leaks(replace(good, train=(*good.train, ())))


def test_groups_of_odd_conditions() -> None:
    train = [("A", "B")]
    assert groups_of(train, [("A",), ("A", "B", "C")]) == {("A",): "seen single", ("A", "B", "C"): "combo seen 2"}


def test_too_few_is_said() -> None:
    with pytest.raises(UserError, match="4 perturbed genes are too few to hold some out, 5 are needed"):
        simulation_split(SINGLES[:4])
    with pytest.raises(UserError, match="too few, or the shares leave none to train on"):
        simulation_split(SINGLES[:6], test_share=0.9)


def test_a_saved_split_comes_back(tmp_path: Path) -> None:
    split = simulation_split(SCREEN, seed=7)
    save_split(split, tmp_path / "split.json")
    assert load_split(tmp_path / "split.json", SCREEN) == split
    again = given_split(tmp_path / "split.json", SCREEN)
    assert (again.train, again.val, again.test, again.group) == (split.train, split.val, split.test, split.group)


def test_damaged_splits_are_named(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    split = simulation_split(SCREEN, seed=7)
    save_split(split, path)
    text = path.read_text()
    with pytest.raises(UserError, match="no such file"):
        load_split(tmp_path / "other.json")
    with pytest.raises(UserError, match=r"1 conditions have no cells: G19; did you mean"):
        load_split(path, [c for c in SCREEN if c != ("G19",)])
    path.write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match="cannot be read as JSON"):
        load_split(path)
    path.write_text("[]")
    with pytest.raises(UserError, match="needs the lists"):
        load_split(path)
    path.write_text('{"train": []}')
    with pytest.raises(UserError, match="is no split of a run"):
        load_split(path)
    changed = json.loads(text)
    changed["train"].append(changed["test"][0])
    path.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="both in train and in test"):
        load_split(path)
    changed = json.loads(text)
    changed["group"][changed["test"][0]] = "combo seen 9"
    path.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="changed by hand"):
        load_split(path)


CELLS: list[Condition] = [("A",), ("B",), ("A", "B"), ("C",)]


def as_expected(split: Split) -> None:
    assert (split.train, split.val, split.test) == ((("A",), ("B",)), (("C",),), (("A", "B"),))
    assert split.group == {("A", "B"): "combo seen 2"}


def test_splits_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "given.json"
    path.write_text(json.dumps({"train": ["A+ctrl", "ctrl+B", "ctrl"], "val": ["C"], "test": ["B+A"]}))
    as_expected(given_split(path, CELLS))
    table = tmp_path / "given.csv"
    table.write_text("condition,split\nctrl,train\nA+ctrl,Train\nB,training\nC,valid\nA+B,ood\n")
    as_expected(given_split(table, CELLS))
    table.write_text("split\tcondition\ntrain\tA\ntrain\tB\nval\tC\ntest\tA+B\n")
    as_expected(given_split(table, CELLS))
    cells = [(), (), ("A",), ("A",), ("B",), ("C",), ("A", "B")]
    as_expected(column_split("split", cells, ["test", "train", "train", "train", "train", "val", "test"]))
    table.write_text("condition,split\nA,train\nB,none\nC,train\nA+B,test\n")
    split = given_split(table, CELLS)
    assert split.train == (("A",), ("C",)) and split.group == {("A", "B"): "combo seen 1"}


def test_wrong_splits_of_the_user(tmp_path: Path) -> None:
    table = tmp_path / "given.csv"
    for text, message in {
        "condition,split\nA,train\nB,train\nC,train\n": r"1 conditions have no part: A\+B",
        "condition,split\nA,train\nA+ctrl,test\n": "A is in two parts",
        "condition,split\nA,trian\n": "'trian' of A is no part",
        "condition,split\nA,train\nB,train\nC,val\nA+B,test\nZ,test\n": "1 conditions have no cells: Z",
        "condition,split\nA,test\nB,test\nC,test\nA+B,test\n": "no condition is in train",
        "name,split\nA,test\n": "needs the columns",
        "condition,split\nA\n": "line 2 is too short",
        "": "needs the columns",
    }.items():
        table.write_text(text)
        with pytest.raises(UserError, match=message):
            given_split(table, CELLS)
    path = tmp_path / "given.json"
    path.write_text('{"train": "A"}')
    with pytest.raises(UserError, match="'train' is no list of names"):
        given_split(path, CELLS)
    with pytest.raises(UserError, match="column 'fold': A is in two parts"):
        column_split("fold", [("A",), ("A",)], ["train", "test"])


def test_names_of_conditions() -> None:
    assert parse_condition("KLF1+ctrl") == ("KLF1",)
    assert parse_condition("KLF1+CEBPA") == ("CEBPA", "KLF1")
    assert parse_condition("ctrl") == () == parse_condition("control")
