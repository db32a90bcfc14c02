"""Which columns of a file say what cells were treated with, as public data sets write them.

Shapes: n cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.errors import UserError, examples, nearest

DRUG = ("drug", "compound", "perturbation", "treatment", "condition", "product_name")
DOSE = ("dose", "dose_value", "dose_val", "concentration")
UNIT = ("dose_unit", "unit")
SMILES = ("smiles", "canonical_smiles", "smiles_rdkit")
JOINED = "cov_drug_dose_name"
"""``A549_Belinostat_10.0``: context, compound and dose in one column, as pertpy and chemCPA write them."""

CONTROLS = frozenset(
    {
        *("ctrl", "control", "controls", "vehicle", "dmso", "dmso_tf", "dmso_control", "mock", "pbs"),
        *("untreated", "unst", "unstim", "unstimulated"),
    }
)
"""Words for cells without a compound, in small letters."""

NONE = "none"
"""What is given as a column where there is one that is not to be used."""

Words = NDArray[np.object_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Columns:
    """Names of the columns of obs, and how they are read; kept with a predictor.

    Attributes
    ----------
    drug : str
    dose, smiles, by : str or None
        Of `smiles` also the name of a table.
    control : tuple of str
        Values of `drug` that are control; empty: the usual words.
    unit : str
        Of the doses, as the file says it; empty where it does not.
    """

    drug: str
    dose: str | None = None
    smiles: str | None = None
    by: str | None = None
    control: tuple[str, ...] = ()
    unit: str = ""

    def is_control(self, drug: Iterable[object]) -> NDArray[np.bool_]:
        """Say which values of the drug column are control."""
        words = {word.strip().lower() for word in self.control} or CONTROLS
        return np.array([value is not None and str(value).strip().lower() in words for value in drug], dtype=bool)


def find_column(obs: pd.DataFrame, given: str | None, usual: Iterable[str], option: str, *, source: str) -> str | None:
    """Return the column that was given, or the first usual one that is there, whatever its case.

    Raises
    ------
    UserError
        If the one that was given is not there.
    """
    there = [str(column) for column in obs.columns]
    if given is not None:
        if given not in there:
            raise UserError(
                f"{source}: {option}={given}: no such column in obs (it has {', '.join(there)}){nearest(given, there)}"
            )
        return given
    small = {name.lower(): name for name in reversed(there)}
    return next((small[name] for name in usual if name in small), None)


def taken_apart(obs: pd.DataFrame) -> pd.DataFrame:
    """Return obs with columns drug, dose and context from a joined one, where it has no column of compounds.

    Raises
    ------
    UserError
        If a value has not three parts.
    """
    if JOINED not in obs or find_column(obs, None, DRUG, "drug", source="") is not None:
        return obs
    context, drug, dose = [], [], []
    for value in obs[JOINED].astype(str):
        first, _, rest = value.partition("_")
        middle, _, last = rest.rpartition("_")
        if not middle:
            raise UserError(f"{JOINED}: '{value}' is not of the form CONTEXT_COMPOUND_DOSE: give drug=COLUMN")
        context.append(first)
        drug.append(middle)
        dose.append(last)
    return obs.assign(drug=drug, dose=dose, **({} if "context" in obs else {"context": context}))


def one_unit(obs: pd.DataFrame, treated: NDArray[np.bool_], *, source: str) -> str:
    """Return the unit of the doses, empty where no column has it.

    Raises
    ------
    UserError
        If there are several.
    """
    column = find_column(obs, None, UNIT, "unit", source=source)
    if column is None:
        return ""
    units = sorted({str(unit).strip() for unit in obs.loc[treated, column].dropna()} - {"", "nan"})
    if len(units) > 1:
        raise UserError(f"{source}: column {column} has several units ({', '.join(units)}): convert the doses to one")
    return units[0] if units else ""


def doses_of(values: pd.Series, drug: Words, treated: NDArray[np.bool_], *, option: str, source: str) -> Floats:
    """Return doses (n,), 0 for control.

    Raises
    ------
    UserError
        If that of a treated cell is no positive number.
    """
    found = pd.to_numeric(values.astype(object), errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(treated & ~((found > 0) & np.isfinite(found)))
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"{source}: {option}: the dose of cell {values.index[row]} (row {row}, {drug[row]}) is "
            f"'{values.iloc[row]}': treated cells need a positive number"
        )
    return np.where(treated, found, 0.0)


def smiles_of(
    obs: pd.DataFrame, drug: Words, treated: NDArray[np.bool_], given: str | None, *, source: str
) -> tuple[dict[str, str] | None, str | None]:
    """Return the SMILES of each compound (None: there are none) and the column or table they come from.

    Raises
    ------
    UserError
        If a compound has several, or the table is of no use.
    """
    if given == NONE:
        return None, NONE
    if given is not None and Path(given).suffix.lower() in (".csv", ".tsv"):
        return _table(Path(given).expanduser()), given
    column = find_column(obs, given, SMILES, "smiles", source=source)
    if column is None:
        return None, None
    pairs = pd.DataFrame({"drug": drug[treated], "smiles": obs.loc[treated, column].astype(object).to_numpy()})
    pairs = pairs.dropna().astype(str).drop_duplicates()
    if len(twice := pairs[pairs["drug"].duplicated()]):
        name = twice["drug"].iloc[0]
        several = examples(pairs.loc[pairs["drug"] == name, "smiles"], most=2)
        raise UserError(f"{source}: {column}: compound {name} has several SMILES ({several}): give it one")
    return dict(zip(pairs["drug"], pairs["smiles"], strict=True)), column


def _table(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise UserError(f"smiles={path}: no such table of compounds")
    table = pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",", dtype=str)
    drug = find_column(table, None, DRUG, "drug", source=str(path))
    smiles = find_column(table, None, SMILES, "smiles", source=str(path))
    if drug is None or smiles is None:
        raise UserError(f"{path}: needs columns drug and smiles (it has {', '.join(map(str, table.columns))})")
    table = table[[drug, smiles]].dropna()
    return dict(zip(table[drug], table[smiles], strict=True))
