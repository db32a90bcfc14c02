"""The training command on few cells, in this process or another."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def small_job(cells: Path, run_dir: Path, *more: str) -> list[str]:
    """Return overrides for a run of seconds: the real job on few cells, without pictures."""
    return [
        "+experiment=pretrain",
        f"data.path={cells}",
        f"run_dir={run_dir}",
        "data.token_budget=6144",
        "callbacks.umap=null",
        *more,
    ]


def spawn(overrides: list[str], cwd: Path, module: str = "cellfm_torch.train") -> subprocess.Popen[str]:
    """Start a command in another process, one thread, from a folder that is not the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *overrides],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Path, process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Wait for a file that the process writes."""
    deadline = time.monotonic() + seconds
    while not condition.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.02)


def flip(file: Path) -> None:
    """Turn a bit in the middle of a file, where the weights are."""
    with file.open("rb+") as stream:
        stream.seek(file.stat().st_size // 2)
        (byte,) = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 4]))
