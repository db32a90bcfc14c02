"""EmbeddingWriter: what predict_step returns, in input order, into an .npy or .h5ad file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from cellfm_torch.errors import UserError
from cellfm_torch.files import written_beside
from cellfm_torch.h5_files import write_anndata

if TYPE_CHECKING:
    from anndata import AnnData


def _embedding_of(prediction: Any) -> Tensor:
    """Find the (B, C) tensor in what predict_step returned."""
    found = prediction
    for name in ("cell", "embedding"):
        inside = prediction.get(name) if isinstance(prediction, Mapping) else getattr(prediction, name, None)
        if isinstance(inside, Tensor):
            found = inside
            break
    if not isinstance(found, Tensor) or found.ndim != 2:
        shape = f" of shape {tuple(found.shape)}" if isinstance(found, Tensor) else ""
        raise UserError(
            f"EmbeddingWriter: predict_step returned a {type(prediction).__name__}{shape}; "
            "return a (cells, dimensions) tensor, or an object or dict with it as 'cell' or 'embedding'"
        )
    found = found.detach()
    return found.float().cpu() if found.dtype in (torch.float16, torch.bfloat16) else found.cpu()


class EmbeddingWriter(Callback):
    """Write the embeddings of ``trainer.predict`` in the order of the input, whatever order they came in.

    A cell's row is its ``batch.cell_index``; without one, the index Lightning drew from the dataset; without that (an
    iterable dataset), the running order. Several loaders follow one another. Several processes each write a shard
    ``PATH.rankR.npz``, which the first one merges and removes; predictions of the same row: the last one counts.
    ``trainer.predict(..., return_predictions=False)`` keeps Lightning from holding them a second time.

    Parameters
    ----------
    path
        ``*.npy``: (cells, C) array, the rows that were predicted in order, or all rows of `adata` where that is given.
        ``*.h5ad``: a copy of `adata` with the embedding in ``.obsm[key]``. Written beside and renamed.
    adata
        The cells that are predicted, or the path of their h5ad file. Cells without a prediction get NaN.
    key
        Name in ``.obsm``.

    Raises
    ------
    UserError
        If `path` has another suffix, or is ``.h5ad`` without an `adata`; at predict, if `adata` does not exist, has
        fewer cells than were predicted, or predict_step returns no (B, C) tensor.
    """

    def __init__(self, path: str | Path, *, adata: AnnData | str | Path | None = None, key: str = "X_cellfm") -> None:
        self.path = Path(path)
        self.adata = adata
        self.key = key
        if self.path.suffix not in (".npy", ".h5ad"):
            raise UserError(f"EmbeddingWriter: cannot write '{path}'; the name must end in .npy or .h5ad")
        if self.path.suffix == ".h5ad" and adata is None:
            raise UserError(
                f"EmbeddingWriter: '{path}' needs the cells to copy; give adata= (AnnData or path) or use .npy"
            )
        self._rows: list[np.ndarray] = []
        self._embeddings: list[np.ndarray] = []

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Forget an earlier prediction, and look for the cells before hours are spent."""
        self._rows, self._embeddings = [], []
        if isinstance(self.adata, str | Path) and not Path(self.adata).is_file():
            raise UserError(f"EmbeddingWriter: no file '{self.adata}'; give the h5ad of the cells that are predicted")

    def _loader(self, trainer: Any, dataloader_idx: int) -> tuple[Any, int]:
        """Return the loader in use, and the number of cells in those before it."""
        loaders = trainer.predict_dataloaders
        if isinstance(loaders, Mapping):
            loaders = list(loaders.values())
        loaders = loaders if isinstance(loaders, list | tuple) else [loaders]
        before = [getattr(loader, "dataset", ()) for loader in loaders[:dataloader_idx]]
        return loaders[dataloader_idx], sum(len(dataset) for dataset in before)

    def _rows_of(self, trainer: Any, batch: Any, batch_idx: int, dataloader_idx: int) -> np.ndarray | None:
        cell_index = batch.get("cell_index") if isinstance(batch, Mapping) else getattr(batch, "cell_index", None)
        if cell_index is not None:
            return torch.as_tensor(cell_index).cpu().numpy().astype(np.int64)
        # BasePredictionWriter's indices, read at their source: the trainer of the other package does not know that
        # class of this one, but wraps every loader's batch sampler in the same way.
        loader, offset = self._loader(trainer, dataloader_idx)
        seen = getattr(getattr(loader, "batch_sampler", None), "seen_batch_indices", None)
        if seen and batch_idx < len(seen):
            return np.asarray(seen[batch_idx], dtype=np.int64) + offset
        return None

    def on_predict_batch_end(  # noqa: D102
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        embedding = _embedding_of(outputs).numpy()
        rows = self._rows_of(trainer, batch, batch_idx, dataloader_idx)
        if rows is None:
            if trainer.world_size > 1:
                raise UserError(
                    "EmbeddingWriter: rows unknown on several devices; give batches a cell_index, or devices=1"
                )
            rows = np.arange(len(embedding)) + sum(map(len, self._rows))
        if len(rows) != len(embedding):
            raise UserError(
                f"EmbeddingWriter: {len(embedding)} embeddings for the {len(rows)} cells of batch {batch_idx}; "
                "predict_step must return one row per cell"
            )
        self._rows.append(rows)
        self._embeddings.append(embedding)

    def _shard(self, rank: int) -> Path:
        return self.path.with_name(f"{self.path.name}.rank{rank}.npz")

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        """Write this process's shard, or all of it where there is one process."""
        rows = np.concatenate(self._rows) if self._rows else np.zeros(0, np.int64)
        embedding = np.concatenate(self._embeddings) if self._embeddings else np.zeros((0, 0), np.float32)
        self._rows, self._embeddings = [], []
        if trainer.world_size == 1:
            self._write(rows, embedding)
            return
        with written_beside(self._shard(trainer.global_rank)) as part, open(part, "wb") as file:
            np.savez(file, rows=rows, embedding=embedding)
        trainer.strategy.barrier("EmbeddingWriter: shards written")
        if trainer.is_global_zero:
            shards = [np.load(self._shard(rank)) for rank in range(trainer.world_size)]
            filled = [shard for shard in shards if len(shard["rows"])] or shards[:1]
            self._write(np.concatenate([s["rows"] for s in filled]), np.concatenate([s["embedding"] for s in filled]))
            for rank in range(trainer.world_size):
                self._shard(rank).unlink()
        trainer.strategy.barrier("EmbeddingWriter: shards merged")

    def _write(self, rows: np.ndarray, embedding: np.ndarray) -> None:
        adata: Any = None
        if self.adata is not None:
            import anndata

            # A copy, so that the caller's object stays as it was and a killed write leaves no half-changed file.
            given = self.adata
            adata = anndata.read_h5ad(given) if isinstance(given, str | Path) else given.to_memory(copy=True)
            if len(rows) and not 0 <= rows.min() <= rows.max() < adata.n_obs:
                raise UserError(
                    f"EmbeddingWriter: predicted row {rows.max()}, but adata has {adata.n_obs} cells; "
                    "give the cells that were predicted, unfiltered"
                )
            ordered = np.full((adata.n_obs, embedding.shape[1]), np.nan, embedding.dtype)
            ordered[rows] = embedding
        else:
            last = {row: place for place, row in enumerate(rows.tolist())}
            ordered = embedding[[last[row] for row in sorted(last)]]
        if self.path.suffix == ".h5ad":
            adata.obsm[self.key] = ordered
            write_anndata(adata, self.path)
        else:
            with written_beside(self.path) as part, open(part, "wb") as file:
                np.save(file, ordered)
