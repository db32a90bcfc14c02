"""Cell lines and drugs go by several names: which ones are the same.

Shapes: none; names only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from cellfm_torch.errors import UserError

LINE_IDS = (
    *("depmapid", "modelid", "broadid", "ccleid", "cclename", "name", "celllinename", "strippedcelllinename"),
    *("cosmicid", "cosmic", "sangermodelid", "linealias", "line", "cellline"),
)
"""Columns of tables of cell lines, without case and signs, that hold a name of the line."""
TISSUES = ("siteprimary", "oncotreelineage", "lineage", "primarydisease", "tissue", "gdsctissuedescriptor1")

DRUG_IDS = ("drugid", "name", "drugname", "drug", "compound", "pubchem", "pubchemid", "pubchemcid", "cid")


def plain(name: object) -> str:
    """Return a name in small letters without anything but letters and digits."""
    return re.sub(r"[^0-9a-z]", "", str(name).lower())


def cleaned(name: object) -> str:
    """Return an id as it is meant: ``905975.0``, ``DATA.905975`` and ``GDSC:1`` are 905975 and 1.

    Of ``22Rv1_PROSTATE (ACH-000956)`` it is the id in brackets.
    """
    text = str(name).strip()
    inside = re.fullmatch(r".*\((ACH-\d+)\)", text)
    text = inside[1] if inside else text
    text = re.sub(r"^(?:DATA\.|GDSC:|GDSC_|COSMIC:|CID:?)(?=\d)", "", text)
    return re.sub(r"^(\d+)\.0+$", r"\1", text)


@dataclass
class Names:
    """Several names of one thing.

    Attributes
    ----------
    first : dict of str to str
        By each name, without signs: the name it is known by here. Names of several things are not in it.
    tissue : dict of str to str
        Of cell lines, by the name they are known by here.
    """

    first: dict[str, str] = field(default_factory=dict)
    tissue: dict[str, str] = field(default_factory=dict)

    def of(self, name: object) -> str:
        """Return what a name stands for; itself, cleaned, where nothing is known of it."""
        text = cleaned(name)
        return self.first.get(plain(text), text)

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[str]]) -> Names:
        """Return names by rows of them, of which the first is the one used here; a name of two rows is of no use."""
        owner: dict[str, str | None] = {}
        for row in rows:
            for name in row:
                key = plain(cleaned(name))
                if key:
                    owner[key] = row[0] if owner.get(key, row[0]) == row[0] else None
        return cls({key: name for key, name in owner.items() if name is not None})


def read_table(path: str | Path, option: str) -> pd.DataFrame:
    """Read a csv, or a table with tabs, as words.

    Raises
    ------
    UserError
        If there is no such file, or it is no table.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"{option}={file}: there is no such file")
    try:
        with file.open(encoding="utf-8", errors="strict") as opened:
            first = opened.readline()
        tabs = first.count("\t") > first.count(",")
        return pd.read_csv(file, sep="\t" if tabs else ",", dtype=str, keep_default_na=True, low_memory=False)
    except (UnicodeDecodeError, ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{file}: is no csv or table with tabs ({str(error).splitlines()[0][:80]})") from None


def columns_of(table: pd.DataFrame, known: Sequence[str]) -> list[str]:
    """Return the columns of a table that are among known ones, in the order of those."""
    there: Mapping[str, str] = {plain(name): str(name) for name in reversed(table.columns)}
    return [there[name] for name in known if name in there]


def read_lines(path: str | Path | None) -> Names:
    """Read a table of cell lines (CCLE's annotations, DepMap's sample_info.csv or Model.csv): names and tissues.

    Raises
    ------
    UserError
        If it has no column of names.
    """
    if path is None:
        return Names()
    table = read_table(path, "annotation")
    ids, tissues = columns_of(table, LINE_IDS), columns_of(table, TISSUES)
    if not ids:
        raise UserError(
            f"{path}: has no column with names of cell lines (depMapID, ModelID, CCLE_ID, COSMIC_ID, Name ...); it has "
            f"{', '.join(map(str, table.columns[:8]))}"
        )
    rows, tissue = [], {}
    for number, words in enumerate(table[ids].itertuples(index=False)):
        row = [cleaned(word) for word in words if isinstance(word, str) and word.strip()]
        if row:
            rows.append(row)
            word = table[tissues[0]].iloc[number] if tissues else None
            if isinstance(word, str) and word.strip():
                tissue[row[0]] = word.strip()
    names = Names.from_rows(rows)
    names.tissue = tissue
    return names


def read_drugs(path: str | Path | None) -> tuple[Names, dict[str, tuple[str, ...]]]:
    """Read a table of drugs (GDSC's list): names, and all names of each.

    Raises
    ------
    UserError
        If it has no column of names.
    """
    if path is None:
        return Names(), {}
    table = read_table(path, "drugs")
    ids = columns_of(table, DRUG_IDS)
    if len(ids) < 2:
        raise UserError(f"{path}: needs two columns of drug_id, Name, PubCHEM (it has {', '.join(table.columns[:8])})")
    rows = [[cleaned(word) for word in words if isinstance(word, str)] for words in table[ids].itertuples(index=False)]
    kept = [row for row in rows if row]
    return Names.from_rows(kept), {row[0]: tuple(row) for row in kept}
