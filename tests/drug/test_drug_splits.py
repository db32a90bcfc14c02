"""Nothing of a test is learned from or decides when to stop."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from line_tables import network, simulated, write

from cellfm_torch import UserError
from cellfm_torch.data.compounds import Compounds
from cellfm_torch.drug.join import Responses, read_responses
from cellfm_torch.drug.splits import KINDS, PARTS, check_leak_free, make_split, make_splits


@pytest.fixture(scope="module")
def responses(tmp_path_factory: pytest.TempPathFactory) -> Responses:
    tables = write(tmp_path_factory.mktemp("tables"), simulated(40, 300))
    return read_responses(spec=network().input_spec, **tables)


@pytest.mark.parametrize("kind", KINDS)
def test_leak_free(responses: Responses, kind: str) -> None:
    for split in make_splits(responses, kind, [0, 1, 2]):
        parts = [getattr(split, part) for part in PARTS]
        every = {tuple(pair) for part in parts for pair in part.tolist()}
        assert len(every) == sum(map(len, parts)) == len(responses.pairs)
        assert all(len(part) for part in parts)
        if kind == "pair":
            continue
        keys = {
            "line": lambda pair: pair[0],
            "drug": lambda pair: responses.identity(pair[1]),
            "tissue": lambda pair: responses.tissue[pair[0]],
        }[kind]
        own = [{keys(pair) for pair in part.tolist()} for part in parts]
        assert not own[0] & own[1] and not own[0] & own[2] and not own[1] & own[2]


def test_seeds_and_shares(responses: Responses) -> None:
    a, b, again = (make_split(responses, "line", seed) for seed in (0, 1, 0))
    assert np.array_equal(a.test, again.test) and not np.array_equal(a.test, b.test)
    assert [len(a.units[part]) for part in PARTS] == [28, 4, 8]  # of 40 lines
    said = a.as_json(responses)
    assert said["units"]["test"] == list(a.units["test"]) and said["pairs"]["test"] == len(a.test)
    pairs = make_split(responses, "pair", 0)
    named = pairs.as_json(responses)["test"]
    assert named[0] == [responses.lines[pairs.test[0, 0]], responses.drugs[pairs.test[0, 1]]]


def test_held_out_drugs_are_named_as_in_the_table(responses: Responses) -> None:
    split = make_split(responses, "drug", 0)
    said = split.as_json(responses)
    tested = sorted({int(drug) for drug in split.test[:, 1]})
    assert said["units"]["test"] == [responses.drugs[i] for i in tested]
    assert said["names"]["test"] == [responses.titles[i] for i in tested] and said["names"]["test"][0][:5] == "drug "
    assert sorted(sum(said["units"].values(), [])) == sorted(responses.drugs)


def test_two_names_of_one_molecule_stay_together(responses: Responses) -> None:
    smiles = {name: responses.compounds.smiles[name] for name in responses.drugs}
    smiles["2"] = smiles["1"]
    same = dataclasses.replace(responses, compounds=Compounds.of(responses.drugs, smiles, source="test"))
    first, second = (same.drugs.index(name) for name in ("1", "2"))
    for seed in range(5):
        for kind in ("drug", "pair"):
            split = make_split(same, kind, seed)
            for line in range(len(same.lines)):
                where = {
                    part
                    for part in PARTS
                    for i, j in getattr(split, part).tolist()
                    if j in (first, second) and (kind == "drug" or i == line)
                }
                assert len(where) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_leak_is_refused(responses: Responses, kind: str) -> None:
    split = make_split(responses, kind, 0)
    for part in ("train", "validation"):
        more = np.concatenate([getattr(split, part), split.test[:1]])
        with pytest.raises(ValueError, match=f"the split by {kind} leaks: .* is in {part} and in test"):
            check_leak_free(dataclasses.replace(split, **{part: more}), responses)


def test_nothing_to_hold_out(responses: Responses) -> None:
    bare = dataclasses.replace(
        responses,
        tissue=np.full(len(responses.lines), None, dtype=object),
        compounds=Compounds.of(responses.drugs, None, source=""),
    )
    for kind, message in (
        ("tissue", "split=tissue: the tissue of no line is known: give annotation=FILE"),
        ("drug", "split=drug: without SMILES nothing is known of a drug that was never seen"),
        ("lnie", "split=lnie: choose pair, line, drug, tissue; did you mean 'line'"),
    ):
        with pytest.raises(UserError, match=message):
            make_split(bare, kind, 0)
    two = dataclasses.replace(responses, tissue=np.resize(np.array(["a", "b"], dtype=object), 40))
    with pytest.raises(UserError, match=r"takes three tissues at least \(there are 2\)"):
        make_split(two, "tissue", 0)
    with pytest.raises(UserError, match="nothing would be left to learn from"):
        make_split(responses, "line", 0, share=0.9, validation=0.2)
    with pytest.raises(UserError, match="seeds: give at least one"):
        make_splits(responses, "line", [])


def test_lines_of_no_tissue_take_no_part(tmp_path: Path, responses: Responses) -> None:
    tissue = responses.tissue.copy()
    tissue[0] = None
    split = make_split(dataclasses.replace(responses, tissue=tissue), "tissue", 0)
    assert not any((getattr(split, part)[:, 0] == 0).any() for part in PARTS)
