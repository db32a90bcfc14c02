"""Files of cells as the analysing commands take them: read whole, embedded, written.

Shapes: B cells, C width of the embedding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.analysis.columns import EMBEDDING, stored_embedding
from cellfm_torch.errors import UserError


def read_cells(path: Path) -> Any:
    """Read an h5ad file into memory.

    Raises
    ------
    UserError
        If it is damaged or something else, or has no cells.
    """
    import anndata

    from cellfm_torch.data.sources.damage import damage_named

    with damage_named(path):
        adata = anndata.read_h5ad(path)
    if adata.n_obs == 0:
        raise UserError(f"{path}: has no cells")
    return adata


def reading_of(cfg: Any) -> dict[str, Any]:
    """Return what a configuration says of how cells are read and where they are embedded."""
    return {
        "layer": cfg.data.layer,
        "counts": cfg.data.counts,
        "genes": dict(cfg.genes),
        "accelerator": cfg.accelerator,
    }


def embed(adata: Any, folder: str | None, source: str, **reading: Any) -> NDArray[np.float32]:
    """Embed the cells with a model folder where one is given; return ``obsm["X_cellfm"]``, (B, C).

    Raises
    ------
    UserError
        If there is neither a folder nor an embedding.
    """
    if folder is not None:
        from cellfm_torch.data.files import Input
        from cellfm_torch.embedding import embed as embed_cells

        embed_cells(Input(Path(source), adata=adata), folder, **reading)
    elif EMBEDDING not in adata.obsm:
        raise UserError(f"{source} has no obsm['{EMBEDDING}']: embed it first (cellfm embed), or give --model FOLDER")
    return stored_embedding(adata, source)


def write_cells(adata: Any, path: Path) -> None:
    """Write an h5ad file beside and rename it."""
    from cellfm_torch.h5_files import write_anndata

    write_anndata(adata, path)
