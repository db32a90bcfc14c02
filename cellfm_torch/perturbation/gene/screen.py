"""GenePerturbation: what perturbed genes do to cells, with the calls that users of scvi-tools know.

Shapes: M conditions, R genes that are read out, n control cells.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.data.files import Given, PathLike
from cellfm_torch.data.gene_sets import read_gmt
from cellfm_torch.errors import UserError
from cellfm_torch.model.device import device_named
from cellfm_torch.model.loading import Backbone, load_model
from cellfm_torch.perturbation.gene.cells import PerturbedCells
from cellfm_torch.perturbation.gene.control import ControlCells
from cellfm_torch.perturbation.gene.effects import Condition, condition_name
from cellfm_torch.perturbation.gene.graphs import Neighbours, co_expressed, shared_sets
from cellfm_torch.perturbation.gene.learned import (
    LearnOptions,
    learn,
    learned_genes,
    mean_changes,
    tables_of,
)
from cellfm_torch.perturbation.gene.predictor import CONTROL_CELLS, Predictions
from cellfm_torch.perturbation.gene.saved import Saved
from cellfm_torch.perturbation.gene.splits import Split, no_split


class GenePerturbation(Predictions):
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
        self.network = network if device is None else network.to(device_named(device))
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
    def history(self) -> pd.DataFrame:
        """One row per epoch of training."""
        return self._trained().history

    @property
    def best_epochs(self) -> int:
        """After how many epochs held-out perturbations were predicted best; without any, how many there were."""
        best = self._trained().task.best_epochs
        return len(self.history) if best is None else best

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
        if not split.train:
            raise UserError(f"split '{split.name}': has no perturbation to learn from")
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
        drawn = (screen.column, screen.control_word, self.control_cells, self.seed)
        self.saved = Saved(task, chosen.method, train.conditions, cells, self.reading, *drawn, history)
        return self

    def changes(self, conditions: Sequence[Condition]) -> NDArray[np.float64]:
        """Return the mean change of the control cells that were learned with, (M, R)."""
        return mean_changes(self._trained().task, self._encoded(self.control), conditions)

    def on(self, network: Backbone) -> GenePerturbation:
        """Return the same cells for another backbone of the same vocabulary, which has learned nothing yet."""
        other = copy.copy(self)
        other.network, other.folder, other.saved, other._control = network, None, None, None
        return other

    @property
    def _position(self) -> dict[str, int]:
        return {gene: i for i, gene in enumerate(self.network.input_spec.genes)}

    def _graphs(self, learned: NDArray[np.int64]) -> list[tuple[Neighbours, Neighbours]]:
        found = []
        if self.sets is not None:
            found.append((shared_sets(self.sets, self.readout), shared_sets(self.sets, learned)))
        if self.coexpression:
            screen = self._screen()
            x = screen.expression[screen.control]
            found.append((co_expressed(x, self.readout), co_expressed(x, learned)))
        return [(Neighbours(of_all.rows[self.readout], of_all.weights[self.readout]), b) for of_all, b in found]
