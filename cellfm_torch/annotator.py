"""CellAnnotator: label a query by a labelled reference, with the calls that users of scvi-tools know."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.analysis.scores import rare_classes, scores
from cellfm_torch.annotation.labels import classes_of, codes_of, labels_of, read_labels_map
from cellfm_torch.annotation.methods import FitOptions, Fitted, check_method, described, fit
from cellfm_torch.annotation.saved import Saved, read_saved, write_saved
from cellfm_torch.data.files import Given, PathLike
from cellfm_torch.data.labelled import CellSet
from cellfm_torch.embedding.cell_sets import Embeddings
from cellfm_torch.errors import UserError
from cellfm_torch.model.device import device_named
from cellfm_torch.model.loading import load_model
from cellfm_torch.tasks.annotate import AnnotateTask

if TYPE_CHECKING:
    from cellfm_torch.model.loading import Backbone


class CellAnnotator:
    """Learn cell types from a labelled reference and give them to other cells.

    Parameters
    ----------
    adata
        The reference: an AnnData or a file, raw counts.
    model
        Model folder, or a backbone (which then cannot be saved by reference).
    label
        Column of ``obs`` with the types. Cells without one are embedded but not learned from.
    method
        ``"knn"``: nearest neighbours on embeddings, zero-shot: nothing is trained. ``"linear"``: logistic regression on
        embeddings. ``"frozen"``, ``"lora"``, ``"full"``: the published head on a backbone that is frozen, has low-rank
        adapters, or is trained whole.
    labels_map
        Table (csv) of columns from,to that harmonises names; an empty ``to`` means no label.
    device
        Where to compute, such as ``"cuda"``; training follows the Trainer's ``accelerator``.
    reading
        How files are read: fields of :class:`~cellfm_torch.data.options.ReadOptions` such as ``layer``, and
        ``token_budget``, gene tokens per batch.

    Raises
    ------
    UserError
        If there is no such column, one type only, no such method, or the folder is none of a model.

    Examples
    --------
    >>> annotator = CellAnnotator(reference, "models/80m", label="cell_type", method="frozen")  # doctest: +SKIP
    >>> annotator.train(max_epochs=10).predict(query)  # doctest: +SKIP
    """

    def __init__(
        self,
        adata: Given,
        model: PathLike | Backbone,
        *,
        label: str = "cell_type",
        method: str = "frozen",
        labels_map: PathLike | None = None,
        device: str | None = None,
        **reading: Any,
    ) -> None:
        check_method(method)
        self.folder = Path(model).expanduser() if isinstance(model, str | Path) else None
        network: Any = load_model(self.folder) if self.folder is not None else model
        if device is not None:
            network.to(device_named(device))
        self.network = network
        self.method = method
        self.label = label
        self.labels_map = None if labels_map is None else str(labels_map)
        self.reading = reading
        self._embeddings = Embeddings(network)
        self.cells: CellSet | None = CellSet.read(adata, network.input_spec, **reading)
        labels = labels_of(self.cells, label, option="label", names=read_labels_map(self.labels_map))
        self.classes: tuple[str, ...] = classes_of(labels, option=f"label={label}")
        self.codes: NDArray[np.int64] = codes_of(labels, self.classes)
        self.fitted: Fitted | None = None

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch of training; without rows for ``knn`` and ``linear``."""
        return self._trained().history

    def train(
        self,
        *,
        val_fraction: float = 0.1,
        reject: float = 0.05,
        class_weights: str | None = None,
        k: int = 15,
        lora_rank: int = 8,
        lr: float | None = None,
        seed: int = 0,
        **trainer: Any,
    ) -> CellAnnotator:
        """Learn from the reference; returns the annotator.

        Parameters
        ----------
        val_fraction, reject, class_weights, k, lora_rank, lr, seed
            See :class:`~cellfm_torch.annotation.methods.FitOptions`.
        trainer
            Options of Lightning's Trainer: ``max_epochs`` (default 30), ``accelerator``, ``devices``, ``callbacks`` ...

        Raises
        ------
        UserError
            If an option is out of its range, or the annotator was loaded and has no reference.
        """
        if self.cells is None:
            raise UserError("this annotator was loaded and has no reference: make one from cells to train")
        options = FitOptions(
            val_fraction=val_fraction,
            reject=reject,
            class_weights=class_weights,
            k=k,
            lora_rank=lora_rank,
            lr=lr,
            seed=seed,
            trainer=trainer,
        )
        self.fitted = fit(
            self.method,
            self._embeddings,
            self.cells,
            self.codes,
            np.flatnonzero(self.codes >= 0),
            num_classes=len(self.classes),
            options=options,
        )
        return self

    def predict(self, query: Given | None = None) -> pd.DataFrame:
        """Return the type of each cell, in the order of the query (None: of the reference).

        Returns
        -------
        DataFrame
            ``label``: the likeliest type, also where `unknown`; ``probability``: of that type; ``runner_up``: the next
            one; ``unknown``: less certain than nearly all held-out reference cells, so perhaps of another type. Cells
            without counts in the model's genes are unknown and have neither label nor probability.
        """
        probabilities = self.probabilities(query)
        return described(probabilities.to_numpy(), self.classes, self._trained(), probabilities.index)

    def probabilities(self, query: Given | None = None) -> pd.DataFrame:
        """Return the probability of each type for each cell; NaN for cells without counts in the model's genes."""
        fitted, cells = self._trained(), self._cells(query)
        return pd.DataFrame(fitted.probabilities(cells, self._embeddings), cells.obs.index, list(self.classes))

    def score(self, query: Given, *, label: str | None = None) -> dict[str, float]:
        """Return accuracy, F1 and calibration on labelled cells; see :func:`cellfm_torch.analysis.scores.scores`.

        Cells of types that the reference lacks do not count.
        """
        cells = self._cells(query)
        names = labels_of(cells, label or self.label, option="label", names=read_labels_map(self.labels_map))
        codes = codes_of(names, self.classes)
        asked = (codes >= 0) & (cells.lengths > 0)
        if not asked.any():
            raise UserError(f"label={label or self.label}: no cell is of a type that the reference has")
        found = self._trained().probabilities(cells, self._embeddings)[asked]
        rare = None if self.cells is None else rare_classes(self.codes[self.codes >= 0], num_classes=len(self.classes))
        return scores(codes[asked], found, rare=rare)

    def get_latent_representation(self, adata: Given | None = None) -> NDArray[np.float32]:
        """Return the embedding of each cell (n, E), of the backbone as the method left it; None: of the reference.

        After ``lora`` or ``full`` training that is the trained one.
        """
        trained = getattr(getattr(self.fitted, "model", None), "network", None)
        embeddings = self._embeddings if trained is None or trained is self.network else Embeddings(trained.eval())
        return embeddings.of(self._cells(adata))

    def save(self, folder: PathLike, *, overwrite: bool = False, include_model: bool = False) -> None:
        """Write what was learned: head and adapter as safetensors, everything else as JSON; nothing is pickled.

        The backbone is referred to by path and checksum, and copied with `include_model`; after ``full`` training it
        always is.

        Raises
        ------
        UserError
            If the folder exists and `overwrite` is false, or there is no model folder to refer to.
        """
        about = Saved(
            method=self.method,
            label=self.label,
            classes=self.classes,
            fitted=self._trained(),
            model=self.folder,
            reading=self.reading,
            labels_map=self.labels_map,
        )
        write_saved(folder, about, self.network, overwrite=overwrite, include_model=include_model)

    @classmethod
    def load(
        cls,
        folder: PathLike,
        *,
        adata: Given | None = None,
        model: PathLike | None = None,
        device: str | None = None,
    ) -> CellAnnotator:
        """Return a saved annotator.

        Parameters
        ----------
        folder
            What :meth:`save` wrote.
        adata
            The reference, for calls without a query; not needed to predict.
        model
            Where the model folder is now, if it was moved.
        device
            Where to compute.

        Raises
        ------
        UserError
            If the folder is damaged, or the model is not the one it was trained with.
        """
        network, saved = read_saved(folder, model=model)
        self = cls.__new__(cls)
        self.folder, self.network = saved.model, network if device is None else network.to(device_named(device))
        self.method, self.label, self.classes = saved.method, saved.label, saved.classes
        self.reading, self.labels_map, self.fitted = saved.reading, saved.labels_map, saved.fitted
        self._embeddings = Embeddings(self.network)
        self.cells, self.codes = None, np.zeros(0, dtype=np.int64)
        if device is not None and isinstance(self.fitted.model, AnnotateTask):
            self.fitted.model.to(device_named(device))
        if adata is not None:
            self.cells = CellSet.read(adata, self.network.input_spec, **self.reading)
            names = read_labels_map(self.labels_map)
            self.codes = codes_of(labels_of(self.cells, self.label, option="label", names=names), self.classes)
        return self

    def _cells(self, source: Given | None) -> CellSet:
        if source is not None:
            return CellSet.read(source, self.network.input_spec, **self.reading)
        if self.cells is None:
            raise UserError("this annotator was loaded without its reference: give the cells to look at")
        return self.cells

    def _trained(self) -> Fitted:
        if self.fitted is None:
            raise UserError("this annotator has learned nothing yet: call train() first (knn trains nothing there)")
        return self.fitted
