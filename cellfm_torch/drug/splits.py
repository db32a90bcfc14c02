"""Which IC50 are learned from, which decide when to stop, and which are asked about; nothing is two of these.

Shapes: n pairs of a line and a drug.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.drug.join import Responses
from cellfm_torch.errors import UserError, nearest

KINDS = ("pair", "line", "drug", "tissue")
PARTS = ("train", "validation", "test")

Pairs = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """One way to divide the IC50.

    Attributes
    ----------
    kind : str
        Of :data:`KINDS`.
    seed : int
    train, validation, test : (n, 2) int64
        Line and drug of each IC50.
    units : dict of str to tuple of str
        Lines, drugs or tissues of each part; of a split by pair there are none.
    """

    kind: str
    seed: int
    train: Pairs
    validation: Pairs
    test: Pairs
    units: dict[str, tuple[str, ...]]

    @property
    def held_out(self) -> str:
        """What a test asks about, in words."""
        if self.kind == "pair":
            return f"{len(self.test):,} pairs"
        number = len(self.units["test"])
        return f"{number:,} {self.kind}{'' if number == 1 else 's'}"

    def as_json(self, responses: Responses) -> dict[str, Any]:
        """Return what is saved with a run; pairs of validation and test by name, all others are learned from."""
        found: dict[str, Any] = {"split": self.kind, "seed": self.seed, "held_out": self.held_out}
        found["pairs"] = {name: len(getattr(self, name)) for name in PARTS}
        if self.kind == "drug":  # as the IC50 table and as people call them, not by their structures
            of = {name: np.unique(getattr(self, name)[:, 1]) for name in PARTS}
            called = (("units", responses.drugs), ("names", responses.titles))
            return found | {key: {name: [words[i] for i in of[name]] for name in PARTS} for key, words in called}
        if self.kind != "pair":
            return found | {"units": {name: list(units) for name, units in self.units.items()}}
        for name in PARTS[1:]:
            found[name] = [[responses.lines[i], responses.drugs[j]] for i, j in getattr(self, name)]
        return found


def unit_names(responses: Responses, kind: str) -> NDArray[np.object_]:
    """Return what a split of a kind keeps apart, for each pair, (n,); None where it is unknown.

    A drug is its structure: two drugs of one structure are never told apart.
    """
    pairs = responses.pairs
    if kind == "line":
        return np.array(responses.lines, dtype=object)[pairs[:, 0]]
    if kind == "tissue":
        return responses.tissue[pairs[:, 0]]
    identity = np.array([responses.identity(i) for i in range(len(responses.drugs))], dtype=object)[pairs[:, 1]]
    if kind == "drug":
        return identity
    found = np.empty(len(pairs), dtype=object)
    found[:] = [f"{responses.lines[i]}\t{drug}" for i, drug in zip(pairs[:, 0], identity, strict=True)]
    return found


def make_split(responses: Responses, kind: str, seed: int, *, share: float = 0.2, validation: float = 0.1) -> Split:
    """Divide the IC50.

    Parameters
    ----------
    kind
        Of :data:`KINDS`: what of a test must be new.
    seed
        Of the choice.
    share, validation
        Of the units (pairs, lines, drugs, tissues); at least one each.

    Raises
    ------
    UserError
        If there are too few units, no tissue is known, or drugs that are told by name only would be held out.
    """
    if kind not in KINDS:
        raise UserError(f"split={kind}: choose {', '.join(KINDS)}{nearest(kind, KINDS)}")
    for name, value in (("share", share), ("validation", validation)):
        if not 0 < value < 1:
            raise UserError(f"{name}={value}: must be between 0 and 1")
    if share + validation >= 1:
        raise UserError(f"share={share}, validation={validation}: nothing would be left to learn from")
    if kind == "drug" and not responses.compounds.by_structure:
        raise UserError("split=drug: without SMILES nothing is known of a drug that was never seen: give smiles=FILE")
    names, pairs = unit_names(responses, kind), responses.pairs
    units = sorted({name for name in names if name is not None})
    if kind == "tissue" and not units:
        raise UserError("split=tissue: the tissue of no line is known: give annotation=FILE with a column Site_Primary")
    if len(units) < 3:
        raise UserError(f"split={kind}: takes three {kind}s at least (there are {len(units)}): choose another split")
    order = np.random.default_rng([seed, KINDS.index(kind)]).permutation(len(units))
    tested = min(max(1, round(share * len(units))), len(units) - 2)
    stopped = min(max(1, round(validation * len(units))), len(units) - tested - 1)
    parts = {
        "test": {units[i] for i in order[:tested]},
        "validation": {units[i] for i in order[tested : tested + stopped]},
        "train": {units[i] for i in order[tested + stopped :]},
    }
    rows = {part: pairs[np.array([name in own for name in names])] for part, own in parts.items()}
    said = {} if kind == "pair" else {part: tuple(sorted(own)) for part, own in parts.items()}
    split = Split(kind, seed, rows["train"], rows["validation"], rows["test"], said)
    check_leak_free(split, responses)
    return split


def check_leak_free(split: Split, responses: Responses) -> None:
    """Refuse a split of which a part shares anything with another that is to be new.

    Raises
    ------
    ValueError
        If it does, naming it.
    """
    pairs = responses.pairs
    names = dict(zip(map(tuple, pairs.tolist()), unit_names(responses, split.kind), strict=True))
    own = [{names[tuple(pair)] for pair in getattr(split, part).tolist()} for part in PARTS]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        if both := own[a] & own[b]:
            raise ValueError(f"the split by {split.kind} leaks: {min(both)} is in {PARTS[a]} and in {PARTS[b]}")


def make_splits(responses: Responses, kind: str, seeds: Sequence[int], **options: float) -> list[Split]:
    """Return a split per seed.

    Raises
    ------
    UserError
        As :func:`make_split`, or without a seed.
    """
    if not seeds:
        raise UserError("seeds: give at least one")
    return [make_split(responses, kind, seed, **options) for seed in seeds]
