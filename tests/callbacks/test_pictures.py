"""UMAPPicture and LossCurve, and all callbacks together, in the trainers of both Lightning packages."""

from __future__ import annotations

import importlib
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from foreign import CELLS, GENES, PACKAGES, cells, foreign, loader, trainer
from hydra.utils import instantiate
from matplotlib.image import imread
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, RandomSampler

from cellfm_torch.batch import CellBatch
from cellfm_torch.callbacks import BackboneFreezer, EmbeddingWriter, LossCurve, Throughput, UMAPPicture
from cellfm_torch.errors import UserError
from cellfm_torch.paths import CONF
from cellfm_torch.plots import cells as pictures

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def flat_umap(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Stand in for UMAP, which takes seconds to compile; disturbs the random state as a worst case."""
    seen: list[np.ndarray] = []

    def coordinates(embedding: np.ndarray, seed: int = 0) -> np.ndarray:
        torch.manual_seed(99), np.random.seed(99)
        seen.append(embedding)
        return np.asarray(embedding)[:, :2]

    monkeypatch.setattr(pictures, "umap_coordinates", coordinates)
    return seen


@pytest.mark.parametrize("package", PACKAGES)
def test_all_four_in_a_foreign_module(package: str, tmp_path: Path, flat_umap: list[np.ndarray]) -> None:
    module, speed = foreign(package), Throughput(window=3)
    callbacks = [
        speed,
        BackboneFreezer("network.0", unfreeze_at_epoch=1),
        UMAPPicture(tmp_path / "umap.png", labels=lambda batch: (batch[1][:, 0] > 0).tolist(), every_n_epochs=1),
        EmbeddingWriter(tmp_path / "cells.npy"),
    ]
    run = trainer(tmp_path, callbacks, package)
    run.fit(module, loader(shuffle=True), loader())
    assert speed.cells_per_second and speed.cells_per_second > 0 and speed.tokens_per_second is None
    assert "cells_per_second" in run.callback_metrics and "tokens_per_second" not in run.callback_metrics
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["umap-epoch1.png", "umap-epoch2.png", "umap.png"]
    assert [len(embedding) for embedding in flat_umap] == [CELLS] * 3
    run.predict(module, loader(sampler=RandomSampler(cells())), return_predictions=False)
    module.eval()
    np.testing.assert_allclose(np.load(tmp_path / "cells.npy"), module(cells()[:][0]).detach(), atol=1e-6)
    assert not list(tmp_path.glob("*.part"))


def test_umap_at_a_step_is_drawn_once(tmp_path: Path, flat_umap: list[np.ndarray]) -> None:
    picture = UMAPPicture(tmp_path / "umap.png", at_steps=[2, 1000])
    run = trainer(tmp_path, [picture], max_epochs=3, accumulate_grad_batches=2)
    run.fit(foreign(), loader(), loader())
    assert 2 < run.global_step < 1000  # step 2 is that of two batches
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["umap-step2.png", "umap.png"]
    assert len(flat_umap) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_umap_does_not_disturb_training(workers: int, tmp_path: Path, flat_umap: list[np.ndarray]) -> None:
    weights = []
    for callbacks in ([], [UMAPPicture(tmp_path / "umap.png", every_n_epochs=1)]):
        module = foreign()
        torch.manual_seed(5)
        options = {"num_workers": workers, "persistent_workers": bool(workers)}
        trainer(tmp_path, callbacks, max_epochs=3).fit(module, loader(shuffle=True), loader(**options))
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert torch.equal(*weights) and len(flat_umap) == 4 and module.training


def test_umap_colours_by_obs_and_goes_without_for_unknown_columns(tmp_path: Path, flat_umap: list[np.ndarray]) -> None:
    import lightning.pytorch as pl

    class Cells(pl.LightningDataModule):
        obs = pd.DataFrame({"cell_type": ["B", "T", "NK", "T"] * 3})

        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(range(12), 4, collate_fn=self.collate)  # type: ignore[arg-type]

        val_dataloader = train_dataloader

        @staticmethod
        def collate(rows: list[int]) -> CellBatch:
            x = torch.arange(4 * GENES).float().view(4, GENES) + rows[0]
            batch = CellBatch.from_padded(torch.ones_like(x).long(), x, valid=torch.ones_like(x).bool())
            batch.cell_index = torch.tensor(rows)
            return batch

    module = foreign()
    module.network.encode = lambda batch: types.SimpleNamespace(cell=module.network(batch.values.view(-1, GENES)))
    module.loss = lambda batch: module.network.encode(batch).cell.pow(2).mean()
    shown: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "umap_plot", lambda coords, labels, ax, title: shown.extend([*labels, title]))
        run = trainer(tmp_path, [UMAPPicture(tmp_path / "umap.png", labels="cell_type")])
        run.fit(module, datamodule=Cells())
    assert shown == [*Cells.obs["cell_type"], "12 held-out cells after 6 steps"]
    without_colours: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "umap_plot", lambda coords, labels, ax, title: without_colours.append(labels))
        with pytest.warns(UserWarning, match="no column 'celltype'; did you mean 'cell_type'"):
            run = trainer(tmp_path, [UMAPPicture(tmp_path / "umap.png", labels="celltype")])
            run.fit(module, datamodule=Cells())
    assert without_colours == [None]
    with pytest.raises(UserError, match=r"asks for trainer.datamodule.obs"):
        trainer(tmp_path, [UMAPPicture("umap.png", labels="cell_type")]).fit(foreign(), loader(), loader())


def test_a_failing_picture_does_not_cost_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> np.ndarray:
        raise RuntimeError("no luck")

    monkeypatch.setattr(pictures, "umap_coordinates", broken)
    run = trainer(tmp_path, [UMAPPicture(tmp_path / "umap.png")])
    with pytest.warns(UserWarning, match="not drawn: RuntimeError: no luck"):
        run.fit(foreign(), loader(), loader())
    assert run.state.finished and not (tmp_path / "umap.png").exists()


@pytest.mark.parametrize("package", PACKAGES)
def test_loss_curve(package: str, tmp_path: Path) -> None:
    logger = importlib.import_module(f"{package}.loggers").CSVLogger(tmp_path, name="logs")
    curve = LossCurve(tmp_path / "loss.png", log_dir=tmp_path / "logs", baselines=lambda module: {"zero": 1.0})
    run = trainer(tmp_path, [curve], package, logger=logger, log_every_n_steps=1)
    run.fit(foreign(package), loader(), loader())
    picture = imread(tmp_path / "loss.png")
    assert picture.shape[:2] == (600, 900) and picture[..., :3].std() > 0.02
    assert len(pictures.read_history(tmp_path / "logs")["train_loss"].dropna()) == 10


def test_configured_callbacks_train(tmp_path: Path, flat_umap: list[np.ndarray]) -> None:
    config: Any = OmegaConf.load(CONF / "callbacks" / "pretrain.yaml")
    config.run_dir, config.umap.labels = str(tmp_path), None  # the foreign module's cells have no obs
    OmegaConf.resolve(config)
    callbacks = [instantiate(config[name]) for name in ("throughput", "progress", "umap", "loss_curve")]
    logger = importlib.import_module("lightning.pytorch.loggers").CSVLogger(tmp_path, name="logs")
    options = {"logger": logger, "log_every_n_steps": 1, "enable_progress_bar": True}
    trainer(tmp_path, callbacks, **options).fit(foreign(), loader(), loader())
    assert {p.name for p in tmp_path.iterdir()} == {"logs", "loss_curve.png", "umap.png"}
