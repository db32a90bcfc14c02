"""Callbacks that fit training to the device. CUDA is played by a trial that runs out of memory where it is told to."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import lightning.pytorch as pl
import pytest
import torch

from cellfm_torch import CellFM, CellFMConfig, PretrainTask
from cellfm_torch.callbacks import ActivationCheckpointing, KeepFreedMemory, MatmulPrecision, TokenBudgetFinder
from cellfm_torch.callbacks.trial import StepTrial
from cellfm_torch.data.module import CellDataModule
from cellfm_torch.errors import UserError
from cellfm_torch.memory.device import HEAD_ROOM
from cellfm_torch.paths import PBMC3K

Make = Callable[[Any], CellDataModule]

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def network() -> CellFM:
    torch.manual_seed(0)
    return CellFM(CellFMConfig(3, dim=32, num_heads=2, num_genes=24_078, max_genes=100))


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 of the bundled cells."""
    path = tmp_path_factory.mktemp("cells") / "few.h5ad"
    anndata.read_h5ad(PBMC3K)[:400].copy().write_h5ad(path)
    return path


@pytest.fixture
def data_of(network: CellFM, cells: Path) -> Callable[[Any], CellDataModule]:
    """Make a data module of a token budget."""
    return lambda budget: CellDataModule(cells, input_spec=network.input_spec, token_budget=budget)


def trainer_of(folder: Path, *callbacks: pl.Callback, steps: int = 1, **options: Any) -> pl.Trainer:
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "limit_val_batches": 0} | options
    return pl.Trainer(
        max_steps=steps,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )


class Watch(pl.Callback):
    """What the first step got."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.tokens = batch.num_genes
        self.wrapped = sum("forward" in vars(layer) for layer in pl_module.network.encoder)
        self.drawn = torch.rand(1)


def memory(monkeypatch: pytest.MonkeyPatch, num_bytes: float) -> None:
    monkeypatch.setattr("cellfm_torch.callbacks.trial.available_memory", lambda device: int(num_bytes))


def test_budget_fills_the_memory_there_is(
    network: CellFM, data_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, data = PretrainTask(network), data_of("auto")
    free = 300e6
    memory(monkeypatch, free)
    watch = Watch()
    run = trainer_of(tmp_path, TokenBudgetFinder(), watch)
    run.fit(task, datamodule=data)
    budget = data.token_budget
    assert budget is not None and 200 < watch.tokens <= budget
    assert not {"log", "log_dict"} & vars(task).keys()
    # What a batch of that budget really needs, beside gradients and moments: all but the share that stays free.
    trial = StepTrial(run, task)
    batch = trial.batch(budget)
    needed = max(trial.peaks(batch)) + trial.gradient_bytes + trial.state_bytes
    # 3 %: what does not grow with tokens is fitted from two cells; the last cell may stop short of the budget.
    assert needed == pytest.approx((1 - HEAD_ROOM) * free, rel=0.03)
    assert all(p.grad is None for p in network.parameters())


def test_trying_out_changes_nothing(network: CellFM, data_of: Make, tmp_path: Path) -> None:
    task = PretrainTask(network).eval()
    data = data_of(300)
    run = trainer_of(tmp_path)
    run.strategy.connect(task)
    run.datamodule = data  # type: ignore[attr-defined]
    before = {name: x.clone() for name, x in network.state_dict().items()}
    torch.manual_seed(5)
    trial = StepTrial(run, task)
    assert trial.peaks(trial.batch(1000)) > trial.peaks(trial.batch(300)) > (0, 0)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    assert data.token_budget == 300 and not task.training
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())


def test_budget_that_is_given_stays(
    network: CellFM, data_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory(monkeypatch, 0)  # would refuse
    data = data_of(512)
    trainer_of(tmp_path, TokenBudgetFinder()).fit(PretrainTask(network), datamodule=data)
    assert data.token_budget == 512


def test_budget_has_a_limit(network: CellFM, data_of: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = data_of("auto")
    trainer_of(tmp_path, TokenBudgetFinder(most=5000)).fit(PretrainTask(network), datamodule=data)
    assert data.token_budget == 5000
    assert "token budget: 5,000 gene tokens a batch" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"callbacks\.token_budget\.most"):
        TokenBudgetFinder(most=0)


def test_budget_ends_with_the_data(
    network: CellFM, data_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory(monkeypatch, 1e15)
    data = data_of("auto")
    trainer_of(tmp_path, TokenBudgetFinder(), limit_train_batches=0).fit(PretrainTask(network), datamodule=data)
    assert data.token_budget is not None and len(data.train_dataloader()) == 1
    assert data.token_budget <= 320 * 100 + 200  # 320 cells of 100 genes, and no more than it takes


def test_budget_survives_a_resumed_run(
    network: CellFM, data_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory(monkeypatch, 100e6)
    data = data_of("auto")
    run = trainer_of(tmp_path, TokenBudgetFinder())
    run.fit(PretrainTask(network), datamodule=data)
    run.save_checkpoint(tmp_path / "last.ckpt")
    memory(monkeypatch, 400e6)
    again, watch = data_of("auto"), Watch()
    run = trainer_of(tmp_path, TokenBudgetFinder(), watch, steps=2)
    run.fit(PretrainTask(network), datamodule=again, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert again.token_budget == data.token_budget and watch.tokens <= (data.token_budget or 0)


def test_no_room_for_two_cells(network: CellFM, data_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory(monkeypatch, 12e6)
    run = trainer_of(tmp_path, TokenBudgetFinder())
    with pytest.raises(UserError, match=r"two of the longest cells \(200 tokens") as refused:
        run.fit(PretrainTask(network), datamodule=data_of("auto"))
    assert "\n" not in str(refused.value)


class FakeTrial:
    """A device that takes `limit` tokens."""

    device = torch.device("cpu")
    state_bytes = 8

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.tried: list[int] = []

    def batch(self, tokens: int) -> Any:
        return types.SimpleNamespace(num_genes=tokens)

    def run(self, batch: Any) -> None:
        self.tried.append(batch.num_genes)
        if batch.num_genes > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_budget_by_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellfm_torch.callbacks.memory.available_memory", lambda device: 100)
    trial: Any = FakeTrial(70_000)
    found = TokenBudgetFinder._by_trial(trial, 4096, 10**6)
    assert 70_000 / 1.06 < found <= 70_000 and found in trial.tried and max(trial.tried) > 70_000
    assert TokenBudgetFinder._by_trial(FakeTrial(10**9), 4096, 50_000) == 50_000  # type: ignore[arg-type]
    assert TokenBudgetFinder._by_trial(FakeTrial(4100), 4096, 50_000) >= 4096  # type: ignore[arg-type]
    with pytest.raises(UserError, match="more than the device has"):
        TokenBudgetFinder._by_trial(FakeTrial(10), 4096, 50_000)  # type: ignore[arg-type]


@pytest.mark.parametrize(("policy", "wrapped"), [("none", 0), (2, 2), ("all", 3)])
def test_layers_are_wrapped_while_training(
    network: CellFM, data_of: Make, tmp_path: Path, policy: Any, wrapped: int
) -> None:
    watch = Watch()
    run = trainer_of(tmp_path, ActivationCheckpointing(policy), watch)
    run.fit(PretrainTask(network), datamodule=data_of(512))
    assert watch.wrapped == wrapped
    assert not any("forward" in vars(layer) for layer in network.encoder)


@pytest.mark.parametrize(("share", "wrapped"), [(1.0, 0), (0.99, 1), (0.45, 2), (0.01, None)])
def test_as_few_layers_as_fit(
    network: CellFM, data_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, wrapped: int | None
) -> None:
    # `share` of the way from what is needed with every layer wrapped to what is needed with none.
    budget, needs = 4000, []
    for policy in ("none", "all"):
        run = trainer_of(tmp_path, ActivationCheckpointing(policy), probe := Probe(budget))
        run.fit(PretrainTask(network), datamodule=data_of(budget))
        needs.append(probe.needs)
    free = needs[1] + share * (needs[0] - needs[1]) if share > 0.1 else 0.5 * needs[1]
    # 2 %: needs are fitted from batches of other sizes.
    memory(monkeypatch, (free * (1.02 if share == 1.0 else 1.0) + probe.fixed) / (1 - HEAD_ROOM))
    watch = Watch()
    callback = ActivationCheckpointing("auto")
    run = trainer_of(tmp_path, callback, watch)
    if wrapped is None:
        with pytest.raises(UserError, match=r"lower data\.token_budget"):
            run.fit(PretrainTask(network), datamodule=data_of(budget))
    else:
        run.fit(PretrainTask(network), datamodule=data_of(budget))
        assert watch.wrapped == wrapped


class Probe(pl.Callback):
    """What a full batch needs, measured after the layers were wrapped."""

    def __init__(self, budget: int) -> None:
        self.budget = budget

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        trial = StepTrial(trainer, pl_module)
        self.needs = trial.needs(200).of(self.budget)
        self.fixed = trial.gradient_bytes + trial.state_bytes


def test_refusals_of_checkpointing(network: CellFM, data_of: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'none'"):
        ActivationCheckpointing("nine")  # type: ignore[arg-type]
    run = trainer_of(tmp_path, ActivationCheckpointing("all", layers="network.encoders"))
    with pytest.raises(UserError, match=r"did you mean 'network\.encoder'"):
        run.fit(PretrainTask(network), datamodule=data_of(512))
    run = trainer_of(tmp_path, ActivationCheckpointing("auto"), TokenBudgetFinder())
    with pytest.raises(UserError, match=r"set data\.token_budget"):
        run.fit(PretrainTask(network), datamodule=data_of("auto"))


def test_layers_of_a_module_that_has_them(network: CellFM, data_of: Make, tmp_path: Path) -> None:
    """scFoundation's encoder is a module with a list, CellFM's is the list."""
    inner = torch.nn.Module()
    inner.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    outer = torch.nn.Module()
    outer.network = torch.nn.Module()
    outer.network.encoder = inner
    callback = ActivationCheckpointing("all")
    callback.setup(None, outer, "fit")
    assert callback.number == 1 and "forward" in inner.layers[0].__dict__


def test_precision_of_products_is_for_cuda_and_for_the_run() -> None:
    def run_on(kind: str) -> Any:
        return types.SimpleNamespace(strategy=types.SimpleNamespace(root_device=torch.device(kind)))

    assert torch.get_float32_matmul_precision() == "highest"
    callback = MatmulPrecision("high")
    callback.setup(run_on("cpu"), None, "fit")
    assert torch.get_float32_matmul_precision() == "highest"  # CPUs would multiply in fewer bits too
    callback.setup(run_on("cuda"), None, "fit")
    callback.setup(run_on("cuda"), None, "fit")
    assert torch.get_float32_matmul_precision() == "high"
    callback.teardown(run_on("cuda"), None, "fit")
    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(UserError, match="did you mean 'high'"):
        MatmulPrecision("hihg")


def test_freed_memory_is_kept_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    free, asked = [31e9], []
    monkeypatch.setattr("cellfm_torch.callbacks.memory.available_memory", lambda: free[0])
    monkeypatch.setattr("cellfm_torch.callbacks.memory.peak_memory", lambda: 5e9)
    monkeypatch.setattr("cellfm_torch.callbacks.memory.keep_freed_memory", lambda keep=True: asked.append(keep) or True)

    def steps(callback: KeepFreedMemory, kind: str = "cpu") -> list[bool]:
        place = types.SimpleNamespace(root_device=torch.device(kind))
        run = types.SimpleNamespace(strategy=place, num_devices=2)  # two processes share the free memory
        callback.on_train_batch_end(run, None, None, None, 0)
        said, asked[:] = list(asked), []
        return said

    callback = KeepFreedMemory(room=3.0)
    assert steps(callback) == [True] and callback.kept
    free[0] = 8e9
    assert steps(callback) == []  # above half of the room
    free[0] = 7e9
    assert steps(callback) == [False] and not callback.kept
    free[0] = 31e9
    assert steps(callback) == []  # for good
    callback.teardown(None, None, "fit")
    assert callback.kept is None and asked == []

    free[0] = 29e9
    assert steps(KeepFreedMemory(room=3.0)) == []
    free[0] = 31e9
    assert steps(KeepFreedMemory(room=3.0), "cuda") == []
    assert steps(callback) == [True]
    callback.teardown(None, None, "fit")
    assert asked == [False]
    with pytest.raises(UserError, match="must be above 0"):
        KeepFreedMemory(0)
