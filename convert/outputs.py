"""Outputs of a converted model against those that were recorded from the official one, where a recording is at hand.

Shapes: B cells, L genes of a cell, padded.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cellfm_torch.batch import CellBatch
from cellfm_torch.errors import UserError
from cellfm_torch.model import CellFM

# Largest absolute error over mean magnitude. Float32 sums taken in another order reach 3e-5, with adapters 6e-5 (the
# recording itself is 1.3e-5 from float64 there). Weights rounded to half precision move every output: the bound
# only catches a wrong model, whose error is above 0.1.
FLOAT32, FLOAT32_LORA, HALF = 3e-5, 6e-5, 0.1


def recording_of(checkpoint: Path) -> dict[str, NDArray[Any]] | None:
    """Read the recording beside a checkpoint, ``NAME.npz`` beside ``NAME.ckpt``; None where there is none for it."""
    path = checkpoint.with_suffix(".npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            if not {"gene", "zero_idx", "raw", "emb"} <= set(file.files):
                return None  # something else of the same name
            return {name: file[name] for name in file.files if not name.startswith("grad.")}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, zipfile.BadZipFile) as problem:
        raise UserError(f"{path} cannot be read as a recording ({problem}); say --skip-validation") from problem


def _batch(arrays: dict[str, NDArray[Any]], *, zeros: bool) -> tuple[CellBatch, NDArray[np.bool_]]:
    """Return the recorded cells and which of their (B, L) places are genes."""
    gene = torch.from_numpy(arrays["gene"]).long()
    valid = torch.ones_like(gene, dtype=torch.bool) if zeros else torch.from_numpy(arrays["zero_idx"][:, 1:] > 0)
    values, given = torch.from_numpy(arrays["raw"]).float(), {}
    if "masked" in arrays:  # (B, L, 2): visible, value
        flag, values = torch.from_numpy(arrays["masked"]).float().unbind(-1)
        given["hidden"] = (flag == 0) & valid
    if "ST_feat" in arrays:  # log1p(read depth / 1000)
        given["read_depth"] = torch.from_numpy(np.expm1(arrays["ST_feat"].astype(np.float64)) * 1000).float()
    return CellBatch.from_padded(gene, values, valid=valid, **given), valid.numpy()


def compare_outputs(folder: Path, arrays: dict[str, NDArray[Any]], *, limit: float) -> dict[str, float]:
    """Run a model folder on recorded inputs.

    Parameters
    ----------
    folder
        As :meth:`CellFM.from_pretrained` takes it.
    arrays
        The recording.
    limit
        Largest error that passes.

    Returns
    -------
    Error of each output: largest absolute error over mean magnitude.

    Raises
    ------
    UserError
        If one is beyond its tolerance.
    """
    network = CellFM.from_pretrained(folder).eval()
    config = network.config
    batch, valid = _batch(arrays, zeros=config.zeros)
    with torch.no_grad():
        prediction = network(batch)
    prefixes = arrays["emb"].shape[1] - arrays["gene"].shape[1]
    pairs = {"cell": (prediction.encoding.cell.numpy(), arrays["emb"][:, 0])}
    by_gene = {
        "genes": (prediction.encoding.genes, arrays["emb"][:, prefixes:]),
        "by_gene": (prediction.by_gene, arrays.get("gw_pred")),
        "by_cell": (prediction.by_cell, arrays.get("cw_pred")),
        "expressed_by_gene": (prediction.expressed_by_gene, arrays.get("z_prob_gw")),
        "expressed_by_cell": (prediction.expressed_by_cell, arrays.get("z_prob_cw")),
    }
    for name, (ours, theirs) in by_gene.items():
        if ours is not None and theirs is not None:
            pairs[name] = (batch.to_padded(ours).numpy()[valid], theirs[valid])
    errors = {name: _error(ours, theirs) for name, (ours, theirs) in pairs.items()}
    worst = max(errors, key=errors.__getitem__)
    if not errors[worst] <= limit:
        raise UserError(
            f"{worst} is {errors[worst]:.1e} of its mean magnitude off the recording beside the checkpoint (at most "
            f"{limit:.0e}); is --num-heads {config.num_heads} right? nothing was written"
        )
    return errors


def _error(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    finite = np.isfinite(theirs)  # the official code gives NaN for some cells
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return float("inf")
    return float(np.abs(ours - theirs)[finite].max() / np.abs(theirs[finite]).mean())
