"""Cells with one gene edited at a time, and how far their embedding moves.

Taking k_g v_g from the state of the first layer would spare its sums, and be exact; but all tokens read that state, so
every later layer starts anew. It saves at most 9 % of the tiny network and 5 % of the 80M one, on top of the embedder's
tables of the first layer, and is not done.

Shapes: n genes of a cell, E edits, C width of a cell embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellfm_torch.batch import CellBatch
from cellfm_torch.job_folder import Arrays

REMOVED = 0.0
"""Value of a gene that is taken out of a cell."""


def edited(batch: CellBatch, genes: Tensor, value: float) -> CellBatch:
    """Return copies of a cell, in each of which one gene has another value; the others stay as they are.

    Parameters
    ----------
    batch
        One cell.
    genes : (E,)
        Ids.
    value
        log1p(CP10K); 0 takes the gene out. A gene that the cell does not express is put in.
    """
    ids, values = batch.gene_ids, batch.values
    same = ids == genes[:, None]  # (E, n)
    here, removed = same.any(1), value == REMOVED
    kept = ~same if removed else torch.ones_like(same)
    added = torch.zeros_like(here)[:, None] if removed else ~here[:, None]
    keep = torch.cat([kept, added], dim=1)  # (E, n + 1): the last is the gene, where it is put in
    all_ids = torch.cat([ids.expand(len(genes), -1), genes[:, None]], dim=1)
    new = torch.full_like(values, value)
    all_values = torch.cat([torch.where(same, new, values), new.new_full((len(genes), 1), value)], dim=1)
    lengths = keep.sum(1)
    flat_ids = all_ids[keep]
    return CellBatch(
        gene_ids=flat_ids,
        values=all_values[keep],
        hidden=torch.zeros_like(flat_ids, dtype=torch.bool),
        offsets=torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
        cell_index=batch.cell_index.expand(len(genes)),
        read_depth=None if batch.read_depth is None else batch.read_depth.expand(len(genes), -1),
    )


def cosine_shift(before: Tensor, after: Tensor) -> NDArray[np.float64]:
    """Return one minus the cosine between an embedding (C,) and others (E, C), exact also where they hardly differ."""
    units = [x.double() / x.double().norm(dim=-1, keepdim=True).clamp_min(1e-300) for x in (before, after)]
    return np.asarray(((units[1] - units[0]).square().sum(-1) / 2).cpu().numpy())


class ShiftsOfCells:
    """Shifts of cells under edits of chosen genes, and of others drawn for comparison.

    Parameters
    ----------
    embed
        Function from batches to cell embeddings (B, C).
    chosen : (M,)
        Ids of the genes asked about.
    others : (O,)
        Ids that may be drawn.
    value
        See :func:`edited`.
    pool
        Genes drawn per cell.
    token_budget
        Gene tokens at a time.
    seed
        Of the draw; a cell's draw depends on its row, not on the order.
    """

    def __init__(
        self,
        embed: Callable[[CellBatch], Tensor],
        chosen: NDArray[np.int64],
        others: NDArray[np.int64],
        *,
        value: float,
        pool: int,
        token_budget: int,
        seed: int,
    ) -> None:
        self.embed, self.chosen, self.others = embed, chosen, others
        self.value, self.pool, self.token_budget, self.seed = value, pool, token_budget, seed
        self.parts: dict[str, list[NDArray[np.generic]]] = {name: [] for name in ("cell", "gene", "value", "shift")}

    def add(self, batch: CellBatch) -> None:
        """See some cells."""
        bounds = batch.offsets.tolist()
        for i, (first, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
            depth = None if batch.read_depth is None else batch.read_depth[i : i + 1]
            self._add_cell(
                CellBatch(
                    gene_ids=batch.gene_ids[first:end],
                    values=batch.values[first:end],
                    hidden=batch.hidden[first:end],
                    offsets=torch.tensor([0, end - first], device=batch.offsets.device),
                    cell_index=batch.cell_index[i : i + 1],
                    read_depth=depth,
                )
            )

    def _add_cell(self, cell: CellBatch) -> None:
        ids, row = cell.gene_ids.cpu().numpy(), int(cell.cell_index[0])
        genes = np.concatenate([asked := self._asked(ids, self.chosen), self._drawn(ids, asked, row)])
        if not len(genes) or len(ids) < 2:
            return
        before, shifts = self.embed(cell)[0], []
        at_once = max(1, self.token_budget // (len(ids) + 1))
        for part in np.array_split(genes, -(-len(genes) // at_once)):
            after = self.embed(edited(cell, torch.from_numpy(part).to(cell.gene_ids.device), self.value))
            shifts.append(cosine_shift(before, after))
        order = np.argsort(ids)
        place = np.minimum(np.searchsorted(ids, genes, sorter=order), len(ids) - 1)
        there = ids[order[place]] == genes
        values = np.where(there, cell.values.cpu().numpy()[order[place]], 0)
        self.parts["cell"].append(np.full(len(genes), row))
        self.parts["gene"].append(genes)
        self.parts["value"].append(values.astype(np.float32))
        self.parts["shift"].append(np.concatenate(shifts))

    def _asked(self, ids: NDArray[np.int64], genes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of some genes that can be edited: to be taken out they must be there."""
        return genes[np.isin(genes, ids)] if self.value == REMOVED else genes

    def _drawn(self, ids: NDArray[np.int64], asked: NDArray[np.int64], row: int) -> NDArray[np.int64]:
        """Draw genes to compare with: as often expressed in the cell as those asked about, of the others."""
        rng = np.random.default_rng([self.seed, row])
        free = np.setdiff1d(self.others, self.chosen)
        here = free[np.isin(free, ids)]
        if self.value == REMOVED:
            return rng.choice(here, min(self.pool, len(here)), replace=False)
        share = float(np.isin(asked, ids).mean()) if len(asked) else 0.0
        number = min(round(share * self.pool), len(here))
        absent = np.setdiff1d(free, here)
        rest = min(self.pool - number, len(absent))
        return np.concatenate([rng.choice(here, number, replace=False), rng.choice(absent, rest, replace=False)])

    def arrays(self) -> Arrays:
        """Return a row per edit: cell (row of the file), gene (id), value before, shift."""
        return {name: np.concatenate(found) if found else np.zeros(0) for name, found in self.parts.items()}

    def load(self, arrays: Arrays) -> None:
        """Go on from what :meth:`arrays` returned."""
        self.parts = {name: [arrays[name]] for name in self.parts}


def names_of(ids: NDArray[np.int64], symbols: Sequence[str], first_id: int) -> NDArray[np.object_]:
    """Return the symbols of ids."""
    return np.asarray(symbols, dtype=object)[ids.astype(np.int64) - first_id]
