"""Adam's state goes over: MindSpore's four recorded steps, then a fifth from its checkpoint and from ours."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from cases import FOLDER, batch_of
from torch.utils.data import DataLoader

from cellfm_torch import CellBatch, CellFM, PretrainTask, pretraining_loss
from cellfm_torch.convert.conversion import Options, convert_file
from cellfm_torch.convert.mindspore_ckpt import read_checkpoint
from cellfm_torch.convert.names import target_name
from cellfm_torch.errors import UserError
from cellfm_torch.optim import Recipe

# Both sides are float32 and take sums in another order. A moment is a mean of gradients, which agree to 1e-4 of their
# norm (tests/parity); measured: 1.2e-5.
FIRST = 1e-4  # norm of the difference over norm
SECOND = 2e-4  # squares double a relative error
# What is between the fifth steps is the difference after four, which tests/parity bounds by 3e-5 for the weights.
WEIGHTS = 3e-5
GENES = [f"G{i}" for i in range(101)]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    (folder / "genes.txt").write_text("".join(f"{gene}\n" for gene in GENES))
    options = Options(output=folder / "train", num_heads=4, genes=folder / "genes.txt", training_state=True)
    done = convert_file(FOLDER / "train.ckpt", options)
    assert done.record["steps"] == 4
    return folder / "train"


def recorded_batch(step: int) -> CellBatch:
    arrays = np.load(FOLDER / "train.npz")
    prefix = f"step{step}."
    return batch_of({k.removeprefix(prefix): arrays[k] for k in arrays.files if k.startswith(prefix)}, zeros=False)[0]


def without_dropout(network: CellFM) -> CellFM:
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return network.train()


def recipe(lr: float = 1e-3) -> Recipe:
    return Recipe(lr=lr, min_lr=lr, weight_decay=1e-5, clip_norm=None)  # as recorded: constant rate, no clipping


def take_step(network: CellFM, optimizer: torch.optim.Optimizer, step: int) -> None:
    batch = recorded_batch(step)
    optimizer.zero_grad()
    pretraining_loss(network(batch), batch).backward()
    optimizer.step()


@pytest.fixture(scope="module")
def ours(converted: Path) -> tuple[CellFM, torch.optim.Optimizer]:
    """Our network and optimiser after the same four steps from the same start."""
    arrays = np.load(FOLDER / "train.npz")
    network = without_dropout(CellFM.from_pretrained(converted))
    start = {str(target_name(k[5:])): torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith("init.")}
    network.load_state_dict(start, strict=True)
    optimizer, _ = recipe().build(network, steps=4)
    for step in range(4):
        take_step(network, optimizer, step)
    return network, optimizer


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_moments_are_those_of_our_own_four_steps(converted: Path, ours: tuple[CellFM, torch.optim.Optimizer]) -> None:
    network, optimizer = ours
    checkpoint = torch.load(converted / "training.ckpt", weights_only=True)
    theirs, own = checkpoint["optimizer_states"][0], optimizer.state_dict()
    assert [group["params"] for group in theirs["param_groups"]] == [group["params"] for group in own["param_groups"]]
    for group, expected in zip(theirs["param_groups"], own["param_groups"], strict=True):
        assert {key: group[key] for key in ("betas", "eps", "weight_decay")} == {
            key: expected[key] for key in ("betas", "eps", "weight_decay")
        }
        assert group["lr"] == pytest.approx(1e-3)
    assert theirs["state"].keys() == own["state"].keys() and len(own["state"]) == len(list(network.parameters()))
    off: dict[str, float] = {}
    for i, state in own["state"].items():
        assert theirs["state"][i]["step"] == state["step"] == 4
        off[f"first {i}"] = distance(theirs["state"][i]["exp_avg"], state["exp_avg"]) / FIRST
        off[f"second {i}"] = distance(theirs["state"][i]["exp_avg_sq"], state["exp_avg_sq"]) / SECOND
    assert max(off.values()) < 1, max(off.items(), key=lambda x: x[1])


class Cells(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return DataLoader([recorded_batch(0)], batch_size=None)  # type: ignore[arg-type]


def test_the_fifth_step_from_either_is_the_same(
    converted: Path, ours: tuple[CellFM, torch.optim.Optimizer], tmp_path: Path
) -> None:
    """Through ``trainer.fit``, from MindSpore's checkpoint, beside a plain loop of ours."""
    network = without_dropout(CellFM.from_pretrained(converted))
    torch.nn.init.zeros_(network.cls_token)  # the weights must come from training.ckpt
    task = PretrainTask(network, recipe=recipe())
    trainer = pl.Trainer(
        max_steps=5,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(task, datamodule=Cells(), ckpt_path=converted / "training.ckpt", weights_only=True)
    assert trainer.global_step == 5
    optimizer = trainer.optimizers[0]
    assert {state["step"] for state in optimizer.state.values()} == {5}
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 5
    own, own_optimizer = ours
    before = {name: x.clone() for name, x in own.state_dict().items()}
    take_step(own, own_optimizer, 0)
    off = {name: distance(x, own.state_dict()[name]) for name, x in network.state_dict().items() if name != "zero_emb"}
    assert max(off.values()) < WEIGHTS, max(off.items(), key=lambda x: x[1])
    moved = [name for name, x in own.state_dict().items() if not torch.equal(x, before[name])]
    assert len(moved) == len(off)  # there was a step


def test_schedule_goes_on_at_the_step(converted: Path) -> None:
    """The rate of the next step is MindSpore's; then the recipe's, at that step and not at the first."""
    network = CellFM.from_pretrained(converted)
    task = PretrainTask(network, recipe=Recipe(lr=2e-3, warmup_steps=10, total_steps=100))
    rates: list[float] = []

    class Note(pl.Callback):
        def on_before_optimizer_step(self, trainer: pl.Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer = pl.Trainer(
        max_steps=7, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Note()],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(task, datamodule=Cells(), ckpt_path=converted / "training.ckpt", weights_only=True)
    assert rates == pytest.approx([1e-3, 1e-3, 1.2e-3])  # 5 and 6 of 10 warm-up steps to 2e-3


def test_every_number_is_the_checkpoints(converted: Path) -> None:
    tensors = read_checkpoint(FOLDER / "train.ckpt")
    checkpoint = torch.load(converted / "training.ckpt", weights_only=True)
    state = checkpoint["state_dict"]
    assert all(torch.equal(state[f"network.{target_name(n)}"], x) for n, x in tensors.items() if target_name(n))
    network = CellFM.from_pretrained(converted)
    optimizer, _ = recipe().build(network, steps=1)
    name_of = {id(p): name for name, p in network.named_parameters()}
    order = [name_of[id(p)] for group in optimizer.param_groups for p in group["params"]]
    official = {target_name(name): name for name in tensors if target_name(name)}
    for i, name in enumerate(order):
        for key, moment in (("exp_avg", "moment1"), ("exp_avg_sq", "moment2")):
            found = checkpoint["optimizer_states"][0]["state"][i][key]
            assert torch.equal(found, tensors[f"{moment}.{official[name]}"]), name


@pytest.mark.parametrize(
    ("case", "part"),
    [
        ("pretrain", "has no global_step: it holds no training state"),
        ("label", "this is a checkpoint of label training"),
        ("annotation", "this is a checkpoint of annotation training"),
        ("lora", "this is a checkpoint of lora training"),
    ],
)
def test_refusals(case: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "genes.txt").write_text("".join(f"{gene}\n" for gene in GENES))
    options = Options(output=tmp_path / "x", num_heads=4, genes=tmp_path / "genes.txt", training_state=True)
    with pytest.raises(UserError, match=part):
        convert_file(FOLDER / f"{case}.ckpt", options)
    assert [path.name for path in tmp_path.iterdir()] == ["genes.txt"]
