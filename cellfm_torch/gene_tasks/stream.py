"""Sums over cells that are seen once, batch by batch; an interrupted job goes on where it stopped.

Shapes: r cells of a group.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from rich.console import Console

from cellfm_torch.batch import CellBatch
from cellfm_torch.gene_tasks.cells import CellGroups
from cellfm_torch.gene_tasks.steps import steps
from cellfm_torch.job_folder import Arrays, save_arrays, saved_arrays

SAVE_SECONDS, SAVE_SHARE = 30.0, 0.05
"""At least so long passes between two states that are kept, and so long that keeping takes no larger share of the time:
what a kill can lose."""


class Sums(Protocol):
    """What is added up over the cells of a group."""

    def add(self, batch: CellBatch) -> None:
        """See some cells."""

    def arrays(self) -> Arrays:
        """Return all that was added up."""

    def load(self, arrays: Arrays) -> None:
        """Go on from what :meth:`arrays` returned."""


def stream(
    cells: CellGroups,
    sums: Callable[[str], Sums],
    *,
    keep: Path | None = None,
    device: torch.device | str = "cpu",
    what: str = "Cells",
    verbose: bool = True,
) -> Iterator[tuple[str, Arrays]]:
    """Go through the cells group by group; yields each group's name and sums when it is done.

    Parameters
    ----------
    cells
        In groups.
    sums
        Makes empty sums for a group.
    keep
        Folder in which sums are kept, so that the next call goes on; None keeps nothing. Whoever calls says that it
        belongs to the same job (:func:`~cellfm_torch.job_folder.open_job`), and removes it.
    device
        To which batches are moved.
    what
        Word before the bar.
    verbose
        Show progress.
    """
    total = sum(map(len, cells.rows.values()))
    with steps(total, "cells", show=verbose, what=what, rate=True) as advance:
        for number, (group, rows) in enumerate(cells.rows.items()):
            file = None if keep is None else keep / f"{number:06}.npz"
            added, done = sums(group), 0
            if file is not None and (there := saved_arrays(file)) is not None:
                done = int(there.pop("cells_done"))
                added.load(there)
                advance(number=done, new=False)
                if verbose and done:
                    line = f"going on: {done:,} of {len(rows):,} cells of {group} were done before"
                    Console().print(line, highlight=False, markup=False, soft_wrap=True)
            saved, pause = time.monotonic(), SAVE_SECONDS
            for batch in cells.batches(rows[done:]):
                added.add(batch.to(device))
                done += batch.num_cells
                advance(number=batch.num_cells)
                if file is not None and (done == len(rows) or time.monotonic() - saved > pause):
                    began = time.monotonic()
                    save_arrays(file, {"cells_done": np.array(done), **added.arrays()})
                    saved = time.monotonic()
                    pause = max(SAVE_SECONDS, (saved - began) / SAVE_SHARE)
            yield group, added.arrays()
