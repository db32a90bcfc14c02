"""A few kills of preparing and loading; tests/data/kills.py does hundreds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from kills import OPTIONS, ROOT, dies_reporting, kill_loading, kill_preparing, make_files, until

from cellfm_torch.data import store_jobs, store_write
from cellfm_torch.data.files import Input
from cellfm_torch.errors import UserError


def test_preparing(tmp_path: Path) -> None:
    assert sum(map(len, until(kill_preparing(tmp_path, seed=1, files=5), 6))) >= 6


@pytest.mark.parametrize("streamed", [False, True])
def test_loading(tmp_path: Path, streamed: bool) -> None:
    assert sum(map(len, until(kill_loading(tmp_path, seed=1, streamed=streamed), 4))) >= 4


@pytest.mark.timeout(300)
def test_killed_while_it_tells_of_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that it held would be kept for ever, and the others wait for it."""
    monkeypatch.setattr(store_jobs, "_attempt_reporting", dies_reporting)
    sources = [Input(path) for path in make_files(tmp_path, 2)]
    with pytest.raises(UserError, match="a process that was reading a source was killed"):
        store_write.prepare(sources, tmp_path / "store", replace(OPTIONS, processes=2), lambda *_: None)


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    """They would wait for work for ever, and hold the files they have open."""
    code = (
        "import multiprocessing, sys, time\n"
        "from cellfm_torch.data.store_jobs import _begin\n"
        "if __name__ == '__main__':\n"
        "    pool = multiprocessing.get_context('spawn').Pool(1, _begin, (None,))\n"
        "    print(pool.apply(__import__('os').getpid), flush=True)\n"
        "    time.sleep(600)\n"
    )
    script = tmp_path / "pool.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    # The child holds the other end of the pipe: this returns when it has ended.
    assert parent.communicate(timeout=60)[0] == ""
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # a moment until the system has buried it
            os.kill(child, 0)
            time.sleep(0.1)
