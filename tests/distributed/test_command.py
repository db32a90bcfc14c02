"""The training command on several processes: torchrun starts them, one of them speaks and writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from launch import free_port

from cellfm_torch import CellFM
from cellfm_torch.distributed.checkpoints import is_sharded_checkpoint

ROOT = Path(__file__).parents[2]


def torchrun(
    processes: int, *arguments: str, cwd: Path, module: str = "cellfm_torch.train"
) -> subprocess.CompletedProcess[str]:
    """Run a module as a user does, and end it after four minutes."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "TORCHELASTIC"))}
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"),
            *(f"--master-port={free_port()}", "-m", module, *arguments),
        ],
        cwd=cwd,
        env=variables | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_sharded_run_by_torchrun_and_resumed(small_cells: Path, tmp_path: Path) -> None:
    """Two processes, then the same run further on four; the folder is that of a run of one process."""
    run = tmp_path / "run"
    job = [
        *("+experiment=pretrain", "strategy=fsdp", f"data.path={small_cells}", f"run_dir={run}"),
        *("trainer.accelerator=cpu", "data.token_budget=6144"),
        *("trainer.val_check_interval=2", "trainer.log_every_n_steps=1"),
    ]
    done = torchrun(2, *job, "trainer.max_steps=4", "trainer.accumulate_grad_batches=2", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the model, by gene") == 1 == done.stdout.count("small.h5ad    60")
    assert "umap.png' not drawn: weights are sharded" in done.stderr + done.stdout
    assert is_sharded_checkpoint(run / "checkpoints" / "last.ckpt")
    made = {"model/config.json", "model/model.safetensors", "model/genes.txt", "metrics.json", "config.yaml"}
    assert all((run / name).is_file() for name in made) and not list(run.rglob("*.part"))
    before = CellFM.from_pretrained(run / "model")
    done = torchrun(4, *job, "trainer.max_steps=6", "resume=true", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    after = CellFM.from_pretrained(run / "model")
    assert not torch.equal(before.cls_token, after.cls_token)
    state = torch.load(run / "checkpoints" / "last.ckpt" / "meta.pt", weights_only=True)
    assert state["global_step"] == 6
