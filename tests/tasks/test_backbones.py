"""What every task may ask of a backbone, asked of all of them by the same lines: nothing here knows their names."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cellfm_torch import (
    CellDataModule,
    CellFM,
    CellFMConfig,
    PretrainTask,
    ScFoundation,
    ScFoundationConfig,
    load_model,
    pretraining_loss,
)
from cellfm_torch.model.loading import BACKBONES
from cellfm_torch.paths import PBMC3K

MAKERS: dict[str, Callable[[], nn.Module]] = {
    "CellFM": lambda: CellFM(CellFMConfig.preset("tiny", num_layers=2, dim=64, num_heads=2)),
    "CellFM with S and T": lambda: CellFM(CellFMConfig.preset("80m", dim=64, num_heads=2)),
    "scFoundation": lambda: ScFoundation(ScFoundationConfig.preset("scfoundation-tiny")),
}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four of the bundled cells, of two types in equal numbers."""
    adata = anndata.read_h5ad(PBMC3K)
    types = adata.obs["cell_type"].value_counts().index[:2]
    rows = [row for name in types for row in (adata.obs["cell_type"] == name).to_numpy().nonzero()[0][:12]]
    path = tmp_path_factory.mktemp("cells") / "two_types.h5ad"
    adata[sorted(rows)].copy().write_h5ad(path)
    return path


@pytest.fixture(params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network: Any = MAKERS[request.param]()
    network.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def data_for(network: Any, cells: Path) -> CellDataModule:
    with contextlib.redirect_stdout(io.StringIO()):
        data = CellDataModule(cells, input_spec=network.input_spec, token_budget=65536, label="cell_type")
        data.setup()
    return data


def test_every_backbone_is_here() -> None:
    with torch.device("meta"):
        assert {type(make()) for make in MAKERS.values()} == set(BACKBONES.values())


def test_a_tiny_head_learns_on_either(folder: Path, cells: Path) -> None:
    """Two cell types of frozen embeddings, told apart by a linear head; then once more through the backbone."""
    network: Any = load_model(folder)
    data = data_for(network, cells)
    (batch,) = data.predict_dataloader()
    assert batch.labels is not None and batch.num_cells == 24 and batch.labels.bincount().tolist() == [12, 12]
    embedding = network.embedder()(batch)
    assert embedding.shape == (24, network.cell_dim)
    encoded = network.eval().encode(batch)
    assert encoded.genes.shape[1] == network.gene_dim and network.gene_dim % network.num_heads == 0
    # Two ways through the same float32 sums; in units of the mean magnitude.
    assert (embedding - encoded.cell).abs().max() < 1e-5 * encoded.cell.abs().mean()
    assert encoded.genes.shape[0] == encoded.gene_embedding.shape[0] == batch.num_genes

    torch.manual_seed(0)
    head = nn.Sequential(nn.BatchNorm1d(network.cell_dim), nn.Linear(network.cell_dim, len(data.label_names)))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(head(embedding.clone()), batch.labels)
        loss.backward()
        optimizer.step()
    assert (head(embedding.clone()).argmax(1) == batch.labels).all() and float(loss.detach()) < 0.1  # ln 2 by chance

    network.train()
    F.cross_entropy(head(network.encode(batch).cell), batch.labels).backward()
    learnt = [name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert any("gene_emb" in name for name in learnt) and any("encoder" in name for name in learnt)


def test_pretraining_asks_for_targets_alone(folder: Path, cells: Path) -> None:
    network: Any = load_model(folder)
    (batch,) = data_for(network, cells).val_dataloader()
    assert batch.target is not None and batch.hidden.any()
    network.eval()
    with torch.no_grad():
        every, some = network(batch), network(batch, targets_only=True)
        # The same terms, added up in another order.
        assert abs(float(pretraining_loss(some, batch) / pretraining_loss(every, batch)) - 1) < 1e-5
    assert some.by_gene.shape == (int(batch.target.sum()),) and every.by_gene.shape == (batch.num_genes,)

    asked: list[dict[str, Any]] = []
    network.register_forward_pre_hook(lambda _, args, options: asked.append(options), with_kwargs=True)
    task = PretrainTask(network)
    task.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    loss = task.training_step(batch, 0)
    loss.backward()
    assert asked == [{"targets_only": True}]
    missing = [name for name, p in network.named_parameters() if p.grad is None]
    assert not missing, missing
