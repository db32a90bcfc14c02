"""GenePerturbation: what perturbed genes do to cells, with the calls that users of scvi-tools know.

Shapes: M conditions, R genes that are read out, n control cells.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from cellfm_torch.analysis.expression import log_normalised
from cellfm_torch.data.files import Given, PathLike
from cellfm_torch.data.gene_sets import read_gmt
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.labelled import CellSet
from cellfm_torch.errors import UserError, nearest
from cellfm_torch.model.loading import Backbone, load_model
from cellfm_torch.perturbation.gene.cells import PerturbedCells
from cellfm_torch.perturbation.gene.conditions import asked_conditions
from cellfm_torch.perturbation.gene.control import ControlCells, control_rows, drawn
from cellfm_torch.perturbation.gene.effects import Condition, condition_name
from cellfm_torch.perturbation.gene.graphs import Neighbours, co_expressed, shared_sets
from cellfm_torch.perturbation.gene.learned import (
    LearnOptions,
    changes,
    learn,
    learned_genes,
    mean_changes,
    tables_of,
)
from cellfm_torch.perturbation.gene.reverse import rank_candidates
from cellfm_torch.perturbation.gene.saved import Saved, read_predictor, write_predictor
from cellfm_torch.perturbation.gene.splits import Split, no_split

CONTROL_CELLS = 128
"""That a backbone is asked about: each takes genes x width numbers in memory."""


class GenePerturbation:
    """Learn what perturbed genes do to cells, and say what others would do.

    Parameters
    ----------
    adata
        Perturbed and control cells, raw counts: an AnnData or a file.
    model
        Model folder, or a backbone (which then cannot be saved by reference).
    condition
        Column of obs with ``GENE+ctrl``, ``A+B``, ``ctrl`` (GEARS), or ``GENE``, ``A_B``, ``control`` (scPerturb,
        pertpy); None: the first of the usual names that is there.
    control
        Word for control cells, besides the usual ones.
    top_genes
        Genes that are read out: the most variable ones, and those perturbed.
    control_cells
        Control cells that are used, drawn by `seed`.
    least_cells
        Conditions of fewer cells are left out.
    sets
        A .gmt file, such as GO terms: genes of the same sets exchange messages.
    coexpression
        Genes that control cells express together exchange messages.
    seed
        Of the control cells that are drawn.
    device
        Where to compute, such as ``"cuda"``; training follows the Trainer's ``accelerator``.
    reading
        How files are read: fields of :class:`~cellfm_torch.data.options.ReadOptions` such as ``layer``, and
        ``token_budget``.

    Raises
    ------
    UserError
        If the cells cannot be used, or the folder is none of a model.

    Examples
    --------
    >>> screen = GenePerturbation("norman.h5ad", "models/80m").train()  # doctest: +SKIP
    >>> screen.predict(["KLF1", "CEBPA+KLF1"], cells="controls.h5ad")  # doctest: +SKIP
    """

    def __init__(
        self,
        adata: Given,
        model: PathLike | Backbone,
        *,
        condition: str | None = None,
        control: str | None = None,
        top_genes: int = 2000,
        control_cells: int = CONTROL_CELLS,
        least_cells: int = 5,
        sets: str | Path | None = None,
        coexpression: bool = False,
        seed: int = 0,
        device: str | None = None,
        **reading: Any,
    ) -> None:
        for name, value in (("top_genes", top_genes), ("control_cells", control_cells), ("least_cells", least_cells)):
            if value < 1:
                raise UserError(f"{name}={value}: must be at least 1")
        self.folder = Path(model).expanduser() if isinstance(model, str | Path) else None
        network: Any = load_model(self.folder) if self.folder is not None else model
        self.network = network if device is None else network.to(device)
        self.reading = reading
        self.screen: PerturbedCells | None = PerturbedCells.read(
            adata, network.input_spec, condition=condition, control=control, least_cells=least_cells, **reading
        )
        self.readout: NDArray[np.int64] = self.screen.readout(top_genes)
        self.control_cells, self.seed = control_cells, seed
        self.sets = None if sets is None else read_gmt(sets, network.input_spec.genes)
        self.coexpression = coexpression
        self._control: ControlCells | None = None
        self.saved: Saved | None = None

    @property
    def control(self) -> ControlCells:
        """The control cells that are used."""
        if self._control is None:
            screen = self._screen()
            self._control = drawn(screen.cells, screen.control, self.control_cells, seed=self.seed)
        return self._control

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch of training."""
        return self._trained().history

    @property
    def best_epochs(self) -> int:
        """After how many epochs held-out perturbations were predicted best; without any, how many there were."""
        history = self.history
        return int(history["val_loss"].idxmin()) + 1 if "val_loss" in history else len(history)

    @property
    def genes(self) -> tuple[str, ...]:
        """Symbols of the genes that are read out, R."""
        symbols = self.network.input_spec.genes
        return tuple(symbols[i] for i in self._readout())

    def train(self, split: Split | None = None, **options: Any) -> GenePerturbation:
        """Learn from the training perturbations of a split, or from all; returns the predictor.

        Parameters
        ----------
        split
            What to learn from and what to stop by; None: learn from all.
        options
            See :class:`~cellfm_torch.perturbation.gene.learned.LearnOptions`; others are of Lightning's Trainer:
            ``max_epochs`` (default 150), ``accelerator``, ``devices`` ...

        Raises
        ------
        UserError
            If an option is out of its range, or the predictor was loaded and has no cells.
        """
        screen = self._screen()
        split = no_split(screen.conditions) if split is None else split
        known = LearnOptions.__dataclass_fields__
        own = {name: options.pop(name) for name in list(options) if name in known and name != "trainer"}
        chosen = LearnOptions(**own, trainer=options)
        train = screen.effects(self.readout, split.train)
        val = screen.effects(self.readout, split.val) if split.val else None
        learned = learned_genes(split.train, self._position)
        tables = tables_of(
            train, self.readout, self._position, self._graphs(learned), learned=learned, measured=chosen.measured
        )
        task, history = learn(self.network, self.control, train, val=val, tables=tables, options=chosen)
        cells = {condition_name(c): int(n) for c, n in zip(train.conditions, train.cells, strict=True)}
        self.saved = Saved(task, chosen.method, train.conditions, cells, self.reading, history)
        return self

    def changes(self, conditions: Sequence[Condition]) -> NDArray[np.float64]:
        """Return the mean change of the control cells that were learned with, (M, R)."""
        return mean_changes(self._trained().task, self._encoded(self.control), conditions)

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
        rows = self._screen().control if cells is None else control_rows(given, cells)
        control = self._encoded(ControlCells(given, rows))
        change = np.concatenate([part[:, 0] for part in changes(self._trained().task, control, conditions)])
        before = log_normalised(given.counts)[rows][:, self._readout()].toarray()
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
            If there is no such column or state, or a gene is unknown.
        """
        names = self._trained().genes if candidates is None else candidates
        among = asked_conditions(names, self._vocab, option="candidates")
        if pairs:
            singles = [condition[0] for condition in among if len(condition) == 1]
            among = list(dict.fromkeys([*among, *(tuple(sorted(pair)) for pair in combinations(singles, 2))]))
        given = self._read(cells)
        states = given.column(by, option="by")
        control, before = self._of_state(given, states, start, option="start")
        _, after = self._of_state(given, states, target, option="target")
        predicted = np.maximum(before + mean_changes(self._trained().task, control, among), 0)
        return rank_candidates(predicted, among, before, after, by=rank_by)

    def _of_state(
        self, given: CellSet, states: pd.Series, state: str, *, option: str
    ) -> tuple[ControlCells, NDArray[np.float64]]:
        """Return cells of a state to start from, and their mean expression (R,)."""
        there = [str(name) for name in states.dropna().unique()]
        if str(state) not in there:
            raise UserError(
                f"{option}={state}: obs['{states.name}'] has {', '.join(there)}{nearest(str(state), there)}"
            )
        rows = np.flatnonzero((states == str(state)).to_numpy() & (given.lengths > 0))
        mean = np.asarray(log_normalised(given.counts)[rows][:, self._readout()].mean(0), dtype=np.float64).ravel()
        return self._encoded(drawn(given, rows, self.control_cells, seed=self.seed)), mean

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
    def load(cls, folder: PathLike, *, model: PathLike | None = None, device: str | None = None) -> GenePerturbation:
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
            self.network.to(device)
            self.saved.task.to(device)
        self.reading, self.screen, self._control = self.saved.reading, None, None
        self.control_cells, self.seed = CONTROL_CELLS, 0
        return self

    def on(self, network: Backbone) -> GenePerturbation:
        """Return the same cells for another backbone of the same vocabulary, which has learned nothing yet."""
        other = copy.copy(self)
        other.network, other.folder, other.saved, other._control = network, None, None, None
        return other

    @property
    def _position(self) -> dict[str, int]:
        return {gene: i for i, gene in enumerate(self.network.input_spec.genes)}

    @property
    def _vocab(self) -> GeneVocab:
        spec = self.network.input_spec
        return GeneVocab(spec.genes, first_id=spec.first_id)

    def _readout(self) -> NDArray[np.int64]:
        return np.asarray(cast(Tensor, self._trained().task.head.readout).cpu())

    def _graphs(self, learned: NDArray[np.int64]) -> list[tuple[Neighbours, Neighbours]]:
        found = []
        if self.sets is not None:
            found.append((shared_sets(self.sets, self.readout), shared_sets(self.sets, learned)))
        if self.coexpression:
            screen = self._screen()
            x = screen.expression[screen.control]
            found.append((co_expressed(x, self.readout), co_expressed(x, learned)))
        return [(Neighbours(of_all.rows[self.readout], of_all.weights[self.readout]), b) for of_all, b in found]

    def _given(self, cells: Given | None) -> tuple[ControlCells, NDArray[np.float64]]:
        """Return control cells and their mean expression (R,)."""
        readout = self._readout()
        if cells is None:
            screen = self._screen()
            return self._encoded(self.control), np.asarray(
                screen.expression[screen.control][:, readout].mean(0)
            ).ravel()
        given = self._read(cells)
        rows = control_rows(given, cells)
        mean = np.asarray(log_normalised(given.counts)[rows][:, readout].mean(0), dtype=np.float64).ravel()
        return self._encoded(drawn(given, rows, self.control_cells, seed=self.seed)), mean

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
