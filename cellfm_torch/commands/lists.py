"""Options that take one thing or several: genes, seeds, shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cellfm_torch.errors import UserError

LISTS = (".txt", ".csv", ".tsv", ".list")
"""Ends of names of files with a gene a line; RP11-34P13.7 is a gene."""


def listed(given: Any) -> list[Any]:
    """Return the parts of an option that takes several: a list, one thing, or words with commas between them.

    A list that comes by an option of the console script, ``--seeds [0,1]``, is a word in brackets.
    """
    if isinstance(given, str):
        return [word.strip() for word in given.strip("[] ").split(",") if word.strip()]
    return list(given) if isinstance(given, list | tuple) else [given]


def whole_numbers(given: Any, option: str) -> list[int]:
    """Return the numbers of an option that takes several.

    Raises
    ------
    UserError
        If one is no whole number, or negative.
    """
    found = listed(given)
    for value in found:
        if isinstance(value, bool) or not (isinstance(value, int) or str(value).isdigit()) or int(value) < 0:
            raise UserError(f"{option}={value}: must be a whole number, not negative, or several: {option}=[0,1,2]")
    return [int(value) for value in found]


def shares_of(given: Any, option: str) -> list[float]:
    """Return the shares of an option that takes several.

    Raises
    ------
    UserError
        If one is no number above 0 and at most 1.
    """
    found = listed(given)
    for value in found:
        try:
            share = float(value)
        except (TypeError, ValueError):
            share = -1.0
        if isinstance(value, bool) or not 0 < share <= 1:
            raise UserError(f"{option}={value}: must be a share above 0 and at most 1, or several: {option}=[0.05,0.1]")
    return [float(value) for value in found]


def gene_names(given: Any) -> list[str] | None:
    """Return genes that were listed (``[A,B]`` or ``A,B``), or that a file lists one a line; None for none.

    Raises
    ------
    UserError
        If the file does not exist or names no gene.
    """
    if given is None:
        return None
    if not isinstance(given, str):
        return [str(name) for name in given]
    path = Path(given).expanduser()
    if not path.is_file():
        if path.suffix in LISTS or "/" in given:
            raise UserError(f"{path}: no such list of genes")
        return [name.strip() for name in given.strip("[]").split(",") if name.strip()]
    names = path.read_text(encoding="utf-8").split()
    if not names:
        raise UserError(f"{path}: names no gene: give one a line")
    return names
