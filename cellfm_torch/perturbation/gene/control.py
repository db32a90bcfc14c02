"""Control cells: which cells of a file are, and some of them in memory with what a backbone makes of them.

Shapes: n control cells that are used, B of a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData
from numpy.typing import NDArray
from torch import Tensor, nn

from cellfm_torch.batch import CellBatch
from cellfm_torch.data.files import Given
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.labelled import CellSet
from cellfm_torch.embedding.cell_sets import shown
from cellfm_torch.errors import UserError, examples
from cellfm_torch.model.outputs import Encoding
from cellfm_torch.perturbation.gene.conditions import COLUMNS, parse
from cellfm_torch.perturbation.gene.effects import CONTROL

CELLS = 8
"""Of a step."""


class ControlCells:
    """Control cells as one batch, and what a frozen backbone makes of them, computed once.

    Parameters
    ----------
    cells
        The cells of a file.
    rows : (n,) int
        Which to use, ascending.
    """

    def __init__(self, cells: CellSet, rows: NDArray[np.int64]) -> None:
        self.batch = joined(list(cells.loader(rows)))
        self.rows = rows
        self.encoding: Encoding | None = None
        self._of: nn.Module | None = None

    def __len__(self) -> int:
        return self.batch.num_cells

    def encode(self, network: nn.Module | None) -> None:
        """Ask a frozen backbone once for all; None forgets what one said."""
        if network is None or network is not self._of:
            self._of = network
            self.encoding = None if network is None else self._encoded(network)

    @torch.no_grad()
    def _encoded(self, network: nn.Module) -> Encoding:
        device = next(network.parameters()).device
        network.eval()
        parts = []
        for cells in shown([*torch.arange(len(self)).split(CELLS)], "encoding control cells"):
            found: Encoding = network.encode(self.batch.take(cells).to(device))  # type: ignore[operator]
            # The embedding that went in is as large as all else, and no head of perturbations reads it.
            parts.append([x.cpu() for x in (found.cell, found.genes, found.prefix, found.gene_embedding[:0])])
        return Encoding(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def take(self, cells: Tensor) -> tuple[CellBatch, Encoding | None]:
        """Return some of the cells (B,), by their place among those that are used."""
        batch = self.batch.take(cells)
        if self.encoding is None:
            return batch, None
        rows = self.batch.token_rows(cells)
        known = self.encoding
        return batch, Encoding(known.cell[cells], known.genes[rows], known.prefix[cells], known.gene_embedding)

    def parts(self) -> Iterator[tuple[CellBatch, Encoding | None]]:
        """Yield all cells, a few at a time."""
        for cells in torch.arange(len(self)).split(CELLS):
            yield self.take(cells)


def joined(batches: Sequence[CellBatch]) -> CellBatch:
    """Return batches without targets as one."""
    lengths = torch.cat([batch.lengths for batch in batches])
    depth = None if batches[0].read_depth is None else torch.cat([batch.read_depth for batch in batches])  # type: ignore[misc]
    return CellBatch(
        gene_ids=torch.cat([batch.gene_ids for batch in batches]),
        values=torch.cat([batch.values for batch in batches]),
        hidden=torch.cat([batch.hidden for batch in batches]),
        offsets=torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
        cell_index=torch.cat([batch.cell_index for batch in batches]),
        read_depth=depth,
    )


def drawn(cells: CellSet, rows: NDArray[np.int64], number: int, *, seed: int) -> ControlCells:
    """Return so many of some cells, drawn; all where there are not more."""
    if len(rows) > number:
        rows = np.sort(np.random.default_rng(seed).choice(rows, number, replace=False))
    return ControlCells(cells, rows)


def control_rows(
    cells: CellSet, source: Given, *, column: str | None = None, control: str | None = None
) -> NDArray[np.int64]:
    """Return the rows of control cells with counts; all cells, where they have no conditions.

    Parameters
    ----------
    cells, source
        The cells, and where they were read from, for messages.
    column
        Of obs, that is looked for before the usual ones: where the cells that were learned from had their conditions.
    control
        Word for control cells, besides the usual ones.

    Raises
    ------
    UserError
        If there is none.
    """
    name = "AnnData" if isinstance(source, AnnData) else Path(str(source)).name
    there = cells.lengths > 0
    columns = [one for one in (column, *COLUMNS) if one in cells.obs]
    if columns:
        words = cells.column(str(columns[0]), option="condition")
        option = f"{name}: obs['{columns[0]}']"
        vocab = GeneVocab(cells.spec.genes or (), first_id=cells.spec.first_id)
        parsed = parse(words.dropna(), vocab, option=option, control=() if control is None else (control,))
        untouched = {word for word, condition in parsed.conditions.items() if condition == CONTROL}
        # One word that is no gene, such as the name of a study, is no condition.
        if not untouched and (parsed.conditions or len(parsed.unknown) > 1):
            few = examples(words.dropna().unique())
            raise UserError(f"{option} has no control cells (it has {few}): call them ctrl, or leave the column out")
        there = there & (words.isin(untouched).to_numpy() if untouched else True)
    if not there.any():
        raise UserError(f"{name}: has no control cells with counts in the model's genes")
    return np.flatnonzero(there)
