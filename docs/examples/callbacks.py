"""The callbacks of cellfm_torch in a pipeline that is nothing of ours: an autoencoder of PCA scores in plain Lightning.

    python docs/examples/callbacks.py cells.h5ad FOLDER

Leaves FOLDER/umap.png (held-out cells after training) and FOLDER/cells.h5ad (all cells, their codes in
``obsm["X_autoencoder"]``, in input order). Works the same under ``pytorch_lightning``.
"""

import sys
from pathlib import Path

import anndata
import lightning.pytorch as pl
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cellfm_torch.analysis.expression import log_normalised, variable_genes
from cellfm_torch.callbacks import BackboneFreezer, EmbeddingWriter, Throughput, UMAPPicture


class Autoencoder(pl.LightningModule):
    """Two layers down to eight numbers, two layers back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(width, 32), nn.SiLU(), nn.Linear(32, 8))
        self.decoder = nn.Sequential(nn.Linear(8, 32), nn.SiLU(), nn.Linear(32, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the code."""
        return self.encoder(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Reconstruct."""
        (x,) = batch
        return nn.functional.mse_loss(self.decoder(self.encoder(x)), x)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Say how well."""
        self.log("val_loss", self.training_step(batch, batch_idx))

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the code: EmbeddingWriter takes a tensor, or an object or dict with one as ``cell``."""
        return self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimise."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main(cells: str, folder: str) -> None:
    """Train, draw, write."""
    pl.seed_everything(0, verbose=False)
    adata = anndata.read_h5ad(cells)
    values = log_normalised(adata.X)
    scores = PCA(30, random_state=0).fit_transform(values[:, variable_genes(values)].toarray())
    data = TensorDataset(torch.tensor(scores, dtype=torch.float32))
    split = int(0.8 * len(data))
    train = DataLoader(torch.utils.data.Subset(data, range(split)), 64, shuffle=True)
    held_out = DataLoader(torch.utils.data.Subset(data, range(split, len(data))), 256)

    module = Autoencoder(scores.shape[1])
    trainer = pl.Trainer(
        max_epochs=5,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            Throughput(),
            # The decoder learns alone for an epoch. Deep encoders thaw layer by layer: layers="NAME_OF_THE_LIST".
            BackboneFreezer("encoder", 1),
            UMAPPicture(Path(folder) / "umap.png"),
            EmbeddingWriter(Path(folder) / "cells.h5ad", adata=adata, key="X_autoencoder"),
        ],
    )
    trainer.fit(module, train, held_out)
    trainer.predict(module, DataLoader(data, 256), return_predictions=False)
    print(f"look: {folder}/umap.png; use: anndata.read_h5ad('{folder}/cells.h5ad').obsm['X_autoencoder']")


if __name__ == "__main__":
    main(*sys.argv[1:])
