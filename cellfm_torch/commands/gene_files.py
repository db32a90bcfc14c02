"""Files that the verbs about genes read and write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cellfm_torch.errors import UserError, examples
from cellfm_torch.files import written_beside


def one_cells(given: Any) -> Path | None:
    """Return the one file of cells that was named; None where there is none.

    Raises
    ------
    UserError
        If there are several, or it does not exist.
    """
    names = [] if given is None else [given] if isinstance(given, str) else list(given)
    if not names:
        return None
    if len(names) > 1:
        raise UserError(f"give one file of cells, not {len(names)} ({examples(names)})")
    path = Path(names[0]).expanduser()
    if not path.exists():
        raise UserError(f"{path}: there is no such file")
    return path


def listed(given: Any) -> list[Any]:
    """Return the parts of an option that takes several: a list, one thing, or words with commas between them."""
    if isinstance(given, str):
        return [word.strip() for word in given.split(",") if word.strip()]
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
    """Return the folder of results, which is made when something is written.

    Raises
    ------
    UserError
        If it is a file, or holds results already.
    """
    path = Path(given).expanduser()
    if path.exists() and not path.is_dir():
        raise UserError(f"results={path}: is a file: give the name of a folder")
    if (path / "settings.json").exists() and not overwrite:
        raise UserError(f"{path / 'settings.json'}: exists already: choose another place, or set overwrite=true")
    return path


def write_genes(genes: Any, path: Path) -> None:
    """Write an AnnData of genes beside and rename it."""
    with written_beside(path) as part:
        genes.write_h5ad(part, compression="gzip")


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
