"""Sensitive and resistant: of lines by their IC50, of cells by a column.

Shapes: L lines, n cells.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.data.labelled import CellSet
from cellfm_torch.drug.ic50 import read_thresholds
from cellfm_torch.drug.join import Responses
from cellfm_torch.drug.names import cleaned, plain
from cellfm_torch.errors import UserError, examples, nearest

LEAST_LINES = 5
"""Of either kind."""

SENSITIVE = frozenset({"sensitive", "1", "1.0", "true", "s", "responder"})
RESISTANT = frozenset({"resistant", "0", "0.0", "false", "r", "nonresponder", "tolerant"})


def response_labels(
    responses: Responses, drug: str, threshold: float | None, thresholds: str | Path | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_], str]:
    """Return the lines that take part, which of them are sensitive, and how that was told.

    Raises
    ------
    UserError
        If the drug is unknown or has no threshold, or there are too few lines of a kind.
    """
    column = _drug(responses, drug)
    values = responses.values[:, column]
    if threshold is None and thresholds is not None:
        table = {plain(name): value for name, value in read_thresholds(thresholds).items()}
        names = (drug, responses.titles[column], responses.drugs[column])
        found = next((table[plain(name)] for name in names if plain(name) in table), None)
        if found is None:
            raise UserError(f"{thresholds}: has no threshold of {drug}: give threshold=LN_UM")
        threshold = found
    measured = values[np.isfinite(values)]
    if threshold is None:
        low, high = np.percentile(measured, [100 / 3, 200 / 3]) if len(measured) else (0.0, 0.0)
        said = f"lowest third of IC50 (below {low:.3g}), resistant the highest (above {high:.3g} ln uM)"
    else:
        if isinstance(threshold, str | bool) or not np.isfinite(threshold):
            raise UserError(f"threshold={threshold}: must be a number, in ln(uM)")
        low = high = float(threshold)
        said = f"below {low:.4g} ln uM"
    rows = np.flatnonzero((values < low) | ((values >= high) & np.isfinite(values)))
    sensitive = values[rows] < low
    ones, zeros = int(sensitive.sum()), int((~sensitive).sum())
    if min(ones, zeros) < LEAST_LINES:
        raise UserError(
            f"drug={drug}: {ones} sensitive and {zeros} resistant lines ({said}): {LEAST_LINES} of either are needed; "
            "choose another threshold"
        )
    return rows, sensitive, f"{drug}: {ones:,} sensitive and {zeros:,} resistant lines; sensitive: {said}"


def _drug(responses: Responses, drug: str) -> int:
    for names in (responses.drugs, responses.titles):
        known = [plain(name) for name in names]
        for asked in (plain(cleaned(drug)), plain(drug)):
            if asked in known:
                return known.index(asked)
    choices = [*responses.titles, *responses.drugs]
    raise UserError(
        f"drug={drug}: is no drug of the IC50 table (it has {examples(responses.titles)}){nearest(drug, choices)}"
    )


def true_labels(cells: CellSet, column: str) -> NDArray[np.object_]:
    """Return for each cell whether it is sensitive, None where that is unknown, (n,).

    Raises
    ------
    UserError
        If a value says neither, or all known cells are of one kind.
    """
    found = np.full(len(cells), None, dtype=object)
    for i, value in enumerate(cells.column(column, option="response")):
        word = None if value is None else plain(value) if str(value) not in ("1.0", "0.0") else str(value)
        if word is None or word in ("nan", "unknown", ""):
            continue
        if word not in SENSITIVE | RESISTANT:
            raise UserError(f"response={column}: '{value}' is neither sensitive nor resistant (1 nor 0)")
        found[i] = word in SENSITIVE
    if len({value for value in found if value is not None}) < 2:
        raise UserError(f"response={column}: cells of both kinds, sensitive and resistant, are needed for scores")
    return found
