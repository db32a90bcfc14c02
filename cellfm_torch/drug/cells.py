"""Single-cell drug response: learned from lines, adapted to cells without a label of theirs.

Shapes: L lines, n cells, E width, P coordinates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.analysis.expression import log_normalised, variable_genes
from cellfm_torch.data.labelled import CellSet
from cellfm_torch.drug.align import Floats, unaligned
from cellfm_torch.drug.binary import bootstrapped
from cellfm_torch.drug.join import Responses, read_responses
from cellfm_torch.drug.labels import response_labels, true_labels
from cellfm_torch.drug.methods import BLIND, Rows, check_method, check_number, logistic, sensitivity
from cellfm_torch.embedding.cell_sets import Embeddings
from cellfm_torch.errors import UserError
from cellfm_torch.model.device import chosen_device
from cellfm_torch.model.loading import Backbone, load_model, untrained

GENES, UNADAPTED, RANDOM = "logistic on shared genes", "no adaptation", "random weights"

PROBABILITY, LABEL = "drug_sensitivity", "drug_response"
"""Columns of obs that are added: probability of being sensitive; sensitive or resistant."""


@dataclass
class CellResponse:
    """What lines say of cells.

    Attributes
    ----------
    adata : AnnData
        The cells, with ``obs["drug_sensitivity"]`` and ``obs["drug_response"]``; NaN and None for cells without counts
        in the model's genes.
    drug, method : str
    scores : DataFrame or None
        By method AUROC and AUPR with 95 % intervals, and the gain of the adapted model over each; None where the truth
        is unknown.
    notes : tuple of str
        What was joined and how lines were labelled.
    """

    adata: anndata.AnnData
    drug: str
    method: str
    scores: pd.DataFrame | None
    notes: tuple[str, ...] = ()

    def verdicts(self) -> list[str]:
        """Return a line per baseline: whether the adapted model tells sensitive cells better."""
        if self.scores is None:
            return ["no cell has a known response (response=COLUMN), so that nothing is known of how good this is"]
        table, lines = self.scores.set_index("method"), []
        ours = table.loc[self.method]
        for name, row in table.drop(index=self.method).iterrows():
            word = "better" if row["gain_low"] > 0 else "worse" if row["gain_high"] < 0 else "no better for certain"
            lines.append(
                f"AUROC: {self.method} {ours['auroc']:.3f}, {name} {row['auroc']:.3f}: {word} "
                f"(by {row['gain']:.3f}, 95 % interval {row['gain_low']:.3f} to {row['gain_high']:.3f})."
            )
        return lines


def single_cell_response(
    cells: anndata.AnnData | str | Path,
    expression: anndata.AnnData | str | Path,
    ic50: str | Path,
    model: Backbone | str | Path,
    *,
    drug: str,
    threshold: float | None = None,
    thresholds: str | Path | None = None,
    method: str = "coral",
    response: str | None = None,
    by: str | None = None,
    drugs: str | Path | None = None,
    annotation: str | Path | None = None,
    values: str = "auto",
    unit: str = "ln_uM",
    random_weights: bool = True,
    seed: int = 0,
    accelerator: str = "auto",
    keep: str | Path | None = None,
    say: Callable[[str], None] | None = None,
    genes: Any = None,
    **reading: Any,
) -> CellResponse:
    """Tell cells that are sensitive to a drug from resistant ones by what bulk cell lines respond.

    Lines and cells are embedded by the model as it is; lines are moved to where the cells lie, without a label of a
    cell; a logistic regression learns from the moved lines.

    Parameters
    ----------
    cells
        A file or an AnnData, raw counts.
    expression, ic50, drugs, annotation, values, unit
        See :func:`cellfm_torch.drug_response`.
    model
        Model folder, or a network.
    drug
        As the IC50 table or the table of drugs names it.
    threshold, thresholds
        ln(uM) below which a line is sensitive, or a table of them by drug. Without either the third of the lines with
        the lowest IC50 is sensitive, that with the highest resistant, and the others take no part.
    method
        How lines are brought to the cells: ``"coral"`` (their covariance becomes the cells', the default),
        ``"transport"`` (optimal transport, which told simulated cells less surely by 80 lines), ``"adversarial"`` (in
        place of the regression a network whose features tell labelled lines, but not lines from cells), ``"scale"``
        (either standardised by itself) or ``"none"``.
    response
        Column of obs with the truth (sensitive or resistant, 1 or 0), for the scores only.
    by
        Column of obs, such as donor: its groups are drawn whole by the bootstrap.
    random_weights
        Also with the same network with random weights.
    seed
        Of everything.
    accelerator
        Where to embed; ``"auto"`` takes a GPU where there is one.
    keep
        Folder in which embeddings are kept as they are made: the same call goes on after an interruption, and one with
        another drug or method does not make them again. Whoever gives it removes it.
    genes, reading
        How files are read: fields of :class:`~cellfm_torch.data.options.ReadOptions`, and ``token_budget``.

    Raises
    ------
    UserError
        If a table cannot be used, the drug is unknown, or there are too few sensitive or resistant lines.

    Examples
    --------
    >>> found = single_cell_response("c.h5ad", "lines.csv", "GDSC_IC50.csv", "models/80m", drug="Etoposide")
    ... # doctest: +SKIP
    """
    check_method(method)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UserError(f"seed={seed}: must be a whole number, not negative")
    tell, kept = say or (lambda line: None), None if keep is None else Path(keep)
    network: Any = load_model(Path(model).expanduser()) if isinstance(model, str | Path) else model
    network = network.to(chosen_device(accelerator))
    named = {} if genes is None else {"genes": genes}
    of_lines = named | ({"token_budget": reading["token_budget"]} if "token_budget" in reading else {})
    joined = read_responses(
        expression,
        ic50,
        network.input_spec,
        drugs=drugs,
        annotation=annotation,
        values=values,
        unit=unit,
        **of_lines,
    )
    rows, sensitive, note = response_labels(joined, drug, threshold, thresholds)
    asked = CellSet.read(cells, network.input_spec, **named, **reading)
    counted = np.flatnonzero(asked.lengths > 0)
    if not len(counted):
        raise UserError(f"{asked.cells.reports[0].file}: no cell has counts in the model's genes")
    check_number(method, len(counted), str(asked.cells.reports[0].file))
    truth = None if response is None else true_labels(asked, response)[counted]
    groups = None if by is None else asked.column(by, option="by").astype(str).to_numpy()[counted]
    notes = (*joined.notes, note)
    for line in notes:
        tell(line)
    known = rows, sensitive
    by_genes = None if truth is None else _by_genes(joined, asked, counted, *known, seed)
    tell(f"embedding {len(joined.cells):,} lines and {len(asked):,} cells")
    ours = f"model, {method}"
    sides = _embedded(Embeddings(network, keep=kept), joined, asked, counted)
    answers = {ours: sensitivity(method, *sides, *known, seed)}
    if by_genes is not None:
        if method != BLIND:
            answers[UNADAPTED] = sensitivity(BLIND, *sides, *known, seed)
        answers[GENES] = by_genes
        if random_weights:
            tell("the same with random weights")
            sides = _embedded(Embeddings(untrained(network, seed=seed), keep=kept), joined, asked, counted)
            answers[RANDOM] = sensitivity(method, *sides, *known, seed)
    table = None if truth is None else _scored(truth, answers, ours, groups, seed)
    return CellResponse(_annotated(cells, asked, counted, answers[ours]), drug, ours, table, notes)


def _embedded(embeddings: Embeddings, joined: Responses, cells: CellSet, counted: Rows) -> tuple[Floats, Floats]:
    lines = embeddings.of(joined.cells)[joined.rows]
    return lines.astype(np.float64), embeddings.of(cells)[counted].astype(np.float64)


def _by_genes(
    joined: Responses, cells: CellSet, counted: Rows, rows: Rows, sensitive: NDArray[np.bool_], seed: int
) -> Floats:
    a, b = log_normalised(joined.cells.counts)[joined.rows[rows]], log_normalised(cells.counts)[counted]
    shared = np.flatnonzero((a.getnnz(0) > 0) & (b.getnnz(0) > 0))
    if not len(shared):
        raise UserError("lines and cells express no gene in common")
    a, b = a[:, shared], b[:, shared]
    most = variable_genes(a)
    x, y = (np.asarray(side[:, most].todense(), dtype=np.float64) for side in (a, b))
    return logistic(*unaligned(x, y), sensitive, seed)


def _scored(
    truth: NDArray[np.object_], answers: dict[str, Floats], ours: str, groups: NDArray[Any] | None, seed: int
) -> pd.DataFrame:
    known = np.array([value is not None for value in truth])
    return bootstrapped(
        truth[known].astype(bool),
        {name: score[known] for name, score in answers.items()},
        ours=ours,
        groups=None if groups is None else groups[known],
        seed=seed,
    )


def _annotated(given: Any, cells: CellSet, counted: NDArray[np.int64], score: Floats) -> anndata.AnnData:
    """Return the cells as they came, with the columns; over the model's genes where the file was no h5ad."""
    if isinstance(given, anndata.AnnData):
        adata = given.copy()
    elif str(given).endswith(".h5ad"):
        adata = anndata.read_h5ad(Path(given).expanduser())
    else:
        adata = anndata.AnnData(
            sp.csr_matrix(cells.counts), cells.obs, pd.DataFrame(index=list(cells.spec.genes or ()))
        )
    probability = np.full(len(cells), np.nan)
    probability[counted] = score
    label = np.full(len(cells), None, dtype=object)
    label[counted] = np.where(score > 0.5, "sensitive", "resistant")
    adata.obs[PROBABILITY], adata.obs[LABEL] = probability, pd.Categorical(label, ["resistant", "sensitive"])
    return adata
