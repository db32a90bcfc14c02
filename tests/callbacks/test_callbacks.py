"""Throughput, BackboneFreezer and EmbeddingWriter in a module that is nothing of ours."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import anndata
import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from foreign import CELLS, GENES, cells, foreign, loader, saver, trainer
from torch.utils.data import RandomSampler

from cellfm_torch.batch import CellBatch
from cellfm_torch.callbacks import BackboneFreezer, EmbeddingWriter, Throughput
from cellfm_torch.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")


def test_throughput_counts_cells_and_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("cellfm_torch.callbacks.throughput.time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    logged: dict[str, float] = {}
    module: Any = types.SimpleNamespace(log=lambda name, value, **_: logged.update({name: value}))
    run: Any = types.SimpleNamespace(world_size=1)
    valid = torch.ones(4, 25, dtype=torch.bool)
    batch = CellBatch.from_padded(valid.long(), valid.float(), valid=valid)
    speed = Throughput(window=2)

    def step(wait: float, work: float) -> None:
        now[0] += wait
        speed.on_train_batch_start(run, module, batch, 0)
        now[0] += work
        speed.on_train_batch_end(run, module, None, batch, 0)

    speed.on_train_start(run, module)
    speed.on_train_epoch_start(run, module)
    step(wait=1.0, work=1.0)
    assert logged == {"cells_per_second": 2.0, "tokens_per_second": 50.0}
    speed.on_validation_start(run, module)
    step(wait=500.0, work=1.0)
    assert logged["cells_per_second"] == pytest.approx(8 / 3)
    speed.on_save_checkpoint(run, module, {})
    step(wait=500.0, work=1.0)
    assert logged["cells_per_second"] == speed.cells_per_second == pytest.approx(4.0)
    speed.on_train_epoch_end(run, module)
    now[0] += 500.0
    speed.on_train_epoch_start(run, module)
    step(wait=0.5, work=0.5)
    assert logged["tokens_per_second"] == pytest.approx(100.0)


def test_frozen_weights_stay_then_train(tmp_path: Path) -> None:
    module = foreign()
    module.network[2].bias.requires_grad_(False)
    first = {name: x.clone() for name, x in module.network.state_dict().items()}
    run = trainer(tmp_path, [BackboneFreezer(unfreeze_at_epoch=2)], max_epochs=2, val_check_interval=2)
    run.fit(module, loader(), loader())
    assert all(torch.equal(x, first[name]) for name, x in module.network.state_dict().items())
    assert not any(p.requires_grad for p in module.network.parameters())
    assert not any(on for _, on in module.modes), "dropout was on while frozen"

    module = foreign()
    module.network[2].bias.requires_grad_(False)
    run = trainer(tmp_path, [BackboneFreezer(unfreeze_at_epoch=1)], val_check_interval=2)
    run.fit(module, loader(), loader())
    moved = {name for name, x in module.network.state_dict().items() if not torch.equal(x, first[name])}
    assert moved == {"0.weight", "0.bias", "2.weight"}, "what was frozen by someone else stays frozen"
    assert all(on == (epoch >= 1) for epoch, on in module.modes)


@pytest.mark.parametrize("step", [3, 5, 7])  # of 5 an epoch: within the frozen epoch, at its end, within the next
def test_freezer_resumes(step: int, tmp_path: Path) -> None:
    weights, path = [], None
    for _ in ("in one go", "resumed"):
        module, saved = foreign(), saver(tmp_path, step)
        first = module.network[0].weight.detach().clone()
        module.network[1].p = 0.0  # neither the random state nor the place in the data is resumed here
        run = trainer(tmp_path, [BackboneFreezer(unfreeze_at_epoch=1), saved], max_epochs=3, enable_checkpointing=True)
        run.fit(module, loader(sampler=list(range(8)) * 5), ckpt_path=path)
        assert all(on == (epoch >= 1) for epoch, on in module.modes)
        assert len(module.modes) == 15 - (step if path else 0)
        path = path or saved.best_model_path
        weights.append(module.network[0].weight.detach())
    assert torch.equal(*weights) and not torch.equal(weights[0], first)
    saved_weight = torch.load(path, weights_only=True)["state_dict"]["network.0.weight"]  # type: ignore[arg-type]
    assert torch.equal(saved_weight, first) == (step <= 5)


def test_freezer_names_the_children(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'network'.*it has network, head"):
        trainer(tmp_path, [BackboneFreezer("netwrok")]).fit(foreign(), loader())


def test_h5ad_keeps_the_cells_and_fills_gaps(tmp_path: Path) -> None:
    obs = pd.DataFrame({"donor": list("ab") * 25}, index=[f"cell{i}" for i in range(50)])
    given = anndata.AnnData(np.ones((50, 3), np.float32), obs=obs, layers={"counts": np.full((50, 3), 2.0)})
    given.write_h5ad(tmp_path / "in.h5ad")
    for adata in (given, tmp_path / "in.h5ad"):
        writer = EmbeddingWriter(tmp_path / "out.h5ad", adata=adata, key="X_test")
        trainer(tmp_path, [writer]).predict(module := foreign(), loader(sampler=RandomSampler(cells())))
        out = anndata.read_h5ad(tmp_path / "out.h5ad")
        np.testing.assert_allclose(out.obsm["X_test"][:CELLS], module.eval()(cells()[:][0]).detach(), atol=1e-6)
        assert np.isnan(out.obsm["X_test"][CELLS:]).all()
        pd.testing.assert_frame_equal(out.obs.astype(str), given.obs.astype(str))
        assert list(out.var_names) == list(given.var_names)
        np.testing.assert_array_equal(out.layers["counts"], given.layers["counts"])
    assert "X_test" not in given.obsm


def _batches(world_size: int, rank: int) -> Any:
    strategy = types.SimpleNamespace(barrier=lambda name: None)
    known = {"world_size": world_size, "global_rank": rank, "is_global_zero": rank == 0, "strategy": strategy}
    return types.SimpleNamespace(**known, predict_dataloaders=None)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"cell": x}, lambda x: types.SimpleNamespace(embedding=x)])
def test_shards_are_merged_by_cell_index(wrap: Any, tmp_path: Path) -> None:
    for rank in (1, 0):  # the first process merges last
        writer = EmbeddingWriter(tmp_path / "cells.npy")
        writer.on_predict_start(_batches(2, rank), None)
        for start in (4, 0):
            index = torch.arange(start, start + 4) * 2 + rank
            batch = types.SimpleNamespace(cell_index=index)
            outputs = wrap(index[:, None].bfloat16() * torch.ones(1, 3, dtype=torch.bfloat16))
            writer.on_predict_batch_end(_batches(2, rank), None, outputs, batch, 0)
        writer.on_predict_end(_batches(2, rank), None)
    merged = np.load(tmp_path / "cells.npy")
    np.testing.assert_array_equal(merged, np.arange(16.0)[:, None] * np.ones((1, 3)))
    assert merged.dtype == np.float32 and [p.name for p in tmp_path.iterdir()] == ["cells.npy"]


def test_writer_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"\.npy or \.h5ad"):
        EmbeddingWriter("cells.csv")
    with pytest.raises(UserError, match="give adata="):
        EmbeddingWriter("cells.h5ad")
    with pytest.raises(UserError, match="no file 'missing.h5ad'"):
        writer = EmbeddingWriter(tmp_path / "x.h5ad", adata="missing.h5ad")
        trainer(tmp_path, [writer]).predict(foreign(), loader())
    with pytest.raises(UserError, match="predicted row 39, but adata has 5 cells"):
        writer = EmbeddingWriter(tmp_path / "x.h5ad", adata=anndata.AnnData(np.ones((5, 2))))
        trainer(tmp_path, [writer]).predict(foreign(), loader())
    module = foreign()
    module.predict_step = lambda batch, batch_idx: "nothing"
    with pytest.raises(UserError, match="predict_step returned a str"):
        trainer(tmp_path, [EmbeddingWriter(tmp_path / "x.npy")]).predict(module, loader())

    def killed(file: Any, array: np.ndarray) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", killed)
    with pytest.raises(SystemExit):
        trainer(tmp_path, [EmbeddingWriter(tmp_path / "x.npy")]).predict(foreign(), loader())
    assert list(tmp_path.iterdir()) == []


def test_layers_thaw_one_by_one(tmp_path: Path) -> None:
    """The last layer first, each an epoch or two after the one behind it; then what is in no layer."""

    class Watch(pl.Callback):
        def __init__(self) -> None:
            self.trains: list[list[bool]] = []
            self.modes: list[list[bool]] = []

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any
        ) -> None:
            if batch_idx == 0:
                part = pl_module.network
                self.trains.append([p.requires_grad for p in (part.stem.weight, *(x.weight for x in part.layers))])
                self.modes.append([part.training, *(x.training for x in part.layers)])

    module = foreign()
    module.network = torch.nn.Module()
    module.network.stem = torch.nn.Linear(GENES, 4)
    module.network.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))
    module.forward = lambda x: module.network.layers[1](module.network.layers[0](module.network.stem(x)))
    module.training_step = lambda batch, batch_idx: module.loss(batch)
    watch = Watch()
    freezer = BackboneFreezer("network", 1, layers="layers", epochs_per_layer=2)
    before = module.network.stem.weight.clone()
    trainer(tmp_path, [freezer, watch], max_epochs=6).fit(module, loader(), loader())
    frozen, last, both, everything = [False] * 3, [False, False, True], [False, True, True], [True] * 3
    assert watch.trains == [frozen, last, last, both, both, everything]
    assert watch.modes == watch.trains  # dropout stays off in what is frozen
    assert not torch.equal(before, module.network.stem.weight)


def test_layers_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="from unfreeze_at_epoch on"):
        BackboneFreezer("network", layers="encoder")
    run = trainer(tmp_path, [BackboneFreezer("network", 1, layers="encoder")], max_epochs=2)
    with pytest.raises(UserError, match="no list of layers 'encoder' in 'network'"):
        run.fit(foreign(), loader())
