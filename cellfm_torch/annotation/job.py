"""What `cellfm annotate` reads and decides before anything is fitted, and what it makes of the query.

Shapes: q query cells, C classes.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import anndata
import numpy as np
import pandas as pd

from cellfm_torch.analysis.baselines import available
from cellfm_torch.annotation.designs import Design, Labelled, designs
from cellfm_torch.annotation.evaluate import RANDOM, Question
from cellfm_torch.annotation.labels import check_shared, classes_of, codes_of, labels_of, read_labels_map
from cellfm_torch.annotation.methods import FitOptions, Fitted, described, fit
from cellfm_torch.annotation.saved import Saved, write_saved
from cellfm_torch.data.labelled import CellSet
from cellfm_torch.data.report import print_report
from cellfm_torch.embedding.cell_sets import Embeddings
from cellfm_torch.embedding.record import cell_columns, record, weights_of
from cellfm_torch.errors import UserError, nearest
from cellfm_torch.model.device import chosen_device
from cellfm_torch.model.loading import load_model


def others(options: dict[str, Any]) -> list[str]:
    """Return the models that are put beside the method: all there are, none, or those asked for.

    Raises
    ------
    UserError
        If one is not known, or not installed.
    """
    known, asked = [RANDOM, *available()], options["baselines"]
    if asked in ("all", "none", None):
        return known if asked == "all" else []
    asked = list(asked) if isinstance(asked, list | tuple) else [asked]
    for name in asked:
        if name == "celltypist" and name not in known:
            raise UserError("baselines: CellTypist is not installed: pip install celltypist, or leave it out")
        if name not in known:
            raise UserError(f"baselines: there is no '{name}'{nearest(str(name), known)}; there are {', '.join(known)}")
    return asked


@dataclass
class Job:
    """Cells, labels and backbone of one call."""

    options: dict[str, Any]
    question: Question
    embeddings: Embeddings
    groups: pd.Series | None
    few: tuple[int, ...]
    _weights: str | None = None

    @classmethod
    def read(cls, options: dict[str, Any]) -> Job:
        """Read everything, and refuse what cannot work.

        Raises
        ------
        UserError
            If a file, a column or an option is wrong.
        """
        few = numbers("few_shot", options["few_shot"])
        options["seeds"] = list(numbers("seeds", options["seeds"], least=0)) or [0]
        if options["query"] is None and not (options["folds"] or options["leave_out"] or few):
            raise UserError("nothing to do: give a query=FILE to label, or folds, leave_out or few_shot to evaluate")
        if options["query_label"] is not None and options["query"] is None:
            raise UserError(f"query_label={options['query_label']}: there is no query: give query=FILE")
        if options["query"] is not None and Path(options["query"]).suffix != ".h5ad":
            raise UserError(f"query={options['query']}: give an h5ad file: labels are written into a copy of it")
        names = read_labels_map(options["labels_map"])
        network: Any = load_model(Path(options["model_folder"]).expanduser())
        network.eval().requires_grad_(False).to(chosen_device(options["trainer"]["accelerator"]))
        reading = options["data"] | {"genes": options["genes"]}
        reference = CellSet.read(options["reference"], network.input_spec, **reading)
        print_report(reference.cells.reports)
        labels = labels_of(reference, options["label"], option="label", names=names)
        classes = classes_of(labels, option=f"label={options['label']}")
        if unlabelled := int(labels.isna().sum()):
            warnings.warn(f"{unlabelled:,} of {len(labels):,} reference cells have no label: left out", stacklevel=2)
        query, query_labels, known = None, None, None
        if options["query"] is not None:
            query = CellSet.read(options["query"], network.input_spec, **reading)
            print_report(query.cells.reports)
            if options["shared_genes"]:
                reference = reference.with_genes_of(query)
        codes = np.where(reference.lengths > 0, codes_of(labels, classes), -1)
        if query is not None and options["query_label"] is not None:
            query_labels = labels_of(query, options["query_label"], option="query_label", names=names)
            check_shared(query_labels, classes, option=f"query_label={options['query_label']}")
            known = query_labels.notna().to_numpy() & (query.lengths > 0)
        column = options["leave_out"]
        groups = None if column is None else reference.column(column, option="leave_out").rename(column)
        question = Question(reference, query, Labelled(classes, codes, known), query_labels)
        return cls(options, question, Embeddings(network), groups, few)

    @property
    def classes(self) -> tuple[str, ...]:
        """Types of the reference."""
        return self.question.labelled.classes

    @cached_property
    def fit_options(self) -> FitOptions:
        """How the method is fitted."""
        return FitOptions(**self.options["fit"], trainer=self.options["trainer"])

    def plan(self, seed: int) -> list[Design]:
        """Return the evaluations asked for."""
        return designs(self.question.labelled, seed=seed, split=self.options["folds"], groups=self.groups, few=self.few)

    def fit(self, seed: int) -> Fitted:
        """Fit the method to the whole reference."""
        codes = self.question.labelled.codes
        return fit(
            self.options["method"],
            self.embeddings,
            self.question.reference,
            codes,
            np.flatnonzero(codes >= 0),
            num_classes=len(self.classes),
            options=dataclasses.replace(self.fit_options, seed=seed),
        )

    def label_query(self, fitted: Fitted, *, version: str) -> anndata.AnnData:
        """Return the query with what the method says of each cell, and the embedding by the backbone as given."""
        query = self.question.query
        assert query is not None
        adata = anndata.read_h5ad(Path(self.options["query"]).expanduser())
        found = described(fitted.probabilities(query, self.embeddings), self.classes, fitted, adata.obs_names)
        for name, column in found.items():
            adata.obs[f"cellfm_{name}"] = column
        for name, column in cell_columns(query.lengths).items():
            adata.obs[name] = column
        adata.obsm["X_cellfm"] = self.embeddings.of(query)
        folder, weights = Path(self.options["model_folder"]).expanduser(), self.about()["model_sha256"]
        adata.uns["cellfm"] = record(
            model=cast(Any, self.embeddings.network),
            folder=folder,
            weights=weights,
            reports=query.cells.reports,
            options=self.options["data"],
        )
        adata.uns["cellfm_annotate"] = {
            "version": version,
            "method": fitted.method,
            "reference": str(self.options["reference"]),
            "label": self.options["label"],
            "classes": list(self.classes),
            "rejection": vars(fitted.rejection),
        }
        return adata

    def about(self) -> dict[str, Any]:
        """Return what tells the model and the types."""
        if self._weights is None:
            self._weights = weights_of(Path(self.options["model_folder"]).expanduser())
        return {"model_sha256": self._weights, "classes": list(self.classes)}

    def save(self, fitted: Fitted, folder: Path) -> None:
        """Write what was learned, for :meth:`cellfm_torch.CellAnnotator.load`."""
        model = Path(self.options["model_folder"]).expanduser()
        reading = self.options["data"] | {"genes": self.options["genes"]}
        names = self.options["labels_map"]
        saved = Saved(fitted.method, self.options["label"], self.classes, fitted, model, reading, names)
        write_saved(folder, saved, cast(Any, self.embeddings.network), overwrite=True)


def numbers(option: str, value: Any, *, least: int = 1) -> tuple[int, ...]:
    """Return the numbers of an option that takes one or several: 10, [5,10,50] or "5,10,50".

    Raises
    ------
    UserError
        If one is not whole, or too small.
    """
    if value is None:
        return ()
    given = re.split(r"[,\s]+", value.strip("[] ")) if isinstance(value, str) else value
    given = given if isinstance(given, list | tuple) else [given]
    try:
        found = tuple(int(x) for x in given)
    except (TypeError, ValueError):
        raise UserError(f"{option}={value}: give whole numbers, such as [5,10,50]") from None
    if found and min(found) < least:
        raise UserError(f"{option}={value}: must be at least {least}")
    return found
