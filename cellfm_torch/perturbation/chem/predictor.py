"""ChemicalPerturbation: where compounds move cells, with the calls that users of scvi-tools know.

Shapes: n cells, E width of an embedding, G marker genes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.analysis.expression import log_normalised
from cellfm_torch.data.compounds import Compounds
from cellfm_torch.data.files import Given, PathLike
from cellfm_torch.data.labelled import CellSet
from cellfm_torch.embedding.cell_sets import Embeddings
from cellfm_torch.errors import UserError
from cellfm_torch.model.device import device_named
from cellfm_torch.model.loading import load_model, untrained
from cellfm_torch.perturbation.chem.assess import assess
from cellfm_torch.perturbation.chem.cells import Rows, TreatedCells, read_controls, read_treated
from cellfm_torch.perturbation.chem.evaluate import MODEL
from cellfm_torch.perturbation.chem.fitted import FitOptions, Fitted, fit
from cellfm_torch.perturbation.chem.predicted import predicted_cells
from cellfm_torch.perturbation.chem.result import ChemResult
from cellfm_torch.perturbation.chem.saved import Saved, read_saved, write_saved

if TYPE_CHECKING:
    from cellfm_torch.model.loading import Backbone


class ChemicalPerturbation:
    """Learn from treated and control cells where compounds move cells.

    Cells are embedded with a model as it is. A Gaussian process over compound, dose and context gives the mean step of
    a condition, a conditional flow what is left of each cell's own step, and both what happens to marker genes.

    Parameters
    ----------
    adata
        An AnnData or a file, raw counts.
    model
        Model folder, or a backbone (which then cannot be saved by reference).
    drug, dose, smiles
        Columns of ``obs`` with compound, dose (positive numbers) and SMILES; by default drug, compound, perturbation,
        treatment, condition or product_name; dose or dose_value; smiles, SMILES or canonical_smiles, where they are
        there. `smiles` may also be a csv with columns drug and smiles. ``"none"``: not used; without SMILES compounds
        are told apart by name, and nothing can be said of others.
    by
        Column of contexts, such as a cell line: control cells are those of the same context.
    control
        Value, or values, of `drug` that are control; by default control, ctrl, vehicle, DMSO, untreated and the like.
    device
        Where to embed, such as ``"cuda"``.
    reading
        How files are read: fields of :class:`~cellfm_torch.data.options.ReadOptions` such as ``layer``, and
        ``token_budget``, gene tokens per batch.

    Raises
    ------
    UserError
        If a column or a SMILES cannot be used, there are no control cells, or the folder is none of a model.

    Examples
    --------
    >>> chem = ChemicalPerturbation("treated.h5ad", "models/80m")  # doctest: +SKIP
    >>> chem.evaluate("compound").summary()  # doctest: +SKIP
    >>> moved = chem.train().predict("vorinostat", 1.0)  # doctest: +SKIP
    """

    def __init__(
        self,
        adata: Given,
        model: PathLike | Backbone,
        *,
        drug: str | None = None,
        dose: str | None = None,
        smiles: str | None = None,
        by: str | None = None,
        control: str | Sequence[str] | None = None,
        device: str | None = None,
        **reading: Any,
    ) -> None:
        self.folder = Path(model).expanduser() if isinstance(model, str | Path) else None
        network: Any = load_model(self.folder) if self.folder is not None else model
        self.network = network if device is None else network.to(device_named(device))
        self.reading = reading
        self._embeddings = Embeddings(self.network)
        self.cells: TreatedCells | None = read_treated(
            adata, network.input_spec, drug=drug, dose=dose, smiles=smiles, by=by, control=control, **reading
        )
        self.columns = self.cells.columns
        known = self.cells.smiles
        self.left_out = self.cells.left_out
        if known is not None and smiles is None and find_spec("rdkit") is None:
            known = None
            self.left_out += (f"column {self.columns.smiles} is not used: it takes RDKit, which is not installed",)
        drugs = [condition.drug for condition in self.cells.conditions]
        where = f"{self.cells.source}: {self.columns.smiles}" if known is not None else self.cells.source
        self.compounds = Compounds.of(drugs, known, source=where)
        self.fitted: Fitted | None = None
        self._untrained: tuple[int, Embeddings] | None = None

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch of the flow's training."""
        return self._trained().history

    def train(
        self,
        *,
        components: int = 64,
        markers: int = 200,
        hidden: int = 128,
        lr: float = 5e-4,
        seed: int = 0,
        **trainer: Any,
    ) -> ChemicalPerturbation:
        """Learn from all conditions; returns the predictor.

        Parameters
        ----------
        components, markers, hidden, lr, seed
            See :class:`~cellfm_torch.perturbation.chem.fitted.FitOptions`.
        trainer
            Options of Lightning's Trainer: ``max_epochs`` (of 100 steps, default 4), ``accelerator`` (default cpu) ...
        """
        cells = self._given()
        options = FitOptions(components, markers, hidden, lr, seed, trainer)
        expression, embeddings = log_normalised(cells.cells.counts), self._embeddings.of(cells.cells)
        self.fitted = fit(cells, embeddings, expression, cells.conditions, self.compounds, options)
        return self

    def evaluate(
        self,
        split: str = "compound",
        *,
        seeds: Sequence[int] = (0, 1, 2),
        share: float = 0.2,
        least_cells: int = 10,
        random_weights: bool = True,
        components: int = 64,
        markers: int = 200,
        hidden: int = 128,
        lr: float = 5e-4,
        say: Callable[[str], None] | None = None,
        **trainer: Any,
    ) -> ChemResult:
        """Predict held-out conditions, learned anew without them, beside baselines.

        Parameters
        ----------
        split
            What is held out: ``"compound"``, ``"dose"`` or ``"context"``.
        seeds
            Each holds out others, and starts the flow anew.
        share
            Of compounds that are held out.
        least_cells
            Treated cells of a condition that is scored.
        random_weights
            Also with the same network with random weights.
        say
            Is told what is being done.
        components, markers, hidden, lr, trainer
            As in :meth:`train`.

        Raises
        ------
        UserError
            If there is nothing to hold out, or compounds are told apart by name and one is to be held out.
        """

        def embeddings(network: str, seed: int) -> NDArray[np.float32]:
            return (self._embeddings if network == MODEL else self._random(seed)).of(self._given().cells)

        found = assess(
            self._given(),
            self.compounds,
            embeddings,
            lambda seed: FitOptions(components, markers, hidden, lr, seed, trainer),
            split=split,
            seeds=seeds,
            share=share,
            least_cells=least_cells,
            random_weights=random_weights,
            say=say or (lambda line: None),
        )
        found.left_out = self.left_out
        return found

    def predict(
        self,
        drug: str,
        dose: float | None = None,
        *,
        smiles: str | None = None,
        cells: Given | None = None,
    ) -> anndata.AnnData:
        """Return control cells as they would be under a compound.

        Parameters
        ----------
        drug
            A compound of the training cells, or any name where `smiles` is given.
        dose
            In the unit of the training cells; needed where these have doses.
        smiles
            Of a compound that the training cells do not have.
        cells
            What to start from, those of control where the file says which they are; None: the training file's.

        Returns
        -------
        AnnData
            A row per control cell. ``X`` (n, G): predicted log1p(CP10K) of marker genes, ``layers["control"]``: what
            the cell had; ``obsm["X_cellfm"]`` (n, E): predicted embedding, ``obsm["X_cellfm_control"]``: that of the
            cell; ``var["change"]``: mean change of a gene.

        Raises
        ------
        UserError
            If the compound is unknown, the dose is none, or there are no control cells.
        """
        fitted = self._trained()
        value = self._dose(dose, drug)
        feature = self.compounds.feature(drug, smiles)
        start, rows = self._start(cells)
        return predicted_cells(
            fitted,
            start,
            rows,
            self._embeddings.of(start)[rows],
            self.columns,
            drug=drug,
            dose=value,
            smiles=smiles or self.compounds.smiles.get(drug, ""),
            feature=feature,
        )

    def save(self, folder: PathLike, *, overwrite: bool = False, include_model: bool = False) -> None:
        """Write what was learned: arrays and weights as safetensors, everything else as JSON; nothing is pickled.

        The backbone is referred to by path and checksum, and copied with `include_model`.

        Raises
        ------
        UserError
            If the folder exists and `overwrite` is false, or there is no model folder to refer to.
        """
        saved = Saved(self.columns, self._trained(), self.folder, self.reading)
        write_saved(folder, saved, self.network, overwrite=overwrite, include_model=include_model)

    @classmethod
    def load(
        cls, folder: PathLike, *, model: PathLike | None = None, device: str | None = None
    ) -> ChemicalPerturbation:
        """Return a saved predictor.

        Parameters
        ----------
        folder
            What :meth:`save` wrote.
        model
            Where the model folder is now, if it was moved.
        device
            Where to embed.

        Raises
        ------
        UserError
            If the folder is damaged, or the model is not the one it was trained with.
        """
        network, saved = read_saved(folder, model=model)
        self = cls.__new__(cls)
        self.network = network if device is None else network.to(device_named(device))
        self.folder, self.columns, self.fitted, self.reading = saved.model, saved.columns, saved.fitted, saved.reading
        self.compounds, self.left_out, self.cells = saved.fitted.compounds, (), None
        self._embeddings, self._untrained = Embeddings(self.network), None
        return self

    def _random(self, seed: int) -> Embeddings:
        """Return what embeds with the same network with random weights; the last one is kept, as it may be large."""
        if self._untrained is None or self._untrained[0] != seed:
            self._untrained = seed, Embeddings(untrained(self.network, seed=seed))
        return self._untrained[1]

    def _dose(self, dose: float | None, drug: str) -> float:
        if self.columns.dose is None:
            if dose is not None:
                raise UserError(f"dose={dose}: the training cells have no doses, so that {drug} is given without one")
            return 1.0
        if dose is None:
            unit = f" in {self.columns.unit}" if self.columns.unit else ""
            raise UserError(f"dose: give the dose of {drug}{unit}: the training cells have doses")
        if isinstance(dose, bool) or not isinstance(dose, int | float) or not 0 <= dose < np.inf:
            raise UserError(f"dose={dose}: must be a number that is not negative")
        return float(dose)

    def _start(self, given: Given | None) -> tuple[CellSet, Rows]:
        if given is not None:
            return read_controls(given, self.network.input_spec, self.columns, **self.reading)
        cells = self._given()
        return cells.cells, np.flatnonzero(cells.control)

    def _given(self) -> TreatedCells:
        if self.cells is None:
            raise UserError("this predictor was loaded without its training cells: give cells")
        return self.cells

    def _trained(self) -> Fitted:
        if self.fitted is None:
            raise UserError("this predictor has learned nothing yet: call train() first")
        return self.fitted
