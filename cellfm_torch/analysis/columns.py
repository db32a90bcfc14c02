"""What an analysis needs of an AnnData: columns of obs, counts, the embedding, with clear words where they are missing.

Shapes: B cells, C width of the embedding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.errors import UserError, examples, nearest

EMBEDDING = "X_cellfm"
"""Key of obsm."""

ANNDATA = "the AnnData"
"""Name in messages of cells that came from no file."""


def column(adata: Any, name: str, option: str, source: str = ANNDATA, *, gaps: bool = False) -> NDArray[np.object_]:
    """Return a column of obs as words, (B,); with `gaps`, cells without a value get None.

    Raises
    ------
    UserError
        If there is no such column, or cells lack a value and may not.
    """
    there = [str(key) for key in adata.obs.columns]
    if name not in there:
        raise UserError(
            f"{option}={name}: {source} has no such column in obs (it has {examples(there, most=12)})"
            f"{nearest(str(name), there)}"
        )
    values = adata.obs[name]
    missing = values.isna().to_numpy()
    if missing.any() and not gaps:
        raise UserError(
            f"{option}={name}: {missing.sum():,} of {len(missing):,} cells of {source} have no value, such as "
            f"{adata.obs_names[int(np.argmax(missing))]}; fill them in or leave these cells out"
        )
    words = values.astype(str).to_numpy(dtype=object)
    words[missing] = None
    return words


def counts_of(adata: Any, layer: str | None, source: str = ANNDATA) -> Any:
    """Return the matrix with the counts: X, ``raw.X`` (``"raw"``) or a layer.

    Raises
    ------
    UserError
        If there is no such matrix.
    """
    if layer is None:
        return adata.X
    if layer == "raw" and adata.raw is not None:
        return adata.raw.X
    if layer not in adata.layers:
        others = [name for name in adata.layers if name is not None]  # None is X, from AnnData 0.13 on
        raise UserError(
            f"layer={layer}: {source} has no such layer (it has {examples(others) or 'none'}){nearest(layer, others)}"
        )
    return adata.layers[layer]


def stored_embedding(adata: Any, source: str = ANNDATA) -> NDArray[np.float32]:
    """Return ``obsm["X_cellfm"]``, (B, C).

    Raises
    ------
    UserError
        If it is not there.
    """
    if EMBEDDING not in adata.obsm:
        there = f" (it has {examples(adata.obsm)})" if len(adata.obsm) else ""
        raise UserError(f"{source} has no obsm['{EMBEDDING}']{there}: embed it first, cellfm embed")
    found = np.asarray(adata.obsm[EMBEDDING], dtype=np.float32)
    if found.ndim != 2:
        raise UserError(f"{source}: obsm['{EMBEDDING}'] has shape {found.shape}; it must be (cells, width)")
    return found.copy()


def finite_rows(embedding: NDArray[np.float32], source: str = ANNDATA) -> NDArray[np.bool_]:
    """Say which cells have an embedding, (B,).

    Raises
    ------
    UserError
        If fewer than ten have.
    """
    finite = np.asarray(np.isfinite(embedding).all(1))
    if finite.sum() < 10:
        raise UserError(f"{source}: only {finite.sum()} of {len(finite):,} cells have an embedding; ten are needed")
    return finite
