"""What a model says of the cells of a file: embeddings of cells and genes, expression, at a read depth of choice.

Shapes: B cells of a batch, C width of a cell embedding, G genes of the vocabulary, E width of a gene embedding.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.data.files import PathLike
from cellfm_torch.data.module import CellDataModule
from cellfm_torch.errors import UserError, nearest

if TYPE_CHECKING:
    from cellfm_torch.model.loading import Backbone


def predict(
    path: PathLike | Iterable[PathLike],
    model: Backbone,
    output: str = "cell",
    *,
    target_depth: str | None = None,
    totals: str | None = None,
    token_budget: int = 16384,
    min_genes: int = 0,
    **reading: Any,
) -> Iterator[tuple[pd.Index, NDArray[Any]]]:
    """Yield one output of a model for all cells of files, some cells at a time, in file order.

    Genes are found in the model's vocabulary by symbol, Ensembl id, previous symbol or alias; those that a file lacks
    count as not expressed. A report of the genes and cells found is printed before the first batch. Cells without any
    count in the vocabulary get rows of NaN, and a warning says how many they are.

    Parameters
    ----------
    path
        One file, glob or prepared store, or a list of them.
    model
        As :func:`~cellfm_torch.load_model` returns it; its device is used.
    output
        A key of ``model.outputs()``. Every backbone has ``"cell"``: (B, C), the cell embedding. scFoundation also has:

        - ``"max"``: (B, D), the maximum over all tokens of the encoder. ``"cell"`` is (B, 4 D), 3,072 numbers at the
          published size: S, T, maximum and mean over expressed genes.
        - ``"gene"``: (B, G, E), an embedding of every gene in the context of the cell. 39.5 MB per cell.
        - ``"expression"``: (B, G), expected log1p(CP10K), natural logarithm, of every gene.
    target_depth
        For a model that reads depths: the total T that it is asked to imagine, as scFoundation's rules. The model
        reads **decimal logarithms** of totals of counts, S of what it is given and T; with c the counts of a cell in
        the vocabulary, S = log10(c), and:

        - ``"t4"``: T = 4, that is 10^4 counts, whatever the cell has. ``"t"`` takes a logarithm: ``"t10000"`` is no
          rule. The default of scFoundation.
        - ``"f2"``: T = log10(2 c), twice the cell's own counts; ``"f1"`` is the depth it has.
        - ``"a0.5"``: T = log10(c) + 0.5, that is 10^0.5 = 3.2 times its counts. The number is added to the logarithm:
          ``"a5"`` is 100,000 times the counts, not five counts more.
    totals
        Column of ``obs`` with c, for log-normalised values whose counts are lost (``counts="normalised"``). Where they
        can be recovered (``counts="recover"``), c is.
    token_budget
        Gene tokens per batch.
    min_genes
        Cells that express fewer genes of the vocabulary are left out: neither rows nor names.
    reading
        Further fields of :class:`~cellfm_torch.data.options.ReadOptions`: ``layer``, ``counts``, ``genes`` and others.

    Yields
    ------
    names : Index
        Names of the cells (of a prepared store: their numbers).
    values : array, one row per cell

    Raises
    ------
    UserError
        If the model has no such output, or the files cannot be used as asked.

    Examples
    --------
    >>> parts = list(predict("cells.h5ad", load_model("models-cell"), target_depth="a1"))  # doctest: +SKIP
    >>> frame = pd.concat(pd.DataFrame(values, index=names) for names, values in parts)  # doctest: +SKIP
    """
    known = model.outputs()
    if output not in known:
        raise UserError(
            f"output '{output}': this {type(model).__name__} has {', '.join(known)}{nearest(output, known)}"
        )
    data = CellDataModule(
        path,
        # All genes: a sample of them would depend on where in the file a cell stands.
        input_spec=model.input_spec.sampling(None),
        target_depth=target_depth,
        totals=totals,
        token_budget=token_budget,
        min_genes=min_genes,
        **reading,
    )
    return _batches(data, model, output)


def _batches(data: CellDataModule, model: Backbone, output: str) -> Iterator[tuple[pd.Index, NDArray[Any]]]:
    compute, device = model.outputs()[output], next(model.parameters()).device
    data.setup("predict")
    names, done = data.obs.index, 0
    if (without := np.flatnonzero(data.table.lengths == 0)).size == len(names):
        raise UserError(f"none of the {len(names):,} cells has counts in the model's genes")
    if without.size:
        warnings.warn(
            f"{without.size:,} of {len(names):,} cells have no counts in the model's genes, such as "
            f"{names[without[0]]}: their rows are NaN",
            stacklevel=3,
        )
    for batch in data.predict_dataloader():
        values = compute(batch.to(device)).float().cpu().numpy()
        rows = batch.cell_index.numpy()
        yield names[done : rows[-1] + 1], _spread(values, rows - done)
        done = int(rows[-1]) + 1
    if done < len(names):
        yield names[done:], np.full((len(names) - done, *values.shape[1:]), np.nan, values.dtype)


def _spread(values: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return values at ascending rows, and NaN in the rows between them."""
    if len(rows) == rows[-1] + 1:
        return values
    spread = np.full((rows[-1] + 1, *values.shape[1:]), np.nan, values.dtype)
    spread[rows] = values
    return spread
