"""Units of IC50, and which one numbers look like.

Shapes: D drugs, L lines.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from cellfm_torch.drug.means import Floats
from cellfm_torch.errors import UserError, nearest

UNITS: dict[str, Callable[[Floats], Floats]] = {
    "ln_uM": lambda x: x,
    "uM": np.log,
    "nM": lambda x: np.log(x / 1e3),
    "pIC50": lambda x: (6 - x) * np.log(10),
}
"""From each to ln(uM); pIC50 is -log10 of molar."""

WORDS = {"ln_uM": "ln(uM)", "ln_nM": "ln(nM)", "log10_M": "log10(M)"}

MOST_LN_MICROMOLAR = 100.0
USUAL_MICROMOLAR, USUAL_NANOMOLAR = 20.0, 1000.0
USUAL_LN_NANOMOLAR = 7.0
"""Medians and maxima above which numbers are no ln(uM): GDSC's median is 2.5, its largest value 13."""

PIC50_LEAST, PIC50_MIDDLE, PIC50_MOST = 2.0, (4.0, 7.0), 13.0
"""Of all but a few, median and maximum; drugs of which ln(uM) lie there would hardly act at all."""

ENOUGH_DRUGS, MANY_DRUGS, ENOUGH_VALUES = 5, 10, 10
"""That numbers are told by; one drug may be anything."""


def told_unit(values: Floats) -> str | None:
    """Return the unit that numbers (D, L) look like: of :data:`UNITS`, ``"ln_nM"`` or ``"log10_M"``; None: unclear."""
    x = values[np.isfinite(values)]
    low, middle, high = float(x.min()), float(np.median(x)), float(x.max())
    several = values.shape[0] >= ENOUGH_DRUGS and x.size >= ENOUGH_VALUES
    if low > 0 and middle > USUAL_NANOMOLAR:
        return "nM"
    if low >= 0 and (high > MOST_LN_MICROMOLAR or middle > USUAL_MICROMOLAR):
        return "uM"
    for sign, unit in ((1, "pIC50"), (-1, "log10_M")):
        few, between = np.quantile(sign * x, 0.025), PIC50_MIDDLE[0] <= sign * middle <= PIC50_MIDDLE[1]
        if several and (sign * x).min() >= 0 and few >= PIC50_LEAST and between and (sign * x).max() <= PIC50_MOST:
            return unit
    if several and middle > USUAL_LN_NANOMOLAR:
        return "ln_nM"
    return "ln_uM" if low < 0 and high <= MOST_LN_MICROMOLAR else None


def check_unit(unit: str) -> None:
    """Refuse a unit that is not known.

    Raises
    ------
    UserError
        Naming the ones that are.
    """
    if unit not in UNITS:
        raise UserError(f"unit={unit}: choose {', '.join(UNITS)}{nearest(unit, UNITS)}")


def in_ln_micromolar(table: pd.DataFrame, unit: str, path: str | Path) -> pd.DataFrame:
    """Return IC50 (D, L) in ln(uM).

    Raises
    ------
    UserError
        If the values cannot be in this unit, or look like another one, which is said.
    """
    values = table.to_numpy(dtype=np.float64)
    told, known = told_unit(values), values[np.isfinite(values)]
    expected = WORDS.get(unit, unit)
    said = f"{path}: IC50 from {known.min():.3g} to {known.max():.3g} with a median of {np.median(known):.3g}"
    if _contradicts(told, unit, values):
        raise UserError(f"{said} look like {WORDS.get(str(told), told)}, where {expected} is expected: {_advice(told)}")
    if unit == "ln_uM" and known.max() > MOST_LN_MICROMOLAR:
        raise UserError(f"{said} cannot be ln(uM), which is below {MOST_LN_MICROMOLAR:g}: convert them")
    if unit == "pIC50" and not -2 <= known.min() <= known.max() <= 16:
        raise UserError(f"{said} cannot be pIC50 (-log10 of molar), which is about 3 to 11: set unit=")
    if unit in ("uM", "nM") and known.min() <= 0:
        raise UserError(f"{path}: unit={unit}: has values that are not positive ({known.min():.4g})")
    return pd.DataFrame(UNITS[unit](values), table.index, table.columns)


def _contradicts(told: str | None, unit: str, values: Floats) -> bool:
    """Say whether what numbers look like rules out the unit that they are said to be in."""
    if told is None or told == unit:
        return False
    many = values.shape[0] >= MANY_DRUGS and int(np.isfinite(values).sum()) >= ENOUGH_VALUES
    if unit == "uM":  # a few drugs may be weak
        return told in ("ln_uM", "log10_M") or (told in ("nM", "pIC50") and many)
    if unit == "nM":  # nanomolar of potent drugs are as micromolar of usual ones
        return told in ("ln_uM", "log10_M") or (told == "pIC50" and many)
    return not (unit == "pIC50" and told == "ln_nM")  # of potent drugs


def _advice(told: str | None) -> str:
    if told == "ln_nM":
        return "subtract ln(1000) = 6.908"
    if told == "log10_M":
        return "change their sign and set unit=pIC50"
    return f"set unit={told}"
