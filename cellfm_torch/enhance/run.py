"""Cells as if they had been sequenced deeper.

Shapes: n cells, g genes that are kept, C width of a cell embedding.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.data.files import Given
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.labelled import CellSet
from cellfm_torch.data.report import print_report
from cellfm_torch.enhance.network import at_depth, check_network, depth_rule
from cellfm_torch.errors import UserError, nearest
from cellfm_torch.model.device import chosen_device
from cellfm_torch.model.loading import Backbone, load_model

KEY, LAYER = "X_cellfm", "enhanced"
MEMORY_SHARE = 0.5
"""Of the machine's memory that the layer may take."""


def enhance(
    cells: Given,
    model: Backbone | str | Path,
    *,
    target_depth: float | str = 10_000,
    gene_list: Sequence[str] | str = "measured",
    accelerator: str = "auto",
    verbose: bool = True,
    **reading: Any,
) -> anndata.AnnData:
    """Return cells with the expression that is expected at another read depth, and their embeddings at it.

    Parameters
    ----------
    cells
        Raw counts: an AnnData or a file of any known format.
    model
        A model folder or a network that reads depths (scFoundation, or CellFM with ``read_depth`` and ``zeros``).
    target_depth
        Counts that each cell is imagined to have, or a rule for them: ``"f10"`` is ten times those it has.
    gene_list
        ``"measured"``: the model's genes that have counts in a cell; ``"all"``: all of the model's; or names.
    accelerator
        ``"auto"`` takes a GPU where there is one.
    verbose
        Say how the genes were found.
    reading
        How the file is read: fields of :class:`~cellfm_torch.data.options.ReadOptions` such as ``layer``, and
        ``token_budget``.

    Returns
    -------
    AnnData of n cells by g genes
        ``X``: the counts that were given; ``layers["enhanced"]``: expected log1p(CP10K), natural logarithm, at the
        target depth; ``obsm["X_cellfm"]`` (n, C) at it; NaN for cells without counts in the model's genes. ``uns``:
        ``cellfm_enhance`` says what was asked for.

    Raises
    ------
    UserError
        If the model reads no depths, the depth is out of range, or the layer would not fit into memory.
    """
    rule = depth_rule(target_depth)
    network: Any = load_model(Path(model).expanduser()) if isinstance(model, str | Path) else model
    check_network(network)
    network.eval().to(chosen_device(accelerator))
    given = CellSet.read(cells, network.input_spec, **reading)
    if verbose:
        print_report(given.cells.reports)
    columns = chosen_columns(network, given, gene_list)
    check_memory(len(given), len(columns))
    expression, embedding = at_depth(network, given, rule, columns=columns)
    symbols = np.asarray(network.input_spec.genes, dtype=object)
    var = pd.DataFrame(index=pd.Index(symbols[columns].astype(str)))
    out = anndata.AnnData(given.counts[:, columns].astype(np.float32), obs=given.obs.copy(), var=var)
    out.layers[LAYER] = expression
    out.obsm[KEY] = embedding
    out.uns["cellfm_enhance"] = {
        "target_depth": str(target_depth),
        "rule": rule,
        "unit": "log1p(CP10K)",
        "model": type(network).__name__,
    }
    return out


def chosen_columns(network: Any, given: CellSet, gene_list: Sequence[str] | str) -> NDArray[np.int64]:
    """Return the genes that are kept, as positions in the vocabulary, ascending.

    Raises
    ------
    UserError
        If one is unknown, with the nearest name.
    """
    spec = network.input_spec
    if isinstance(gene_list, str) and gene_list in ("measured", "all"):
        return np.flatnonzero(given.counts.getnnz(axis=0)) if gene_list == "measured" else np.arange(len(spec.genes))
    names = [gene_list] if isinstance(gene_list, str) else list(gene_list)
    match = GeneVocab(spec.genes, first_id=spec.first_id).match(names)
    if match.unmatched:
        name = match.unmatched[0]
        raise UserError(f"gene_list: the model has no gene '{name}'{nearest(name.upper(), spec.genes)}")
    return np.unique(match.rows)


def check_memory(cells: int, genes: int) -> None:
    """Refuse a layer that would not fit.

    Raises
    ------
    UserError
        With what to do.
    """
    needed = 4 * cells * genes
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > MEMORY_SHARE * there:
        raise UserError(
            f"{cells:,} cells x {genes:,} genes take {needed / 1e9:.0f} GB, this machine has {there / 1e9:.0f}: "
            "name the genes you need (gene_list), or give fewer cells at a time"
        )
