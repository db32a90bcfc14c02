"""The training command on few cells, in this process or another."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def small_job(cells: Path, run_dir: Path, *more: str) -> list[str]:
    """Return overrides for a run of seconds: the real job on few cells, without pictures."""
    return [
        "+experiment=pretrain",
        f"data.path={cells}",
        f"run_dir={run_dir}",
        "data.token_budget=6144",
        "~callbacks.umap",
        *more,
    ]


def spawn(overrides: list[str], cwd: Path) -> subprocess.Popen[str]:
    """Start the command in another process, one thread, from a folder that is not the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "cellfm_torch.train", *overrides],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
