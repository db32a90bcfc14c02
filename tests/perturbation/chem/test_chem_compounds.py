"""Fingerprints, names, and what is said of SMILES that cannot be used."""

from __future__ import annotations

import numpy as np
import pytest
from treated_cells import ASPIRIN, CAFFEINE, ETHANOL

from cellfm_torch import UserError
from cellfm_torch.perturbation.chem import compounds as module
from cellfm_torch.perturbation.chem.compounds import Compounds, fingerprint, similarity
from cellfm_torch.perturbation.chem.simulation import FAMILIES


def test_fingerprints_follow_the_molecule_not_the_spelling() -> None:
    bits, canonical = fingerprint("OCC", name="a", source="x")
    assert bits.shape == (1024,) and set(bits) == {0.0, 1.0}
    np.testing.assert_array_equal(bits, fingerprint(ETHANOL, name="b", source="x")[0])
    assert canonical == fingerprint(ETHANOL, name="b", source="x")[1]
    assert not np.array_equal(bits, fingerprint(CAFFEINE, name="c", source="x")[0])


def test_similarity_is_that_of_rdkit() -> None:
    from rdkit import DataStructs

    texts = [ASPIRIN, CAFFEINE, ETHANOL]
    ours = np.stack([fingerprint(text, name="x", source="x")[0] for text in texts])
    theirs = []
    for bits in ours:
        vector = DataStructs.ExplicitBitVect(len(bits))
        vector.SetBitsFromList(np.flatnonzero(bits).tolist())
        theirs.append(vector)
    expected = [[DataStructs.TanimotoSimilarity(a, b) for b in theirs] for a in theirs]
    np.testing.assert_allclose(similarity(ours, ours), expected, rtol=0, atol=1e-12)  # both in float64


def test_families_of_the_simulation_are_alike_within_and_not_between() -> None:
    texts = [text for family in FAMILIES.values() for text in family]
    bits = np.stack([fingerprint(text, name=text, source="x")[0] for text in texts])
    family = np.repeat(np.arange(len(FAMILIES)), [len(texts) for texts in FAMILIES.values()])
    alike = similarity(bits, bits)
    same = family[:, None] == family[None]
    assert alike[same].min() > 0.29 > 0.2 > alike[~same].max()
    assert len({fingerprint(text, name=text, source="x")[1] for text in texts}) == len(texts) == 20


def test_two_names_of_one_molecule_are_one() -> None:
    found = Compounds.of(["a", "b", "c"], {"a": "OCC", "b": "CCO", "c": CAFFEINE}, source="x")
    assert found.identity("a") == found.identity("b") != found.identity("c")


def test_bad_smiles_are_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        UserError, match=r"^cells.h5ad: smiles: the SMILES of foo does not parse \(C1CC\(\): correct it$"
    ):
        Compounds.of(["foo"], {"foo": "C1CC("}, source="cells.h5ad: smiles")
    assert capfd.readouterr().err == ""  # RDKit has words of its own
    with pytest.raises(UserError, match=r"x: there is no SMILES of b: add it, or tell compounds apart by name"):
        Compounds.of(["a", "b"], {"a": ETHANOL, "b": ""}, source="x")


def test_names_alone_say_nothing_of_other_compounds() -> None:
    found = Compounds.of(["b", "a"], None, source="x")
    np.testing.assert_array_equal(np.stack([found.feature(name) for name in ("a", "b")]), np.eye(2))
    with pytest.raises(UserError, match="drug=aa: is no compound of the training cells.*only compounds of"):
        found.feature("aa")
    with pytest.raises(UserError, match="told apart by name in training"):
        found.feature("aa", ETHANOL)


def test_unseen_compound_takes_its_smiles() -> None:
    found = Compounds.of(["a"], {"a": ETHANOL}, source="x")
    with pytest.raises(UserError, match="drug=b: is no compound.*Else give its SMILES"):
        found.feature("b")
    np.testing.assert_array_equal(found.feature("b", "OCC"), found.feature("a"))
    with pytest.raises(UserError, match=r"smiles: the SMILES of b does not parse"):
        found.feature("b", "((")


def test_rdkit_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(UserError, match=r"takes RDKit: pip install 'cellfm_torch\[perturb\]'"):
        module.fingerprint(ETHANOL, name="a", source="x")
