"""The examples for clusters, in dry mode: launchers that only print what they would start, and what that would do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.distributed.run import get_args_parser

from cellfm_torch import paths
from cellfm_torch.cli import _overrides
from cellfm_torch.commands import hydra_app
from cellfm_torch.distributed.strategy import ShardedStrategy
from cellfm_torch.verbs import VERBS

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "examples" / "cluster"
GIVEN = {"CELLS": "cells a.h5ad", "RUN": "/runs/mine", "MODEL": "models/80m", "OUTPUT": "out.h5ad"}


def started(script: str, tmp_path: Path, *more: str, **variables: str) -> list[str]:
    """What a script would start, word by word."""
    for name in ("srun", "torchrun"):
        (tmp_path / name).write_text('#!/bin/sh\nprintf \'%s\\n\' "$0" "$@"\n')
        (tmp_path / name).chmod(0o755)
    environment = os.environ | GIVEN | variables | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", str(FOLDER / script), *more], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def composed(verb: str, words: list[str]) -> DictConfig:
    """What a command line of ours would do."""
    found: Any = VERBS[verb]
    hydra_app.register_resolvers()
    with initialize_config_dir(str(paths.CONF), version_base="1.3"):
        return compose(verb, overrides=_overrides(verb, found, found.options, words))


def in_srun(monkeypatch: pytest.MonkeyPatch, nodes: int, tasks: int) -> None:
    known = {"SLURM_PROCID": 1, "SLURM_NNODES": nodes, "SLURM_NTASKS_PER_NODE": tasks, "SLURM_JOB_NAME": "cellfm"}
    for name, value in known.items():
        monkeypatch.setenv(name, str(value))


def test_all_examples_are_seen() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {"train.sbatch", "embed.sbatch", "torchrun.sh"}


@pytest.mark.parametrize("script", ["train.sbatch", "embed.sbatch"])
def test_what_is_asked_of_slurm(script: str) -> None:
    text = (FOLDER / script).read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, re.MULTILINE))
    assert asked["ntasks-per-node"] == asked["gpus-per-node"], "one process for each GPU"
    assert text.count("#SBATCH") == len(asked) >= 6
    missing = subprocess.run(["bash", str(FOLDER / script)], env={"PATH": os.environ["PATH"]}, capture_output=True)
    assert missing.returncode != 0 and b"name the " in missing.stderr


def test_train_by_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = started("train.sbatch", tmp_path, "seed=4")
    assert words[1:4] == ["--kill-on-bad-exit=1", "cellfm", "train"]
    in_srun(monkeypatch, nodes=2, tasks=8)
    cfg = composed("train", words[4:])
    assert (cfg.trainer.devices, cfg.trainer.num_nodes, cfg.seed, cfg.resume) == (8, 2, 4, True)
    assert (cfg.data.path, cfg.run_dir) == (GIVEN["CELLS"], GIVEN["RUN"])
    strategy = instantiate(cfg.trainer.strategy)
    assert isinstance(strategy, ShardedStrategy) and strategy.replicas == "nodes"


def test_embed_by_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = started("embed.sbatch", tmp_path)
    assert words[2:4] == ["cellfm", "embed"]
    in_srun(monkeypatch, nodes=1, tasks=8)
    cfg = composed("embed", words[4:])
    assert (list(cfg.cells), cfg.model_folder, cfg.output) == ([GIVEN["CELLS"]], "models/80m", "out.h5ad")
    assert (cfg.devices, cfg.num_nodes) == (8, 1)


def test_train_by_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = started("torchrun.sh", tmp_path, "trainer.accelerator=cpu", NODES="2", PROCESSES="4", HEAD="node1")
    launched = get_args_parser().parse_args(words[1:])
    assert (launched.nnodes, launched.nproc_per_node, launched.rdzv_endpoint) == ("2", "4", "node1:29400")
    assert launched.module and launched.training_script == "cellfm_torch.cli"
    assert launched.training_script_args[0] == "train"
    for name, value in {"WORLD_SIZE": 8, "LOCAL_WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    cfg = composed("train", launched.training_script_args[1:])
    assert (cfg.trainer.devices, cfg.trainer.num_nodes) == (4, 2)
    assert cfg.trainer.strategy._target_ == "lightning.pytorch.strategies.DDPStrategy"


def test_submitted_from_the_login_node() -> None:
    """The launcher is configured, and takes every option that it is given."""
    words = ["run_dir=runs/mine", "trainer=fsdp", "+cluster=slurm", "hydra.launcher.nodes=4"]
    hydra_app.register_resolvers()
    with initialize_config_dir(str(paths.CONF), version_base="1.3"):
        cfg = compose("train", overrides=words, return_hydra_config=True)
    launcher = cfg.hydra.launcher
    assert launcher._target_ == "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
    assert (launcher.nodes, launcher.tasks_per_node, launcher.gpus_per_node) == (4, 8, 8)
    assert cfg.hydra.mode.name == "MULTIRUN" and cfg.hydra.sweep.dir == "runs/mine.slurm"
    assert cfg.trainer.devices == "auto", "resolved where the processes run"
    assert instantiate(launcher).params["timeout_min"] == 1440


def test_submitted_to_this_machine(small_cells: Path, tmp_path: Path) -> None:
    """submitit's local executor: a job of the same kind, in a process that it starts."""
    typed = [
        *("--experiment", "pretrain", "--data", str(small_cells), "--run-dir", str(tmp_path / "run"), "--steps", "1"),
        *("hydra.mode=MULTIRUN", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=4"),
        *(f"hydra.sweep.dir={tmp_path / 'jobs'}", "callbacks.umap=null", "trainer.accelerator=cpu"),
    ]
    command = [sys.executable, "-c", "import sys; from cellfm_torch.cli import main; sys.exit(main())", "train", *typed]
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    (log,) = (tmp_path / "jobs" / ".submitit").glob("*/*_0_log.out")
    assert "the model, by gene" in log.read_text()
