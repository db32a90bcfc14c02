"""Lines with expression and drugs with a structure that have an IC50: what joined, and what did not.

Shapes: D drugs, L lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.batch import InputSpec
from cellfm_torch.data.compounds import Compounds
from cellfm_torch.data.labelled import CellSet
from cellfm_torch.drug.expression import read_expression
from cellfm_torch.drug.ic50 import read_ic50, read_smiles
from cellfm_torch.drug.names import Names, read_drugs, read_lines
from cellfm_torch.errors import UserError, examples


@dataclass(frozen=True, eq=False)
class Responses:
    """IC50 of lines that have expression to drugs that can be told.

    Attributes
    ----------
    lines : tuple of str, L
    drugs : tuple of str, D
        As the IC50 table has them.
    titles : tuple of str, D
        Names for people.
    values : (L, D) float64
        ln(uM), NaN where nothing was measured.
    tissue : (L,) object
        None where it is unknown.
    compounds : Compounds
        Of the drugs.
    cells : CellSet
        Expression; more lines than L perhaps.
    rows : (L,) int64
        Of the lines in `cells`.
    joined : DataFrame
        A row per line and drug of either side: ``kind``, ``name``, ``joined``, ``why``.
    notes : tuple of str
        What was read and joined, in lines.
    """

    lines: tuple[str, ...]
    drugs: tuple[str, ...]
    titles: tuple[str, ...]
    values: NDArray[np.float64]
    tissue: NDArray[np.object_]
    compounds: Compounds
    cells: CellSet
    rows: NDArray[np.int64]
    joined: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def pairs(self) -> NDArray[np.int64]:
        """Line and drug of each IC50, (n, 2)."""
        return np.argwhere(np.isfinite(self.values))

    def identity(self, drug: int) -> str:
        """Return what tells a drug from others: two drugs of one structure have the same."""
        return self.compounds.identity(self.drugs[drug])


def read_responses(
    expression: anndata.AnnData | str | Path,
    ic50: str | Path,
    spec: InputSpec,
    *,
    smiles: str | Path | None = None,
    drugs: str | Path | None = None,
    annotation: str | Path | None = None,
    values: str = "auto",
    unit: str = "ln_uM",
    **reading: Any,
) -> Responses:
    """Read and join the tables; see :func:`cellfm_torch.drug_response` for them.

    Raises
    ------
    UserError
        If a table cannot be used, or nothing joins.
    """
    names = read_lines(annotation)
    of_drugs, known = read_drugs(drugs)
    table = read_ic50(ic50, names, of_drugs, unit=unit)
    structures = None if smiles is None else read_smiles(smiles)
    found = read_expression(expression, spec, values=values, **reading)
    rows_of = _lines(found.lines, names, found.source)
    counted = found.cells.lengths > 0
    report = []
    lines = []
    for line in map(str, table.columns):
        why = "" if line in rows_of else "no expression"
        if not why and not counted[rows_of[line]]:
            why = "no expressed gene of the model"
        if not why:
            lines.append(line)
        report.append(("line", line, not why, why))
    report += [("line", line, False, "no IC50") for line in rows_of if line not in table.columns]
    if not lines:
        raise UserError(
            f"no line of {ic50} ({examples(table.columns)}) is among those of {found.source} "
            f"({examples(found.lines)}): give the same names, or annotation=FILE with both"
        )
    drug_names, own_smiles = _structures(list(map(str, table.index)), structures, known, smiles, report)
    compounds = Compounds.of(drug_names, own_smiles, source=str(smiles))
    matrix = table.loc[drug_names, lines].to_numpy(dtype=np.float64).T
    some = np.isfinite(matrix).any(1), np.isfinite(matrix).any(0)
    lines = [line for line, kept in zip(lines, some[0], strict=True) if kept]
    drug_names = [name for name, kept in zip(drug_names, some[1], strict=True) if kept]
    matrix = matrix[np.ix_(*some)]
    if not matrix.size:
        raise UserError(f"{ic50}: the lines and drugs that joined have no IC50")
    frame = pd.DataFrame(report, columns=["kind", "name", "joined", "why"])
    notes = [*found.notes, *_said(frame, matrix)]
    if unit == "ln_uM" and np.nanmin(matrix) > 0:
        notes.append(f"{ic50}: no IC50 is below 1 uM: if they are no logarithms, set unit=uM")
    return Responses(
        lines=tuple(lines),
        drugs=tuple(drug_names),
        titles=tuple(_title(name, known) for name in drug_names),
        values=matrix,
        tissue=np.array([names.tissue.get(line) for line in lines], dtype=object),
        compounds=compounds,
        cells=found.cells,
        rows=np.array([rows_of[line] for line in lines], dtype=np.int64),
        joined=frame,
        notes=tuple(notes),
    )


def _lines(given: Sequence[str], names: Names, source: str) -> dict[str, int]:
    """Return the row of each line by the name it is known by."""
    found: dict[str, int] = {}
    for row, name in enumerate(given):
        known = names.of(name)
        if known in found:
            raise UserError(f"{source}: {given[found[known]]} and {name} are one line ({known}): keep one of them")
        found[known] = row
    return found


def _structures(
    drugs: list[str],
    structures: Mapping[str, str] | None,
    known: Mapping[str, tuple[str, ...]],
    source: str | Path | None,
    report: list[tuple[str, str, bool, str]],
) -> tuple[list[str], dict[str, str] | None]:
    """Return the drugs that take part, and their SMILES by name where there are any."""
    if structures is None:
        report += [("drug", drug, True, "") for drug in drugs]
        return drugs, None
    found: dict[str, str] = {}
    for drug in drugs:
        text = next((structures[name] for name in (drug, *known.get(drug, ())) if name in structures), None)
        report.append(("drug", drug, text is not None, "" if text else "no SMILES"))
        if text is not None:
            found[drug] = text
    if not found:
        raise UserError(
            f"{source}: has the SMILES of no drug of the IC50 table ({examples(drugs)}; it has {examples(structures)})"
            ": give drugs=FILE with both names"
        )
    return list(found), found


def _title(drug: str, known: Mapping[str, tuple[str, ...]]) -> str:
    names = [name for name in known.get(drug, ()) if not name.isdigit()]
    return names[0] if names else drug


def _said(report: pd.DataFrame, matrix: NDArray[np.float64]) -> list[str]:
    lines = []
    for kind in ("line", "drug"):
        of = report[(report["kind"] == kind) & (report["why"] != "no IC50")]
        text = f"{int(of['joined'].sum()):,} of {len(of):,} {kind}s with IC50 joined"
        for why, part in of[~of["joined"]].groupby("why", sort=False):
            text += f"; {len(part):,} have {why} ({examples(part['name'])}{' ...' if len(part) > 3 else ''})"
        lines.append(text)
    without = report[report["why"] == "no IC50"]
    if len(without):
        lines.append(f"{len(without):,} lines of the expression table have no IC50 ({examples(without['name'])} ...)")
    lines.append(f"{int(np.isfinite(matrix).sum()):,} pairs of {matrix.shape[0]:,} lines and {matrix.shape[1]:,} drugs")
    return lines
