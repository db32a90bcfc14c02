"""Files that the verbs about genes read and write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cellfm_torch import __version__
from cellfm_torch.errors import UserError
from cellfm_torch.files import write_text, written_beside

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


def new_file(given: str | None, default: str, suffix: str, option: str, *, overwrite: bool) -> Path:
    """Return the file to write.

    Raises
    ------
    UserError
        If its name ends otherwise, or it is there already.
    """
    path = Path(given or default).expanduser()
    if path.suffix != suffix:
        raise UserError(f"{option}={path}: the name must end in {suffix}")
    if path.exists() and not overwrite:
        raise UserError(f"{path}: exists already: choose another {option}, or set overwrite=true")
    return path


def results_folder(given: str, *, overwrite: bool) -> Path:
    """Return the folder of results, which holds none yet.

    Raises
    ------
    UserError
        If it is a file, or holds results already.
    """
    folder = Path(given).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"results={folder}: is a file: give the name of a folder")
    held = [path.name for path in folder.iterdir() if path.name != "parts"] if folder.exists() else []
    if held and not overwrite:
        raise UserError(f"results={folder}: holds results already: choose another folder, or set overwrite=true")
    return folder


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


def write_settings(settings: dict[str, Any], results: Path) -> None:
    """Write how results were made, with the version, as settings.json."""
    text = json.dumps({**settings, "version": __version__}, indent=2, default=str)
    write_text(results / "settings.json", f"{text}\n")


def write_genes(genes: Any, path: Path) -> None:
    """Write an AnnData of genes beside and rename it."""
    from cellfm_torch.h5_files import write_anndata

    write_anndata(genes, path, compression="gzip")


def write_table(table: Any, path: Path) -> None:
    """Write a data frame as parquet, or as csv by its name, beside and rename it.

    Raises
    ------
    UserError
        If parquet was asked for and pyarrow is not installed.
    """
    with written_beside(path) as part:
        if path.suffix != ".parquet":
            table.to_csv(part, float_format="%.6g", index=False)
            return
        try:
            table.to_parquet(part, index=False)
        except ImportError:
            raise UserError(f"{path}: parquet takes pyarrow: pip install 'cellfm_torch[parquet]'") from None
