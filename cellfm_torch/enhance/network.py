"""What a network that reads depths says of cells at a depth that it is asked to imagine.

Shapes: n cells, G genes of the vocabulary, g of them that are kept, C width of a cell embedding.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cellfm_torch.data.labelled import CellSet
from cellfm_torch.embedding.cell_sets import shown
from cellfm_torch.errors import UserError
from cellfm_torch.read_depth import TargetDepth

Floats = NDArray[np.float32]

LEAST_TARGET, MOST_TARGET = 1.0, 1e9
"""Counts."""


def depth_rule(target: Any) -> str:
    """Return the rule for T that an option means.

    Parameters
    ----------
    target
        Counts, such as 10000; or a rule: ``"t4"`` is 10^4 counts, ``"f10"`` ten times those of the cell, ``"a1"`` the
        same by its logarithm.

    Raises
    ------
    UserError
        If it is neither, or out of range.
    """
    try:
        counts = float(target)
    except (TypeError, ValueError):
        return str(TargetDepth.parse(str(target)))
    if not LEAST_TARGET <= counts <= MOST_TARGET:
        raise UserError(
            f"target_depth={target}: give the counts of a cell, from 1 to 1e9, such as 10000; or a rule such as f10"
        )
    return f"t{math.log10(counts):.12g}"


def check_network(network: Any) -> None:
    """Refuse a network that cannot do it.

    Raises
    ------
    UserError
        If it reads no depths, or knows nothing of unexpressed genes.
    """
    name = type(network).__name__
    if not network.input_spec.read_depth:
        raise UserError(
            f"this {name} has no read-depth tokens: give a model trained with task.read_depth=true, or scFoundation"
        )
    if "expression" not in network.outputs():
        raise UserError(
            f"this {name} knows expressed genes only: give a model trained with task.zeros=true, or scFoundation"
        )


def at_depth(
    network: Any, cells: CellSet, rule: str, *, columns: NDArray[np.int64], embed: bool = True, what: str = "enhancing"
) -> tuple[Floats, Floats | None]:
    """Return what a network expects of cells at another depth.

    Parameters
    ----------
    network
        Of either backbone; see :func:`check_network`.
    cells
        The cells.
    rule
        For T, see :func:`depth_rule`.
    columns : (g,)
        Genes that are kept, as positions in the vocabulary.
    embed
        Also the cell embeddings at T.
    what
        Word for the progress.

    Returns
    -------
    expression : (n, g)
        log1p(CP10K); NaN for cells without counts in the model's genes.
    embedding : (n, C) or None
    """
    device = next(network.parameters()).device
    asked = CellSet(cells.cells, dataclasses.replace(cells.spec, target_depth=rule), token_budget=cells.token_budget)
    expression = np.full((len(cells), len(columns)), np.nan, dtype=np.float32)
    embedding = np.full((len(cells), network.cell_dim), np.nan, dtype=np.float32) if embed else None
    compute, embedder = network.outputs()["expression"], network.embedder()
    kept = torch.from_numpy(columns).to(device)
    if (cells.lengths > 0).any():
        for batch in shown(asked.loader(), what):
            rows, batch = batch.cell_index.numpy(), batch.to(device)
            expression[rows] = compute(batch)[:, kept].float().cpu().numpy()
            if embedding is not None:
                embedding[rows] = embedder(batch).float().cpu().numpy()
    return expression, embedding
