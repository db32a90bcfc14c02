"""A process that is lost: the others end soon, with a line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cellfm_torch.lost import AT_EASE, lost

ROOT = Path(__file__).parents[1]
JOB = """
import subprocess, sys, time
from types import SimpleNamespace
from cellfm_torch.lost import Watched
launcher = SimpleNamespace(procs=[])
with Watched(SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))):
    launcher.procs += [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    others = list(launcher.procs)
    print(*(process.pid for process in others), flush=True)
    others[1].kill()
    if sys.argv[1] == "raises":
        raise SystemExit(7)
    time.sleep(600)  # as one that waits for the other
"""


@pytest.mark.parametrize(("what", "code"), [("waits", 2), ("raises", 7)])
def test_ends(what: str, code: int) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", JOB, what],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    assert time.monotonic() - began < 60
    said = "error: process 3 of this job was killed by signal 9; what was saved is kept: give the same command again"
    assert done.stderr.startswith(said) if what == "waits" else not done.stderr
    for pid in map(int, done.stdout.split()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_ends_with_the_one_that_started_it() -> None:
    code = (
        "import time\nfrom types import SimpleNamespace\nfrom cellfm_torch import lost\nlost.AT_EASE = 1.0\n"
        "with lost.Watched(SimpleNamespace(strategy=SimpleNamespace())):\n    time.sleep(100)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LOCAL_RANK": "1", "CELLFM_STARTED_BY": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 2 and done.stderr.startswith("error: the process that started this job has ended; ")


def test_says_that_it_waits() -> None:
    """As one of two that torchrun or srun have started, the other of which does not begin."""
    code = (
        "import time, torch.distributed\nfrom types import SimpleNamespace\n"
        "from cellfm_torch import lost\nlost.SAYS = 1.0\n"
        "with lost.Watched(SimpleNamespace(strategy=SimpleNamespace())):\n    time.sleep(6)\n"
    )
    for number, says in (("2", True), ("1", False)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": number},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0
        assert ("waiting for all 2 processes of this job to begin" in done.stderr) == says


def test_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711")
    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert lost(closed) is None, "there is one process"
    monkeypatch.setenv("LOCAL_RANK", "1")  # all that Lightning says to those that it starts
    assert lost(closed) is not None
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = lost(closed)
    assert said is not None and "another process of this job has ended" in said and "\n" not in said
    assert lost(RuntimeError("shapes do not match")) is None and lost(ValueError("Connection closed by peer")) is None
    assert AT_EASE < 60
