"""Cells with what they were treated with, and the control cells they are compared with.

Shapes: n cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.batch import InputSpec
from cellfm_torch.data.files import Given
from cellfm_torch.data.labelled import CellSet
from cellfm_torch.errors import UserError, examples
from cellfm_torch.perturbation.chem.columns import (
    CONTROLS,
    DOSE,
    DRUG,
    NONE,
    Columns,
    doses_of,
    find_column,
    one_unit,
    smiles_of,
    taken_apart,
)

Rows = NDArray[np.int64]


class Condition(NamedTuple):
    """A compound at a dose in a context (empty where contexts are not told apart)."""

    drug: str
    dose: float
    context: str

    def __str__(self) -> str:
        where = f", {self.context}" if self.context else ""
        return f"{self.drug} at {self.dose:g}{where}"


@dataclass(frozen=True, eq=False)
class TreatedCells:
    """Cells of a file, control and treated.

    Attributes
    ----------
    cells : CellSet
    columns : Columns
        Which were read.
    drug, context : (n,) object
        Drug is None for control, and for cells that say nothing or have no counts, which take no part.
    dose : (n,) float64
        0 for control.
    control : (n,) bool
    smiles : dict or None
        By compound.
    left_out : tuple of str
        Lines about cells that take no part.
    """

    cells: CellSet
    columns: Columns
    drug: NDArray[np.object_]
    dose: NDArray[np.float64]
    context: NDArray[np.object_]
    control: NDArray[np.bool_]
    smiles: dict[str, str] | None
    left_out: tuple[str, ...] = ()
    rows: dict[Condition, Rows] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.rows:
            treated = np.flatnonzero(~self.control & (self.drug != None))  # noqa: E711  (elementwise)
            key = pd.DataFrame({"d": self.drug, "o": self.dose, "c": self.context}).iloc[treated]
            for (drug, dose, context), part in key.groupby(["d", "o", "c"], sort=True):
                self.rows[Condition(str(drug), float(dose), str(context))] = part.index.to_numpy(dtype=np.int64)

    @property
    def conditions(self) -> list[Condition]:
        """All that cells were treated with, in order."""
        return list(self.rows)

    def controls(self, context: str) -> Rows:
        """Return the control cells of a context."""
        return np.flatnonzero(self.control & (self.context == context))

    def named(self, condition: Condition) -> str:
        """Return what people call a condition: without a dose where there are none."""
        if self.columns.dose is not None:
            return str(condition)
        return ", ".join(filter(None, (condition.drug, condition.context)))

    @property
    def source(self) -> str:
        """Name of the file."""
        return source_of(self.cells)


def source_of(cells: CellSet) -> str:
    """Return what messages call the file of some cells."""
    return str(cells.cells.reports[0].file)


def read_treated(
    given: Given,
    spec: InputSpec,
    *,
    drug: str | None = None,
    dose: str | None = None,
    smiles: str | None = None,
    by: str | None = None,
    control: str | Sequence[str] | None = None,
    **reading: Any,
) -> TreatedCells:
    """Read cells; see :class:`cellfm_torch.ChemicalPerturbation` for the options.

    Raises
    ------
    UserError
        If the file or a column cannot be used, there are no control cells, of a context either, or no treated ones.
    """
    cells = CellSet.read(given, spec, **reading)
    source = source_of(cells)
    obs = taken_apart(cells.obs) if drug is None else cells.obs
    if drug is None and obs is not cells.obs:
        by = "context" if by is None else by
    name = find_column(obs, drug, DRUG, "drug", source=source)
    if name is None:
        raise UserError(f"{source}: no column of obs says what cells were treated with: give drug=COLUMN")
    words = _words(obs[name])
    controls = () if control is None else (control,) if isinstance(control, str) else tuple(control)
    columns = Columns(name, control=controls)
    is_control = columns.is_control(words)
    if not is_control.any():
        wanted = examples(controls or sorted(CONTROLS), most=20)
        has = examples(sorted({w for w in words if w is not None}), most=6)
        raise UserError(
            f"{source}: no control cells: column {name} has none of {wanted} (it has {has}): name the value with "
            "control=VALUE"
        )
    counted = cells.lengths > 0
    context, missing = np.full(len(cells), "", dtype=object), np.zeros(len(cells), dtype=bool)
    if by is not None:
        context = _words(obs[find_column(obs, by, (), "by", source=source)])
        missing = np.array([value is None for value in context])
        context[missing] = ""
    said = np.array([w is not None for w in words])
    used = counted & said & ~missing
    left_out = [
        f"{count:,} cells take no part: {why}"
        for count, why in (
            (int((~said).sum()), f"no value in column {name}"),
            (int((said & ~counted).sum()), "no counts in the model's genes"),
            (int((said & counted & missing).sum()), f"no value in column {by}"),
        )
        if count
    ]
    treated = used & ~is_control
    if not treated.any():
        raise UserError(f"{source}: every cell is control: column {name} names no compound")
    column = None if dose == NONE else find_column(obs, dose, DOSE, "dose", source=source)
    doses = treated.astype(np.float64)
    unit = ""
    if column is not None:
        doses = doses_of(obs[column], words, treated, option=column, source=source)
        unit = one_unit(obs, treated, source=source)
    known, smiles_column = smiles_of(obs, words, treated, smiles, source=source)
    columns = Columns(name, column, smiles_column, by, controls, unit)
    drugs = words.copy()
    drugs[~treated] = None
    found = TreatedCells(cells, columns, drugs, doses, context, used & is_control, known, tuple(left_out))
    for one in sorted({condition.context for condition in found.conditions}):
        if not len(found.controls(one)):
            where = f"{by}={one}: this context" if by else f"{source}: it"
            raise UserError(f"{where} has treated cells but no control cells: add some, or take the context out")
    return found


def read_controls(given: Given, spec: InputSpec, columns: Columns, **reading: Any) -> tuple[CellSet, Rows]:
    """Read cells that a prediction starts from; of a file that also has treated ones, the control cells.

    Raises
    ------
    UserError
        If there are none, or no cell has counts.
    """
    cells = CellSet.read(given, spec, **reading)
    used = cells.lengths > 0
    name = find_column(taken_apart(cells.obs), None, (columns.drug,), "drug", source=source_of(cells))
    if name is not None:
        control = columns.is_control(_words(taken_apart(cells.obs)[name]))
        if not control.any():
            raise UserError(
                f"{source_of(cells)}: no control cells in column {name}: a prediction starts from untreated cells"
            )
        used &= control
    if not used.any():
        raise UserError(f"{source_of(cells)}: no cell has counts in the model's genes")
    return cells, np.flatnonzero(used)


def _words(column: pd.Series) -> NDArray[np.object_]:
    values = column.astype(object)
    missing = (values.isna() | (values.astype(str).str.strip().isin(["", "nan", "NaN"]))).to_numpy()
    words = values.astype(str).to_numpy(dtype=object)
    words[missing] = None
    return words
