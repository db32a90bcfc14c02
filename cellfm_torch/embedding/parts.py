"""Embeddings found so far: in memory, or in a folder from which an interrupted job goes on.

Shapes: r cells of a part, C width of an output.
"""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.errors import UserError
from cellfm_torch.files import written_beside
from cellfm_torch.job_folder import is_of_job, open_job
from cellfm_torch.processes import rank

PATIENCE = 60.0
"""Seconds that other processes wait for the first one to make the folder."""

Values = Mapping[str, NDArray[np.float32]]


class Parts(Protocol):
    """Rows (r,) and their values by output, (r, C) each, in whatever order they were found."""

    def add(self, rows: NDArray[np.int64], values: Values) -> None:
        """Keep some cells."""

    def __iter__(self) -> Iterator[tuple[NDArray[np.int64], Values]]:
        """Go through all that is kept."""


class MemoryParts:
    """Parts in memory."""

    def __init__(self) -> None:
        self._parts: list[tuple[NDArray[np.int64], Values]] = []

    def add(self, rows: NDArray[np.int64], values: Values) -> None:
        """Keep some cells."""
        self._parts.append((rows, values))

    def __iter__(self) -> Iterator[tuple[NDArray[np.int64], Values]]:
        """Go through all that is kept."""
        return iter(self._parts)


class FolderParts:
    """Parts in a folder, each of them a file that appears complete or not at all.

    Parameters
    ----------
    folder
        Where they are; made where it is missing.
    job
        What makes the numbers what they are. Parts of another job are not gone on with.
    overwrite
        They are thrown away.

    Raises
    ------
    UserError
        If the folder holds parts of another job, or is something else.
    """

    def __init__(self, folder: Path, job: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.folder = folder
        if not rank():
            open_job(folder, job, overwrite=overwrite)
            return
        deadline = time.monotonic() + PATIENCE
        while not is_of_job(folder, job):  # the first process makes the folder
            if time.monotonic() > deadline:
                raise UserError(f"{folder}: the first process has not made it within {PATIENCE:.0f} s")
            time.sleep(0.1)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.npz"))

    def done(self) -> NDArray[np.int64]:
        """Return the rows that are kept, ascending; a file that is damaged is removed."""
        rows = [np.zeros(0, np.int64)]
        for file in self._files():
            try:
                with zipfile.ZipFile(file) as archive, np.load(file, allow_pickle=False) as part:
                    if archive.testzip() is not None:
                        raise zipfile.BadZipFile
                    rows.append(part["rows"])
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                file.unlink(missing_ok=True)  # another process may have been faster
        return np.unique(np.concatenate(rows))

    def add(self, rows: NDArray[np.int64], values: Values) -> None:
        """Write a part; no other one begins with the same row."""
        with written_beside(self.folder / f"{rows[0]:012}.npz") as part, part.open("wb") as file:
            np.savez(file, rows=rows, **values)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[NDArray[np.int64], Values]]:
        """Go through all parts, one at a time in memory."""
        for file in self._files():
            with np.load(file, allow_pickle=False) as part:
                yield part["rows"], {name: part[name] for name in part.files if name != "rows"}

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)
