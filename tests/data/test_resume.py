"""A run resumed from a checkpoint written anywhere sees the same batches as an unbroken one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from cellfm_torch.batch import CellBatch, InputSpec
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.module import CellDataModule
from cellfm_torch.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")


class Recorder(pl.LightningModule):
    """A model that only writes down what it is given."""

    def __init__(self, *, asks_for_steps: bool = False) -> None:
        super().__init__()
        self.asks_for_steps = asks_for_steps
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, tuple[int, ...], int]] = []

    def training_step(self, batch: CellBatch, batch_idx: int) -> torch.Tensor:
        # The sum over target positions tells masks apart.
        positions = int(batch.target.nonzero().sum())
        self.seen.append((self.current_epoch, tuple(batch.cell_index.tolist()), positions))
        return self.weight.sum()

    def validation_step(self, batch: CellBatch, batch_idx: int) -> None:
        self.log("val_cells", float(batch.num_cells), batch_size=batch.num_cells)

    def predict_step(self, batch: CellBatch, batch_idx: int) -> torch.Tensor:
        return batch.cell_index

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.asks_for_steps:  # Lightning makes the loader then, before it has read how far the run was
            assert self.trainer.estimated_stepping_batches == 21
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def make(cells_file: Path, vocab: GeneVocab) -> Callable[..., CellDataModule]:
    def make(num_workers: int = 0) -> CellDataModule:
        return CellDataModule(
            cells_file,
            input_spec=InputSpec(genes=vocab.symbols),
            min_genes=0,
            token_budget=240,
            num_workers=num_workers,
        )

    return make


def trainer(folder: Path, **options: object) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


def run(folder: Path, module: CellDataModule, *, resume: Path | None = None, **options: object) -> list:
    options = {"max_epochs": 3, "enable_checkpointing": False} | options
    model = Recorder(asks_for_steps=bool(options.pop("asks_for_steps", False)))
    trainer(folder, **options).fit(model, datamodule=module, ckpt_path=resume, weights_only=True)
    return model.seen


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"asks_for_steps": True},
        {"val_check_interval": 2},
        {"limit_train_batches": 4},
        {"accumulate_grad_batches": 2},
    ],
    ids=lambda options: "_".join(options) or "plain",
)
def test_resume_anywhere(tmp_path: Path, make: Callable[..., CellDataModule], options: dict) -> None:
    """Checkpoints after every step of three epochs and at every epoch's end, each resumed to the end."""
    steps = ModelCheckpoint(tmp_path / "steps", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    ends = ModelCheckpoint(tmp_path / "ends", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True)
    unbroken = run(tmp_path, make(), callbacks=[steps, ends], enable_checkpointing=True, **options)
    batches = len(unbroken) // 3
    accumulate = options.get("accumulate_grad_batches", 1)
    whole = -(-7 // accumulate) * accumulate  # an epoch is made of whole steps
    assert len(unbroken) == 3 * batches and batches == options.get("limit_train_batches", whole)
    assert len(set(unbroken)) == len(unbroken)

    checkpoints = [*sorted((tmp_path / "steps").iterdir()), *sorted((tmp_path / "ends").iterdir())]
    assert len(checkpoints) == 3 * -(-batches // accumulate) + 3
    for checkpoint in checkpoints:
        progress = torch.load(checkpoint, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        used = progress["total"]["processed"]
        assert run(tmp_path, make(), resume=checkpoint, **options) == unbroken[used:], checkpoint


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 0), (0, 2)])
def test_resume_with_workers(tmp_path: Path, make: Callable[..., CellDataModule], before: int, after: int) -> None:
    """Batches made ahead by workers do not count as used; the number of workers may change."""
    unbroken = run(tmp_path, make())
    checkpoint = tmp_path / "stopped.ckpt"

    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
            if trainer.global_step == 10:
                trainer.save_checkpoint(checkpoint)

    assert run(tmp_path, make(before), callbacks=[Stop()]) == unbroken
    assert run(tmp_path, make(after), resume=checkpoint) == unbroken[10:]


def test_stop_in_mid_epoch_and_go_on(tmp_path: Path, make: Callable[..., CellDataModule]) -> None:
    """Twice; from the checkpoint of the last step, as Lightning closes the epoch of a fit that has stopped."""
    unbroken = run(tmp_path, make())
    seen: list = []
    resume = None
    for stop in (4, 9, 21):
        steps = ModelCheckpoint(tmp_path, every_n_train_steps=1, filename=f"stop{stop}")
        limits = {"max_steps": stop, "max_epochs": -1, "enable_checkpointing": True}
        seen += run(tmp_path, make(), resume=resume, callbacks=[steps], **limits)
        resume = tmp_path / f"stop{stop}.ckpt"
    assert seen == unbroken


def test_predict_in_file_order(tmp_path: Path, make: Callable[..., CellDataModule]) -> None:
    rows = trainer(tmp_path, enable_checkpointing=False).predict(Recorder(), datamodule=make())
    assert torch.cat(rows).tolist() == list(range(40))


def test_state_before_between_and_after_epochs(make: Callable[..., CellDataModule]) -> None:
    loader = make().train_dataloader()
    fixed = {"batches_per_epoch": len(loader), "blocks": 32, "batches_per_step": 1}
    assert loader.state_dict() == {"epoch": 0, "batches": 0, **fixed}
    batches = iter(loader)
    next(batches), next(batches)
    assert loader.state_dict() == {"epoch": 0, "batches": 2, **fixed}
    resumed = make().train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert resumed.state_dict() == {"epoch": 0, "batches": 2, **fixed}
    rest = [batch.cell_index.tolist() for batch in resumed]
    assert rest == [batch.cell_index.tolist() for batch in batches]
    assert resumed.state_dict() == {"epoch": 0, "batches": len(resumed), **fixed}
    resumed.sampler.set_epoch(1)
    assert resumed.state_dict() == {"epoch": 1, "batches": 0, **fixed}
    assert len(list(resumed)) == len(resumed)


def test_other_division_of_the_epoch_is_refused(make: Callable[..., CellDataModule]) -> None:
    loader = make().train_dataloader()
    state = {"epoch": 1, "batches": 3, "batches_per_epoch": 99, "batches_per_step": 1}
    with pytest.raises(UserError, match="middle of an epoch with 99 batches per epoch, and now there are 7"):
        loader.load_state_dict(state)
    loader.load_state_dict(state | {"batches": 0})
    assert loader.sampler.epoch == 1
