"""Which conditions are learned from and which are asked about; a condition is never both.

A split by compound keeps names of one molecule together, at every dose and in every context. A split by dose leaves one
dose of each compound out, in every context; one by context every treated cell of a context (its control cells are what
predictions start from).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellfm_torch.errors import UserError, nearest
from cellfm_torch.perturbation.chem.cells import Condition, Rows, TreatedCells
from cellfm_torch.perturbation.chem.compounds import Compounds

KINDS = ("compound", "dose", "context", "none")

Unit = Callable[[Condition], object]
"""What of a condition must be new in a test."""


@dataclass(frozen=True)
class Split:
    """One way to divide conditions.

    Attributes
    ----------
    kind : str
        Of :data:`KINDS`.
    seed : int
    held_out : str
        In words.
    train, test : tuple of Condition
    """

    kind: str
    seed: int
    held_out: str
    train: tuple[Condition, ...]
    test: tuple[Condition, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what is saved with a run."""
        conditions = {name: [list(c) for c in getattr(self, name)] for name in ("train", "test")}
        return {"split": self.kind, "seed": self.seed, "held_out": self.held_out} | conditions

    def training_rows(self, cells: TreatedCells) -> Rows:
        """Return the cells that are learned from, ascending: treated ones of `train`, and all control cells."""
        treated = [cells.rows[condition] for condition in self.train]
        return np.sort(np.concatenate([np.flatnonzero(cells.control), *treated]))


def unit_of(kind: str, compounds: Compounds) -> Unit:
    """Return what a split of a kind keeps apart."""
    if kind == "compound":
        return lambda condition: compounds.identity(condition.drug)
    if kind == "dose":
        return lambda condition: (compounds.identity(condition.drug), condition.dose)
    return lambda condition: condition.context


def make_splits(
    cells: TreatedCells, compounds: Compounds, kind: str, seeds: Sequence[int], *, share: float = 0.2
) -> list[Split]:
    """Return the splits of a kind: one per seed, by context one per seed and context.

    Parameters
    ----------
    share
        Of compounds that are held out, at least one; by doses, of the compounds that have several.

    Raises
    ------
    UserError
        If there is nothing to hold out.
    """
    if kind not in KINDS:
        raise UserError(f"split={kind}: choose {', '.join(KINDS)}{nearest(kind, KINDS)}")
    conditions, unit = cells.conditions, unit_of(kind, compounds)
    if kind == "none":
        return [Split(kind, seed, "nothing", tuple(conditions), ()) for seed in seeds]
    units = list(dict.fromkeys(unit(c) for c in conditions))
    if kind == "context":
        if len(units) < 2:
            raise UserError("split=context: there are not two contexts: give by=COLUMN, such as cell_type")
        return [_split(kind, seed, conditions, unit, {one}, str(one)) for seed in seeds for one in units]
    found = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        if kind == "compound":
            if len(units) < 2:
                raise UserError("split=compound: there is one compound only: choose split=dose, context or none")
            picked = rng.permutation(len(units))[: min(max(1, round(share * len(units))), len(units) - 1)]
            held: set[object] = {units[i] for i in picked}
            name = "compounds"
        else:
            held, name = _doses(conditions, compounds, rng), "doses"
        found.append(_split(kind, seed, conditions, unit, held, f"{len(held)} {name}"))
    return found


def check_leak_free(split: Split, cells: TreatedCells, compounds: Compounds, rows: Iterable[int]) -> None:
    """Refuse training rows that hold anything a test asks about.

    Raises
    ------
    ValueError
        If a test condition, or one that differs from it in its name only, is learned from.
    """
    unit = unit_of(split.kind, compounds)
    asked = {unit(condition) for condition in split.test}
    treated = {c for c in split.train if unit(c) in asked}
    learned = np.fromiter(rows, dtype=np.int64)
    for condition in [*cells.conditions, *treated]:
        leaks = condition in treated or (unit(condition) in asked and np.isin(cells.rows[condition], learned).any())
        if split.test and leaks:
            raise ValueError(f"the split by {split.kind} leaks: {condition} is tested and learned from")


def _split(kind: str, seed: int, conditions: Sequence[Condition], unit: Unit, held: set[Any], held_out: str) -> Split:
    train = tuple(c for c in conditions if unit(c) not in held)
    test = tuple(c for c in conditions if unit(c) in held)
    return Split(kind, seed, held_out, train, test)


def _doses(conditions: Sequence[Condition], compounds: Compounds, rng: np.random.Generator) -> set[object]:
    """Return one dose of each compound that has several."""
    by_compound: dict[str, set[float]] = {}
    for condition in conditions:
        by_compound.setdefault(compounds.identity(condition.drug), set()).add(condition.dose)
    several = {name: sorted(doses) for name, doses in by_compound.items() if len(doses) > 1}
    if not several:
        raise UserError("split=dose: no compound has two doses: choose split=compound, context or none")
    return {(name, float(rng.choice(doses))) for name, doses in several.items()}
