"""Tables of IC50, wide or long, in natural logarithms of micromolar.

Shapes: D drugs, L lines.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from cellfm_torch.drug.names import Names, cleaned, columns_of, plain, read_table
from cellfm_torch.drug.units import check_unit, in_ln_micromolar
from cellfm_torch.errors import UserError, examples

DRUG = ("drugid", "drug", "drugname", "compound", "compoundname")
LINE = ("depmapid", "modelid", "cosmicid", "line", "cellline", "celllinename", "ccleid", "sangermodelid")
VALUE = ("lnic50", "ic50", "logic50", "pic50")


def read_ic50(path: str | Path, lines: Names, drugs: Names, *, unit: str = "ln_uM") -> pd.DataFrame:
    """Read a table of IC50.

    Parameters
    ----------
    path
        Wide, drugs by lines or the reverse, or long with columns drug, line and ln_ic50 (GDSC: DRUG_ID or DRUG_NAME,
        COSMIC_ID or CELL_LINE_NAME, LN_IC50).
    lines, drugs
        What names stand for.
    unit
        Of :data:`~cellfm_torch.drug.units.UNITS`.

    Returns
    -------
    DataFrame (D, L) of ln(uM), NaN where nothing was measured; several values of a pair are averaged.

    Raises
    ------
    UserError
        If there is no such table, a value is no number, or values are in another unit.
    """
    check_unit(unit)
    table = read_table(path, "ic50")
    drug, line, value = (columns_of(table, names)[:1] for names in (DRUG, LINE, VALUE))
    if drug and line and value:
        if plain(value[0]) == "pic50" and unit != "pIC50":
            raise UserError(f"{path}: column {value[0]} is not {unit}: set unit=pIC50")
        frame = pd.DataFrame({"drug": table[drug[0]], "line": table[line[0]], "value": table[value[0]]})
        frame = frame.dropna(subset=["drug", "line"])
        frame["value"] = _numbers(frame["value"], lambda i: f"{frame['drug'].iloc[i]}, {frame['line'].iloc[i]}", path)
        frame["drug"] = [drugs.of(name) for name in frame["drug"]]
        frame["line"] = [lines.of(name) for name in frame["line"]]
        wide = frame.pivot_table("value", "drug", "line", aggfunc="mean", sort=False)
    else:
        if table.shape[1] < 2:
            raise UserError(
                f"{path}: is neither drugs by lines nor a table with columns drug, line, ln_ic50 (it has "
                f"{', '.join(map(str, table.columns[:6]))})"
            )
        wide = _wide(table.set_index(table.columns[0]), lines, drugs, path)
    values = wide.to_numpy(dtype=np.float64)
    if not np.isfinite(values).any():
        raise UserError(f"{path}: holds no IC50")
    return in_ln_micromolar(wide, unit, path)


def _wide(table: pd.DataFrame, lines: Names, drugs: Names, path: str | Path) -> pd.DataFrame:
    of_columns, of_rows = (sum(plain(cleaned(n)) in lines.first for n in axis) for axis in (table.columns, table.index))
    many = sum(plain(cleaned(name)) in drugs.first for name in table.columns)
    ids = [sum(str(n).upper().startswith("ACH-") for n in axis) for axis in (table.columns, table.index)]
    if (of_rows, ids[1], many) > (of_columns, ids[0], 0):  # lines are rows
        table = table.T
    rows, columns = list(map(str, table.index)), list(map(str, table.columns))
    flat = _numbers(
        pd.Series(table.to_numpy(dtype=object).ravel()),
        lambda i: f"{rows[i // len(columns)]}, {columns[i % len(columns)]}",
        path,
    )
    frame = pd.DataFrame(flat.to_numpy().reshape(table.shape), [drugs.of(name) for name in rows])
    frame.columns = [lines.of(name) for name in columns]
    frame = frame.groupby(level=0, sort=False).mean()
    return frame.T.groupby(level=0, sort=False).mean().T


def _numbers(values: pd.Series, where: Callable[[int], str], path: str | Path) -> pd.Series:
    found = pd.to_numeric(values, errors="coerce")
    wrong = np.flatnonzero(found.isna().to_numpy() & values.notna().to_numpy())
    if len(wrong):
        place = where(int(wrong[0]))
        raise UserError(f"{path}: the IC50 of {place} is '{values.iloc[int(wrong[0])]}': must be a number or NA")
    return found.astype(np.float64)


def read_smiles(path: str | Path) -> dict[str, str]:
    """Read SMILES by name or PubChem id: a csv with columns drug,smiles, or two columns without a heading.

    Raises
    ------
    UserError
        If there is no such table.
    """
    table = read_table(path, "smiles")
    smiles = columns_of(table, ("smiles", "canonicalsmiles"))
    names = columns_of(table, ("drug", "drugname", "name", "compound", "drugid", "pubchem", "cid", "pubchemid"))
    if not smiles and table.shape[1] == 2:  # without a heading: the first row became one
        first = pd.DataFrame([list(table.columns)], columns=table.columns)
        table = pd.concat([first, table], ignore_index=True)
        table.columns = pd.Index(["drug", "smiles"])
        names, smiles = ["drug"], ["smiles"]
    if not smiles or not names:
        raise UserError(f"{path}: needs columns drug and smiles (it has {examples(table.columns, most=6)})")
    kept = table.dropna(subset=[names[0], smiles[0]])
    return {cleaned(name): str(text) for name, text in zip(kept[names[0]], kept[smiles[0]], strict=True)}


def read_thresholds(path: str | Path) -> dict[str, float]:
    """Read ln(uM) below which a line is sensitive, by drug: a row of names and a row of numbers, or columns.

    Raises
    ------
    UserError
        If there is no such table, or a value is no number.
    """
    table = read_table(path, "thresholds")
    if len(table) == 1:
        names, values = [str(name) for name in table.columns], table.iloc[0].tolist()
    elif table.shape[1] >= 2:
        names, values = table.iloc[:, 0].astype(str).tolist(), table.iloc[:, 1].tolist()
    else:
        raise UserError(f"{path}: needs names of drugs and their thresholds, in two rows or two columns")
    numbers = _numbers(pd.Series(values, dtype=object), lambda i: names[i], path)
    return {name.strip(): float(number) for name, number in zip(names, numbers, strict=True) if np.isfinite(number)}
