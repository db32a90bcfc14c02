"""Steps that are not finite, and losses that jump, in a module that is nothing of ours."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from cellfm_torch.callbacks import StepGuard
from cellfm_torch.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")


class Batch:
    """What a loader of cells gives, as far as the guard knows it."""

    def __init__(self, x: torch.Tensor, number: int) -> None:
        self.x, self.cell_index = x, torch.tensor([10 * number, 10 * number + 1])


class Line(pl.LightningModule):
    """A line through the origin, and its weights after each step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 1)
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        return self.layer(batch.x).square().mean()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seen.append(self.layer.weight.detach().clone())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def batches(number: int, bad: dict[int, float]) -> DataLoader[Any]:
    rng = torch.Generator().manual_seed(1)
    made = []
    for i in range(number):
        x = torch.randn(4, 3, generator=rng)
        if i in bad:
            x[1, 2] = bad[i]
        made.append(Batch(x, i))
    return DataLoader(made, batch_size=None)  # type: ignore[arg-type]


def fit(tmp_path: Path, guard: StepGuard, data: DataLoader[Any], **options: Any) -> Line:
    module = Line()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[guard], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, **options,
    )  # fmt: skip
    try:
        trainer.fit(module, data)
    finally:
        module.logged = dict(trainer.logged_metrics)  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_step_changes_nothing_and_is_reported(
    value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guard = StepGuard(report=tmp_path / "bad.jsonl")
    module = fit(tmp_path, guard, batches(6, {3: value}))
    assert torch.equal(module.seen[3], module.seen[2]) and not torch.equal(module.seen[4], module.seen[3])
    assert all(weights.isfinite().all() for weights in module.seen)
    assert guard.left_out == 1
    (line,) = map(json.loads, (tmp_path / "bad.jsonl").read_text().splitlines())
    assert line["cells"] == [30, 31] and line["why"] == "not finite" and line["step"] == 4
    said = capsys.readouterr().err.strip()
    assert said.startswith("step 4: loss or gradients are not finite, the step is left out") and "bad.jsonl" in said


def test_the_batch_to_blame_of_a_step_that_has_several(tmp_path: Path) -> None:
    guard = StepGuard(report=tmp_path / "bad.jsonl")
    module = fit(tmp_path, guard, batches(8, {5: float("nan")}), accumulate_grad_batches=4)
    (line,) = map(json.loads, (tmp_path / "bad.jsonl").read_text().splitlines())
    assert line["cells"] == [50, 51] and guard.left_out == 1
    assert torch.equal(module.seen[7], module.seen[3])


def test_too_many_in_a_row_end_it_with_the_state_saved(tmp_path: Path) -> None:
    guard = StepGuard(most=2, checkpoint=tmp_path / "last.ckpt")
    bad = {i: float("nan") for i in (1, 3, 4, 5, 6)}
    with pytest.raises(UserError, match="3 steps in a row had a loss or gradients that are not finite"):
        fit(tmp_path, guard, batches(9, bad))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 6 and saved["state_dict"]["layer.weight"].isfinite().all()
    fit(tmp_path, StepGuard(most=2), batches(5, {0: float("nan"), 2: float("nan"), 4: float("nan")}))  # not in a row


def test_jumps_of_the_loss_and_the_norm_of_gradients(tmp_path: Path) -> None:
    guard = StepGuard(report=tmp_path / "jumps.jsonl")
    module = fit(tmp_path, guard, batches(120, {100: 300.0}))
    assert guard.jumps == 1 and guard.left_out == 0
    (line,) = map(json.loads, (tmp_path / "jumps.jsonl").read_text().splitlines())
    assert line["why"] == "jump" and line["cells"] == [1000, 1001]
    assert float(module.logged["grad_norm"]) > 0  # type: ignore[attr-defined]
    quiet = StepGuard(spike=None)
    fit(tmp_path, quiet, batches(120, {100: 300.0}))
    assert quiet.jumps == 0


def test_a_loss_that_is_not_finite_with_gradients_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a step is taken, so it is not said to be left out."""
    plain = Line.training_step

    def step(self: Line, batch: Batch, batch_idx: int) -> torch.Tensor:
        return plain(self, batch, batch_idx) + (math.inf if batch_idx == 2 else 0)

    monkeypatch.setattr(Line, "training_step", step)
    guard = StepGuard(report=tmp_path / "bad.jsonl")
    module = fit(tmp_path, guard, batches(5, {}))
    assert guard.left_out == 0 and guard.jumps == 1
    assert not torch.equal(module.seen[2], module.seen[1])
    assert "the loss jumped to inf" in capsys.readouterr().err
    assert json.loads((tmp_path / "bad.jsonl").read_text())["cells"] == [20, 21]


def test_a_task_that_returns_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that steps by itself: its gradients are looked at, and it has no loss to follow."""

    def step(self: Line, batch: Batch, batch_idx: int) -> None:
        self.optimizers().zero_grad()
        self.manual_backward(self.layer(batch.x).square().mean())
        self.optimizers().step()

    monkeypatch.setattr(Line, "training_step", step)
    monkeypatch.setattr(Line, "automatic_optimization", False)
    guard = StepGuard(most=0)
    module = fit(tmp_path, guard, batches(5, {}))
    assert guard.left_out == guard.jumps == 0 and not torch.equal(module.seen[4], module.seen[3])
    with pytest.raises(UserError, match=r"are not finite: train again"):  # nothing is said to be saved
        fit(tmp_path, StepGuard(most=0), batches(5, {1: math.nan}))


@pytest.mark.parametrize("options", [{"most": -1}, {"spike": 0}])
def test_numbers_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="StepGuard: "):
        StepGuard(**options)
