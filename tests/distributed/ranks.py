"""What each process of a distributed test runs: a short training of a tiny network, and what came of it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist

from cellfm_torch import CellDataModule, CellFM, CellFMConfig, PretrainTask, retention
from cellfm_torch.callbacks import ActivationCheckpointing
from cellfm_torch.commands.interrupt import RandomState, SaveOnStop, Stopped, StopSignals
from cellfm_torch.distributed.progress import OtherProcesses
from cellfm_torch.distributed.sharding import whole
from cellfm_torch.distributed.strategy import ShardedStrategy
from cellfm_torch.optim import MindSporeAdam, Recipe
from cellfm_torch.quiet import quiet_lightning

LANES = 4
"""Batches of an optimiser step, over all processes."""


class Watch(pl.Callback):
    """Writes down the logged loss of each step, the cells of each batch and its weight."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.cells: list[list[int]] = []
        self.weights: list[int] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.cells.append(batch.cell_index.tolist())
        self.weights.append(batch.weight)
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.losses.append(float(trainer.logged_metrics["train_loss"]))


def strategy_of(name: str) -> Any:
    made = {
        "fsdp": lambda: ShardedStrategy(),
        "offload": lambda: ShardedStrategy(offload=True, save_meanwhile=False),
        "hybrid": lambda: ShardedStrategy(replicas=2),
    }
    return made[name]() if name in made else name


def task_and_data(
    cells: Path, genes: list[str], adam: str, dropout: float = 0.0
) -> tuple[PretrainTask, CellDataModule]:
    torch.manual_seed(0)
    config = CellFMConfig.preset("tiny", num_layers=2, dim=32, num_heads=1, num_genes=len(genes), dropout=dropout)
    network = CellFM(config, genes=genes)
    optimizer = {"mindspore": MindSporeAdam, "adamw": torch.optim.AdamW}[adam]
    recipe = Recipe(optimizer, lr=3e-3, warmup_steps=5, clip_per_tensor=adam == "mindspore", clip_norm=0.1)
    data = CellDataModule(cells, input_spec=network.input_spec, token_budget=600, verbose=False, min_genes=1)
    data.setup("fit")
    return PretrainTask(network, recipe=recipe), data


def train(
    cells: Path,
    genes: list[str],
    strategy: str,
    *,
    steps: int = 20,
    adam: str = "adamw",
    dropout: float = 0.0,
    processes: int | None = None,
    precision: str = "32-true",
    save: Path | None = None,
    save_at: int = 0,
    resume: Path | None = None,
    recompute: bool = False,
    stop_at: int = 0,
) -> dict[str, Any]:
    """Train for some steps and validate; returns losses, whole weights, metrics and the cells of each batch."""
    warnings.simplefilter("ignore")
    task, data = task_and_data(cells, genes, adam, dropout)
    watch = Watch()
    processes = processes or int(os.environ.get("WORLD_SIZE", 1))
    callbacks: list[Any] = [watch, RandomState(), OtherProcesses()]
    if recompute:
        callbacks.append(ActivationCheckpointing("all"))
    if save is not None and save_at:
        callbacks.append(Save(save, save_at))
    with StopSignals() as signals, quiet_lightning():
        if save is not None and stop_at:
            callbacks += [Terminate(stop_at), SaveOnStop(signals, save)]
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=processes,
            strategy=strategy_of(strategy),
            precision=precision,  # type: ignore[arg-type]
            max_steps=steps,
            max_epochs=-1,
            accumulate_grad_batches=LANES // processes,
            check_val_every_n_epoch=None,
            val_check_interval=10**6,
            limit_val_batches=1.0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=callbacks,
        )
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
        except Stopped as stop:
            return {"stopped": stop.step, "code": stop.exit_code}
        sharded = [tuple(p.to_local().shape) for p in task.network.parameters() if hasattr(p, "to_local")]
        metrics = trainer.test(task, datamodule=data, verbose=False)[0]
        weights = {name: whole(x).clone().numpy() for name, x in task.network.state_dict().items()}
    if dist.is_initialized():
        dist.barrier()
    return {
        "losses": watch.losses,
        "weights": weights,
        "metrics": dict(metrics),
        "cells": watch.cells,
        "targets": watch.weights,
        "sharded": sharded,
        "rows": data.train_cells.tolist(),
        "epochs": trainer.current_epoch,
        "said": said.getvalue(),
    }


class Save(pl.Callback):
    """Saves at a step."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            trainer.save_checkpoint(self.path)


class Terminate(pl.Callback):
    """Sends SIGTERM to the second process, within a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        first = batch_idx % trainer.accumulate_grad_batches == 0
        if trainer.global_step == self.step and first and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def trainings(cells: Path, genes: list[str], jobs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Do several trainings one after the other: a group of processes is slow to start."""
    done = {}
    for name, options in jobs.items():
        done[name] = train(cells, genes, **options)
        if dist.is_initialized() and dist.get_rank():
            done[name].pop("weights")  # the same everywhere, and large
    return done


def command(overrides: list[str]) -> tuple[int, str]:
    """Run ``python -m cellfm_torch.train``; returns its exit code and what it said."""
    from cellfm_torch.train import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(overrides)
    return code, said.getvalue()


def split_cells(dtype: torch.dtype) -> dict[str, list[Any]]:
    """Retention and gradients of this process's tokens, and what one process with all tokens gives for them."""
    from cellfm_torch.ops.split import split_retention

    dist.init_process_group("gloo")
    rank, processes = dist.get_rank(), dist.get_world_size()
    cells = 3
    generator = torch.Generator().manual_seed(1)
    # How many tokens of each cell each process has; some have none of some cell.
    counts = torch.randint(10, 60, (processes, cells), generator=generator)
    counts[0, 1] = 0
    counts[processes - 1, 2] = 0
    total = int(counts.sum())
    q, k, v, weight = torch.randn(4, total, 2, 8, generator=generator, dtype=dtype)
    cell = torch.repeat_interleave(torch.arange(cells).repeat(processes), counts.flatten())
    owner = torch.repeat_interleave(torch.arange(processes).repeat_interleave(cells), counts.flatten())

    def gradients(some: torch.Tensor, function: Any, of: torch.Tensor) -> list[torch.Tensor]:
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(of, minlength=cells).cumsum(0)])
        inputs = [x[some].clone().requires_grad_() for x in (q, k, v)]
        out = function(*inputs, offsets=offsets)
        (out * weight[some]).square().sum().backward()
        return [out.detach(), *(x.grad for x in inputs)]

    own = (owner == rank).nonzero()[:, 0]
    ours = gradients(own, split_retention, cell[own])
    by_cell = torch.argsort(cell, stable=True)
    whole_run = gradients(by_cell, retention, cell[by_cell])
    place = torch.empty_like(by_cell)
    place[by_cell] = torch.arange(total)
    theirs = [x[place[own]] for x in whole_run]
    return {"ours": [x.numpy() for x in ours], "theirs": [x.numpy() for x in theirs]}


def embed_command(overrides: list[str], die: bool) -> int:
    """Run ``cellfm embed``, a part per batch; the second process is killed in its second batch, where asked for."""
    from cellfm_torch.commands.embed import main
    from cellfm_torch.embedding import callbacks
    from cellfm_torch.embedding.compute import Halving

    callbacks.PART_BYTES = 1
    plain, calls = Halving.__call__, [0]

    def mortal(self: Halving, batch: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2 and int(os.environ["RANK"]) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, batch)

    if die:
        Halving.__call__ = mortal  # type: ignore[method-assign]
    return main(overrides)
