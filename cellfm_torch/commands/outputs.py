"""What commands write: files and folders that hold nothing yet, settings, tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cellfm_torch import __version__
from cellfm_torch.errors import UserError
from cellfm_torch.files import write_text, written_beside


def new_file(
    given: str | None,
    default: str,
    suffix: str,
    option: str = "output",
    *,
    overwrite: bool,
    source: Path | None = None,
) -> Path:
    """Return the file to write.

    Parameters
    ----------
    given, default
        What was asked for, and what is taken where nothing was.
    suffix
        How its name must end.
    option
        Which option it was given by.
    overwrite
        Whether a file that is there may be replaced.
    source
        The file that is read, which is never replaced.

    Raises
    ------
    UserError
        If its name ends otherwise, it is there already, or it is the source.
    """
    path = Path(given or default).expanduser()
    if path.suffix != suffix:
        raise UserError(f"{option}={path}: the name must end in {suffix}")
    if source is not None and path.resolve() == source.resolve():
        raise UserError(f"{option}={path}: is the file that is read: give another name")
    if path.exists() and not overwrite:
        raise UserError(f"{path}: exists already: choose another {option}, or set overwrite=true")
    return path


def beside(path: Path, ending: str) -> Path:
    """Name a file that belongs to another: ``cells.h5ad`` and ``scores.csv`` give ``cells.scores.csv``."""
    return path.with_name(f"{path.stem}.{ending}")


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
