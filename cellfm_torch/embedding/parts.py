"""Embeddings found so far: in memory, or in a folder from which an interrupted job goes on.

Shapes: r cells of a part, C width of an output.
"""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from cellfm_torch.errors import UserError
from cellfm_torch.files import write_text, written_beside

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

    Raises
    ------
    UserError
        If the folder holds parts of another job, or is something else.
    """

    def __init__(self, folder: Path, job: Mapping[str, Any]) -> None:
        self.folder = folder
        # As JSON has it, so that what is read back is equal to what was written.
        job = json.loads(json.dumps(job))
        described = folder / "job.json"
        if getattr(rank_zero_only, "rank", 0):  # the first process makes the folder
            deadline = time.monotonic() + PATIENCE
            while not described.is_file() and time.monotonic() < deadline:
                time.sleep(0.1)
        if described.is_file():
            try:
                there = json.loads(described.read_text(encoding="utf-8"))
            except ValueError:
                there = {}
            if there != job:
                changed = sorted(key for key in {*there, *job} if there.get(key) != job.get(key))
                raise UserError(
                    f"{folder}: holds what an interrupted job has done that had another {', '.join(changed)}: give the "
                    "same options to go on with it, or overwrite=true to begin again"
                )
        elif folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder}: is in the way of what this job keeps while it runs: remove or rename it")
        else:
            write_text(described, json.dumps(job, indent=2))

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
                file.unlink()
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


def folder_parts(folder: Path, job: Mapping[str, Any], *, overwrite: bool) -> FolderParts:
    """Open a folder of parts; those of another job are thrown away where they are to be overwritten."""
    try:
        return FolderParts(folder, job)
    except UserError:
        if not (overwrite and (folder / "job.json").is_file()):
            raise
    shutil.rmtree(folder)
    return FolderParts(folder, job)
