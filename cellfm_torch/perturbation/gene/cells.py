"""Perturbed and control cells of a file, and what was measured of each perturbation.

Shapes: n cells, G genes of the vocabulary, R of them that are read out, M conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from cellfm_torch.analysis.expression import log_normalised, moments, variable_genes
from cellfm_torch.data.files import Given
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.labelled import CellSet
from cellfm_torch.errors import UserError, examples
from cellfm_torch.input_spec import InputSpec
from cellfm_torch.perturbation.gene.conditions import condition_column, conditions_of
from cellfm_torch.perturbation.gene.effects import CONTROL, MOST_MARKED, Condition, Effects, condition_name

LEAST_CELLS = 5
"""Of a condition: a mean over fewer says more of the cells than of the perturbation."""


@dataclass
class PerturbedCells:
    """Cells with what was done to them.

    Attributes
    ----------
    cells : CellSet
        Their counts over the model's genes.
    conditions : tuple of Condition, M
        Without control, by name.
    codes : (n,) int64
        Row of each cell's condition; -1 for control, -2 for cells that are left out.
    said : list of str
        What the user should know about cells that are left out.
    source : str
        Name of the file.
    column : str
        Column of obs with the conditions.
    control_word : str or None
        Word for control cells, besides the usual ones.
    """

    cells: CellSet
    conditions: tuple[Condition, ...]
    codes: NDArray[np.int64]
    said: list[str]
    source: str
    column: str
    control_word: str | None
    _expression: sp.csr_matrix | None = field(default=None, repr=False)

    @classmethod
    def read(
        cls,
        source: Given,
        spec: InputSpec,
        *,
        condition: str | None = None,
        control: str | None = None,
        least_cells: int = LEAST_CELLS,
        **reading: Any,
    ) -> PerturbedCells:
        """Read raw counts and conditions.

        Parameters
        ----------
        source
            A file of any known format, or an AnnData.
        spec
            ``model.input_spec``.
        condition
            Column of obs; None: the first of ``condition``, ``perturbation``, ... that is there.
        control
            Word for control cells, besides the usual ones.
        least_cells
            Conditions of fewer cells are left out.
        reading
            As of :meth:`~cellfm_torch.data.labelled.CellSet.read`.

        Raises
        ------
        UserError
            If the file cannot be used, has no control cells, or no perturbation of enough cells.
        """
        cells = CellSet.read(source, spec, **reading)
        name = "AnnData" if isinstance(source, AnnData) else Path(str(source)).name
        column = condition_column(cells.obs, condition, source=name)
        vocab = GeneVocab(spec.genes or (), first_id=spec.first_id)
        words = cells.column(column, option="condition")
        found, said = conditions_of(words, vocab, source=name, control=control)
        there = cells.lengths > 0
        if empty := int((~there).sum()):
            said.append(f"left out: {empty:,} cells without counts in the model's genes")
        number: dict[Condition, int] = {}
        for one, has in zip(found, there, strict=True):
            if one is not None and has:
                number[one] = number.get(one, 0) + 1
        if number.get(CONTROL, 0) < least_cells:
            raise UserError(
                f"{name}: has {number.get(CONTROL, 0)} control cells with counts, it takes {least_cells}: give more"
            )
        kept = sorted((c for c, size in number.items() if c and size >= least_cells), key=condition_name)
        if small := sorted(condition_name(c) for c, size in number.items() if c and size < least_cells):
            said.append(f"left out: {len(small)} conditions of fewer than {least_cells} cells: {examples(small)}")
        if not kept:
            raise UserError(f"{name}: no perturbation has {least_cells} cells: give more cells, or a lower least_cells")
        code = {c: i for i, c in enumerate(kept)} | {CONTROL: -1}
        codes = [code.get(c, -2) if c is not None and has else -2 for c, has in zip(found, there, strict=True)]
        return cls(cells, tuple(kept), np.array(codes, dtype=np.int64), said, name, column, control)

    @property
    def control(self) -> NDArray[np.int64]:
        """Rows of the control cells, ascending."""
        return np.flatnonzero(self.codes == -1)

    @property
    def expression(self) -> sp.csr_matrix:
        """log1p(CP10K) over the vocabulary, (n, G)."""
        if self._expression is None:
            self._expression = log_normalised(self.cells.counts)
        return self._expression

    def readout(self, number: int) -> NDArray[np.int64]:
        """Return the genes that are read out, ascending: the most variable ones and those perturbed, if expressed.

        Chosen without regard to conditions, over all cells, so that all splits are scored on the same genes.
        """
        used = self.expression[self.codes > -2]
        there = np.flatnonzero(used.getnnz(axis=0) > 0)
        chosen = there[variable_genes(used[:, there], number)]
        row = {gene: i for i, gene in enumerate(self.cells.spec.genes or ())}
        perturbed = np.array([row[gene] for condition in self.conditions for gene in condition], dtype=np.int64)
        return np.union1d(chosen, np.intersect1d(perturbed, there)).astype(np.int64)

    def effects(self, readout: NDArray[np.int64], conditions: Sequence[Condition] | None = None) -> Effects:
        """Return what was measured of some conditions, by default all.

        Parameters
        ----------
        readout : (R,)
            Genes, as positions in the vocabulary.
        conditions
            Which.
        """
        conditions = self.conditions if conditions is None else tuple(conditions)
        genes = self.cells.spec.genes or ()
        x = self.expression[:, readout]
        mean0, variance0 = moments(x[self.control])
        spread0 = variance0 / len(self.control)
        means, marked, sizes, noise = [], [], [], []
        for condition in conditions:
            part = x[self.codes == self.conditions.index(condition)]
            mean, variance = moments(part)
            # A gene that a few cells do not happen to show varies as it does in control, not by nothing.
            noise.append(np.maximum(variance, variance0) / part.shape[0] + spread0)
            t = np.abs(mean - mean0) / np.sqrt(noise[-1] + 1e-12)
            means.append(mean)
            marked.append(np.argsort(-t, kind="stable")[:MOST_MARKED])
            sizes.append(part.shape[0])
        shape = (len(conditions), len(readout))
        return Effects(
            genes=tuple(genes[i] for i in readout),
            conditions=conditions,
            mean=np.array(means).reshape(shape),
            control=mean0,
            marked=np.array(marked, dtype=np.int64).reshape(len(conditions), min(MOST_MARKED, len(readout))),
            cells=np.array(sizes, dtype=np.int64),
            noise=np.array(noise).reshape(shape),
        )
