"""The folder in which a long job keeps what it has done, so that the same call goes on with it."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.errors import UserError
from cellfm_torch.files import write_text, written_beside

Arrays = Mapping[str, NDArray[Any]]


def open_job(folder: Path, job: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Make the folder of a job, or find that it is one of the same job.

    Parameters
    ----------
    folder
        Made where it is missing.
    job
        What makes the result what it is; kept in ``job.json``.
    overwrite
        What another job has done is thrown away.

    Raises
    ------
    UserError
        If the folder holds what another job has done, or is something else.
    """
    job = _as_json(job)
    described = folder / "job.json"
    if described.is_file():
        there = _described(described)
        if there == job:
            return
        if not overwrite:
            changed = sorted(key for key in {*there, *job} if there.get(key) != job.get(key))
            raise UserError(
                f"{folder}: holds what an interrupted job has done that had another {', '.join(changed)}: give the "
                "same options to go on with it, or overwrite=true to begin again"
            )
        shutil.rmtree(folder)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is in the way of what this job keeps while it runs: remove or rename it")
    write_text(described, json.dumps(job, indent=2))


def is_of_job(folder: Path, job: Mapping[str, Any]) -> bool:
    """Whether a folder is that of a job."""
    return _described(folder / "job.json") == _as_json(job)


def _as_json(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job as JSON has it, so that what is read back is equal to what was written."""
    return dict(json.loads(json.dumps(job, default=str)))


def _described(file: Path) -> dict[str, Any]:
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return there if isinstance(there, dict) else {}


def save_arrays(file: Path, arrays: Arrays) -> None:
    """Write arrays by name; the file appears complete or not at all."""
    with written_beside(file) as part, part.open("wb") as opened:
        np.savez(opened, **arrays)  # type: ignore[arg-type]


def saved_arrays(file: Path) -> dict[str, NDArray[Any]] | None:
    """Return what :func:`save_arrays` wrote; None where there is nothing, or the file is damaged."""
    try:
        with zipfile.ZipFile(file) as archive, np.load(file, allow_pickle=False) as there:
            return None if archive.testzip() is not None else dict(there)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def kept(file: Path | None, shapes: Mapping[str, tuple[int, ...]], compute: Callable[[], Arrays]) -> Arrays:
    """Return the arrays that a file keeps, or compute and keep them.

    Parameters
    ----------
    file
        An npz; None keeps nothing.
    shapes
        That are expected, by name; a file that is damaged or holds others is computed again.
    compute
        What gives them.
    """
    there = None if file is None else saved_arrays(file)
    if there is not None and {name: array.shape for name, array in there.items()} == dict(shapes):
        return there
    found = compute()
    if file is not None:
        save_arrays(file, found)
    return found
