"""What a trained predictor of gene perturbations says, and how it is saved.

Shapes: M conditions, R genes that are read out, n control cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Self, cast

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from cellfm_torch.analysis.expression import log_normalised
from cellfm_torch.data.files import Given, PathLike
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.labelled import CellSet
from cellfm_torch.errors import UserError, nearest
from cellfm_torch.model.device import device_named
from cellfm_torch.perturbation.gene.cells import PerturbedCells
from cellfm_torch.perturbation.gene.conditions import asked_conditions
from cellfm_torch.perturbation.gene.control import ControlCells, control_rows, drawn
from cellfm_torch.perturbation.gene.effects import Condition, condition_name
from cellfm_torch.perturbation.gene.learned import changes, mean_changes
from cellfm_torch.perturbation.gene.reverse import RULES, rank_candidates
from cellfm_torch.perturbation.gene.saved import Saved, read_predictor, write_predictor

CONTROL_CELLS = 128
"""That a backbone is asked about: each takes genes x width numbers in memory."""


class Predictions:
    """A backbone, what was learned on it, and the cells that it was learned from, where they are there.

    Attributes
    ----------
    network
        The backbone.
    folder : Path or None
        Its model folder.
    saved : Saved or None
        What was learned.
    screen : PerturbedCells or None
        The cells; None after loading.
    reading : dict
        How files are read.
    """

    network: Any
    folder: Path | None
    saved: Saved | None
    screen: PerturbedCells | None
    reading: dict[str, Any]
    control_cells: int
    seed: int
    _control: ControlCells | None

    @property
    def control(self) -> ControlCells:
        """The control cells that are used."""
        if self._control is None:
            screen = self._screen()
            self._control = drawn(screen.cells, screen.control, self.control_cells, seed=self.seed)
        return self._control

    @property
    def genes(self) -> tuple[str, ...]:
        """Symbols of the genes that are read out, R."""
        symbols = self.network.input_spec.genes
        return tuple(symbols[i] for i in self._readout())

    def predict(self, genes: Sequence[str] | str, cells: Given | None = None) -> anndata.AnnData:
        """Return what perturbing genes does to control cells.

        Parameters
        ----------
        genes
            What to perturb, each on its own: ``"KLF1"``, or ``"CEBPA+KLF1"`` for both at once.
        cells
            Control cells, raw counts; of a file with conditions the control cells alone. None: those learned with.

        Returns
        -------
        AnnData of M conditions by R genes, all in log1p(CP10K)
            ``X``: mean expression; ``layers["change"]``: change from control, whose mean is ``var["control"]``.
            ``obs``: ``perturbed``, number of genes; ``seen``, how many of them were perturbed in training;
            ``measured``, whether training had this very condition.

        Raises
        ------
        UserError
            If a gene is unknown, with the nearest name, or the cells cannot be used.
        """
        conditions = asked_conditions(genes, self._vocab)
        control, mean = self._given(cells)
        return self._described(conditions, mean_changes(self._trained().task, control, conditions), mean)

    def predict_cells(self, genes: str, cells: Given | None = None) -> anndata.AnnData:
        """Return each control cell as it would be, (n, R) in log1p(CP10K); ``layers["control"]`` has it as it is."""
        conditions = asked_conditions(genes, self._vocab)
        if len(conditions) > 1:
            raise UserError("genes: name one condition for single cells, such as KLF1 or CEBPA+KLF1")
        given = self._screen().cells if cells is None else self._read(cells)
        rows = self._screen().control if cells is None else self._control_rows(given, cells)
        control = ControlCells(given, rows)  # of thousands of cells, what a backbone makes is not kept
        change = np.concatenate([part[:, 0] for part in changes(self._trained().task, control, conditions)])
        before = log_normalised(given.counts[rows])[:, self._readout()].toarray()
        out = anndata.AnnData(
            np.maximum(before + change, 0), obs=given.obs.iloc[rows][[]].copy(), var=pd.DataFrame(index=self.genes)
        )
        out.obs["condition"] = condition_name(conditions[0])
        out.layers["control"] = before
        return out

    def reverse(
        self,
        cells: Given,
        *,
        by: str,
        start: str,
        target: str,
        candidates: Sequence[str] | None = None,
        pairs: bool = False,
        rank_by: str = "pearson",
    ) -> pd.DataFrame:
        """Rank perturbations by how well they lead from one state of cells to another.

        Parameters
        ----------
        cells
            Cells of both states, raw counts.
        by
            Column of obs with the state of each cell.
        start, target
            The states.
        candidates
            What might be perturbed; None: all genes that were perturbed in training.
        pairs
            Also all pairs of the single candidates.
        rank_by
            ``"pearson"`` of predicted and wanted change, or ``"mse"`` of predicted and wanted state.

        Returns
        -------
        DataFrame with ``rank``, ``condition``, ``pearson`` and ``mse``, best first.

        Raises
        ------
        UserError
            If there is no such column or state, a gene is unknown, or the rule is.
        """
        if rank_by not in RULES:
            raise UserError(f"rank_by={rank_by}: choose {' or '.join(RULES)}{nearest(str(rank_by), RULES)}")
        names = self._trained().genes if candidates is None else candidates
        among = asked_conditions(names, self._vocab, option="candidates")
        if pairs:
            singles = [condition[0] for condition in among if len(condition) == 1]
            among = list(dict.fromkeys([*among, *(tuple(sorted(pair)) for pair in combinations(singles, 2))]))
        given = self._read(cells)
        states = given.column(by, option="by")
        rows, before = self._of_state(given, states, start, option="start")
        _, after = self._of_state(given, states, target, option="target")
        control = self._encoded(drawn(given, rows, self.control_cells, seed=self.seed))
        predicted = np.maximum(before + mean_changes(self._trained().task, control, among), 0)
        return rank_candidates(predicted, among, before, after, by=rank_by)

    def _of_state(
        self, given: CellSet, states: pd.Series, state: str, *, option: str
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the rows of the cells of a state that have counts, and their mean expression (R,)."""
        there = [str(name) for name in states.dropna().unique()]
        if str(state) not in there:
            raise UserError(
                f"{option}={state}: obs['{states.name}'] has {', '.join(there)}{nearest(str(state), there)}"
            )
        rows = np.flatnonzero((states == str(state)).to_numpy() & (given.lengths > 0))
        if not len(rows):
            raise UserError(f"{option}={state}: its cells have no counts in the model's genes")
        return rows, np.asarray(log_normalised(given.counts[rows])[:, self._readout()].mean(0), np.float64).ravel()

    def save(self, folder: PathLike, *, overwrite: bool = False, include_model: bool = False) -> None:
        """Write what was learned: safetensors and JSON; nothing is pickled.

        The backbone is referred to by path and checksum, and copied with `include_model`; after ``full`` training it
        always is. Cells are not kept.

        Raises
        ------
        UserError
            If the folder exists and `overwrite` is false, or there is no model folder to refer to.
        """
        write_predictor(
            folder, self._trained(), self.network, source=self.folder, overwrite=overwrite, include_model=include_model
        )

    @classmethod
    def load(cls, folder: PathLike, *, model: PathLike | None = None, device: str | None = None) -> Self:
        """Return a saved predictor, which predicts for cells that it is given.

        Parameters
        ----------
        folder
            What :meth:`save` wrote.
        model
            Where the model folder is now, if it was moved.
        device
            Where to compute.

        Raises
        ------
        UserError
            If the folder is damaged, or the model is not the one it was trained with.
        """
        self = cls.__new__(cls)
        self.network, self.folder, self.saved = read_predictor(folder, model=model)
        if device is not None:
            self.network.to(device_named(device))
            self.saved.task.to(device)
        self.reading, self.screen, self._control = self.saved.reading, None, None
        self.control_cells, self.seed = self.saved.control_cells, self.saved.seed
        return self

    @property
    def _vocab(self) -> GeneVocab:
        spec = self.network.input_spec
        return GeneVocab(spec.genes, first_id=spec.first_id)

    def _readout(self) -> NDArray[np.int64]:
        return np.asarray(cast(Tensor, self._trained().task.head.readout).cpu())

    def _given(self, cells: Given | None) -> tuple[ControlCells, NDArray[np.float64]]:
        """Return control cells and their mean expression (R,)."""
        readout = self._readout()
        if cells is None:
            screen = self._screen()
            return self._encoded(self.control), np.asarray(
                screen.expression[screen.control][:, readout].mean(0)
            ).ravel()
        given = self._read(cells)
        rows = self._control_rows(given, cells)
        mean = np.asarray(log_normalised(given.counts[rows])[:, readout].mean(0), dtype=np.float64).ravel()
        return self._encoded(drawn(given, rows, self.control_cells, seed=self.seed)), mean

    def _control_rows(self, given: CellSet, cells: Given) -> NDArray[np.int64]:
        saved = self._trained()
        return control_rows(given, cells, column=saved.column, control=saved.control)

    def _read(self, cells: Given) -> CellSet:
        return CellSet.read(cells, self.network.input_spec, **self.reading)

    def _encoded(self, control: ControlCells) -> ControlCells:
        saved = self._trained()
        control.encode(saved.task.network if saved.method == "frozen" else None)
        return control

    def _described(
        self, conditions: Sequence[Condition], change: NDArray[np.float64], control: NDArray[np.float64]
    ) -> anndata.AnnData:
        saved = self._trained()
        seen = {gene for condition in saved.trained for gene in condition}
        obs = pd.DataFrame(
            {
                "perturbed": [len(c) for c in conditions],
                "seen": [sum(gene in seen for gene in c) for c in conditions],
                "measured": [c in saved.trained for c in conditions],
            },
            index=[condition_name(c) for c in conditions],
        )
        var = pd.DataFrame({"control": control}, index=list(self.genes))
        out = anndata.AnnData(np.maximum(control + change, 0).astype(np.float32), obs=obs, var=var)
        out.layers["change"] = (out.X - control).astype(np.float32)
        out.uns["perturbation"] = {"method": saved.method, "trained": len(saved.trained), "unit": "log1p(CP10K)"}
        return out

    def _screen(self) -> PerturbedCells:
        if self.screen is None:
            raise UserError("this predictor was loaded without its cells: give the control cells to start from")
        return self.screen

    def _trained(self) -> Saved:
        if self.saved is None:
            raise UserError("this predictor has learned nothing yet: call train() first")
        return self.saved
