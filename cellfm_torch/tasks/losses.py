"""Losses of masked-value pretraining, computed in float32.

Shapes: B cells, N genes of all cells together, R <= N genes that were decoded, F features compared between cells.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cellfm_torch.batch import CellBatch
from cellfm_torch.errors import UserError
from cellfm_torch.model.outputs import Prediction

PROBABILITY_FLOOR = 1e-12


def _targets(batch: CellBatch, rows: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return (target, target_values) of the decoded genes, or say that the batch has none."""
    if batch.target is None or batch.target_values is None:
        raise ValueError("the loss needs batch.target and batch.target_values; this batch was made for inference")
    target, values = batch.target, batch.target_values.float()
    return (target, values) if rows is None else (target[rows], values[rows])


def masked_mse(predicted: Tensor, batch: CellBatch, *, rows: Tensor | None = None) -> Tensor:
    """Mean squared error over the target genes of the whole batch: sum of squares / number of targets.

    Parameters
    ----------
    predicted : (R,)
        In the units of ``batch.target_values``.
    batch
        With `target` and `target_values`.
    rows : (R,) int64, optional
        The genes predicted, all targets among them; None: all genes, R = N.
    """
    target, values = _targets(batch, rows)
    error = (predicted.float() - values).masked_fill(~target, 0)
    return error.square().sum() / target.sum().clamp_min(1)


def expressed_bce(probability: Tensor, batch: CellBatch, *, rows: Tensor | None = None) -> Tensor:
    """Binary cross-entropy against "expressed", summed over all genes of the batch and divided by its targets.

    The published form: every token counts, masked or not, while the divisor is the number of masked genes.

    Parameters
    ----------
    probability : (R,)
        That the gene is expressed.
    batch
        With `target`, and `target_values` above zero where the gene is expressed.
    rows : (R,) int64, optional
        As for :func:`masked_mse`.
    """
    target, values = _targets(batch, rows)
    p = probability.float()
    likelihood = torch.where(values > 0, p, 1 - p).clamp_min(PROBABILITY_FLOOR)
    return -likelihood.log().sum() / target.sum().clamp_min(1)


def loss_terms(prediction: Prediction, batch: CellBatch) -> dict[str, Tensor]:
    """Return the terms of :func:`pretraining_loss` by name; a head the network lacks has no term."""
    terms = {
        "mse_by_gene": (masked_mse, prediction.by_gene),
        "mse_by_cell": (masked_mse, prediction.by_cell),
        "bce_by_gene": (expressed_bce, prediction.expressed_by_gene),
        "bce_by_cell": (expressed_bce, prediction.expressed_by_cell),
    }
    if all(output is None for _, output in terms.values()):
        raise UserError("this network predicts no expression (model.config.decoders=false): it cannot be pretrained")
    rows = prediction.rows
    return {name: loss(output, batch, rows=rows) for name, (loss, output) in terms.items() if output is not None}


def pretraining_loss(prediction: Prediction, batch: CellBatch) -> Tensor:
    """Masked MSE by gene and by cell, plus the cross-entropy of "expressed" where the heads exist.

    Parameters
    ----------
    prediction
        What the network returned for `batch`.
    batch
        With `target` and `target_values`.

    Returns
    -------
    Scalar float32 tensor, the sum of the terms with weight 1 each (CellFM, Nat. Commun. 2025).

    Raises
    ------
    ValueError
        If the batch has no targets, or the prediction none of the heads.
    """
    return torch.stack(list(loss_terms(prediction, batch).values())).sum()


def elastic_cell_similarity(rows: Tensor, *, threshold: float = 0.8) -> Tensor:
    """Elastic cell similarity: push cells to be either alike or unlike, by their cosine.

    The mean over all B^2 entries of ``1 - (cos - threshold)^2``, with the diagonal and negative cosines set to zero
    (scGPT, Nat. Methods 2024; the integration fine-tuning of CellFM).

    Parameters
    ----------
    rows : (B, F)
        One row per cell. The sound choice is the cell embedding; see :func:`positional_rows` for CellFM's own.
    threshold
        Cosine at which a pair contributes most.
    """
    unit = F.normalize(rows.float(), dim=1)
    with torch.autocast(rows.device.type, enabled=False):  # three digits of a cosine are too few
        cosine = (unit @ unit.T).fill_diagonal_(0).relu()
    return (1 - (cosine - threshold).square()).mean()


def positional_rows(by_cell: Tensor, padding: Tensor, batch: CellBatch) -> Tensor:
    """Lay by-cell predictions out by position in the cell, as the official integration fine-tuning does.

    Column j is a different gene in each cell, and padding columns hold the prediction for gene row 0: a quirk, kept
    so that published fine-tuning can be repeated.

    Parameters
    ----------
    by_cell : (N,)
        Prediction by cell for each gene of the batch.
    padding : (B,)
        Prediction by cell for gene row 0.
    batch

    Returns
    -------
    (B, L), with L the longest cell or the padded length the batch came from.
    """
    filled = batch.to_padded(torch.ones_like(batch.hidden))
    return torch.where(filled, batch.to_padded(by_cell), padding[:, None])
