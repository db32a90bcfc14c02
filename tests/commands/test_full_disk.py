"""A disk that takes no more: one line, and what was there before stays."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import ROOT, small_job
from made_up import make_cells

from cellfm_torch.files import not_written, written_beside
from cellfm_torch.train import main


def limited(command: list[str], cwd: Path, most: int) -> subprocess.CompletedProcess[str]:
    """Run a command that may not write files of more than so many bytes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )  # fmt: skip


def test_training(tmp_path: Path) -> None:
    make_cells(tmp_path / "cells.h5ad")
    job = small_job(tmp_path / "cells.h5ad", tmp_path / "run", "trainer.max_steps=3", "trainer.val_check_interval=3")
    job += ["data.min_genes=1", "callbacks.checkpoint.every_n_train_steps=1"]
    done = limited(["-m", "cellfm_torch.train", *job], tmp_path, 4 << 20)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ") and "give the same command again" in done.stderr
    assert not list((tmp_path / "run").rglob("*.ckpt*"))
    # With room the same command goes on.
    assert main([*job, "resume=true"]) == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_one_line_for_each(number: int, tmp_path: Path) -> None:
    try:
        try:
            raise OSError(number, os.strerror(number), str(tmp_path / "x"))
        except OSError as problem:
            raise RuntimeError("while saving") from problem
    except RuntimeError as problem:
        said = not_written(problem)
    assert said is not None and said.startswith(f"{tmp_path / 'x'}: ") and "\n" not in said
    for words in ("I/O error: No space left on device (os error 28)", "Os { code: 28, kind: StorageFull }"):
        assert "no space is left" in str(not_written(RuntimeError(words))), "safetensors before and from 0.6"
    assert not_written(ValueError("no space for this")) is None
    assert not_written(FileNotFoundError(errno.ENOENT, "no such file")) is None


def test_what_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("before")

    def write() -> None:
        with written_beside(tmp_path / "x") as part:
            part.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError):
        write()
    assert (tmp_path / "x").read_text() == "before" and len(list(tmp_path.iterdir())) == 1
