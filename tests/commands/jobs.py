"""Commands in this process or another; the training command on few cells."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cellfm_torch import cli

ROOT = Path(__file__).parents[2]


def answer_of(words: list[str]) -> dict[str, Any]:
    """Run a command with --json; returns what it says to machines. What it says to people goes to stderr."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


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


def finished(overrides: list[str], cwd: Path, module: str = "cellfm_torch.train") -> str:
    """Run a command to its end and return what it says; in another process, as rounding depends on what ran before."""
    process = spawn(overrides, cwd, module)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, (out, err)
    return out


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
