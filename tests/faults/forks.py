"""Commands as forks of a process that has imported everything: imports take longer than the work to be disturbed.

A fork runs what `python -m MODULE ARGUMENTS` does. The first process reads a line of JSON per command from stdin and
answers with the group's number, and at the end of all its processes with their exit codes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODULES = (
    *("anndata", "hydra", "lightning.pytorch", "matplotlib.pyplot", "rich.progress", "rich.table"),
    *("sklearn.linear_model", "torch._dynamo", "torch.nn.parallel", "torch.utils.tensorboard"),
    *("cellfm_torch.annotation.evaluate", "cellfm_torch.annotation.job", "cellfm_torch.annotator"),
    *("cellfm_torch.callbacks", "cellfm_torch.commands.training", "cellfm_torch.convert.conversion"),
    *("cellfm_torch.data.store_write", "cellfm_torch.embedding.run", "cellfm_torch.tasks.pretrain"),
)
DROP_FROM_BOUNDING_SET, CAP_DAC_OVERRIDE = 24, 1  # of linux/prctl.h, linux/capability.h


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def members(group: int) -> dict[int, str]:
    """The living processes of a group, and the command line of each."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, its = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(its) == group and state not in "ZX":
                found[int(folder.name)] = (folder / "cmdline").read_text()
    return found


def signalled(target: int, number: int) -> None:
    """Send a signal to a process, or to a group by its negative number, where it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(target, number)


class Forks:
    """Context with the process that forks; where we are root, it is bound by permissions like everybody else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last: Running | None = None

    def __enter__(self) -> Forks:
        prctl = ctypes.CDLL(None).prctl
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            cwd=self.folder, preexec_fn=lambda: prctl(DROP_FROM_BOUNDING_SET, CAP_DAC_OVERRIDE, 0, 0, 0),
        )  # fmt: skip
        assert self._line() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()
        self._server.wait()
        if self._last is not None:
            self._last.kill()

    def _line(self) -> Any:
        assert self._server.stdout is not None
        text = self._server.stdout.readline()
        assert text, "the process that forks has ended"
        return json.loads(text)

    def start(self, command: list[str], *, processes: int = 1, most: int = 0) -> Running:
        """Start `MODULE ARGUMENTS`, so many times as torchrun would; no file may have more than `most` bytes."""
        said = self.folder / "said.txt"
        said.write_bytes(b"")
        assert self._server.stdin is not None
        request = {"command": command, "said": str(said), "processes": processes, "most": most, "port": free_port()}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        self._last = Running(self, self._line(), said)
        return self._last


class Running:
    """A command that runs, and all its processes."""

    def __init__(self, forks: Forks, group: int, said: Path) -> None:
        self.group, self._forks, self._said = group, forks, said

    def ended(self, seconds: float) -> bool:
        """Wait for the end of all processes; False where it does not come in time."""
        deadline, look = time.monotonic() + seconds, 0.0
        while True:
            try:
                os.killpg(self.group, 0)
            except ProcessLookupError:
                return True
            if time.monotonic() > look:  # dead ones may wait for somebody to ask for their exit code
                if not members(self.group):
                    return True
                look = time.monotonic() + 0.5
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)

    def result(self) -> tuple[list[int], str]:
        """The exit codes of the processes that were started, and what they said on stderr; after all have ended."""
        return self._forks._line(), self.said()

    def said(self) -> str:
        """What it has said on stderr."""
        return self._said.read_text(errors="replace")

    def kill(self) -> None:
        """End all processes."""
        signalled(-self.group, signal.SIGKILL)


def _fork(request: dict[str, Any], rank: int, group: int) -> int:
    """Fork one process; returns its number, and 0 within it."""
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):  # it has done so, or is gone
            os.setpgid(child, group or child)
        return child
    with contextlib.suppress(OSError):
        os.setpgid(0, group)
    for name, number in (("/dev/null", 0), ("/dev/null", 1), (request["said"], 2)):
        opened = os.open(name, os.O_RDWR | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["most"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["most"], request["most"]))
    if (processes := request["processes"]) > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(request["port"]),
            "TORCHELASTIC_RUN_ID": "faults",
        }  # fmt: skip
        from lightning.pytorch.utilities import rank_zero_only

        rank_zero_only.rank = rank
    return 0


def serve() -> list[str]:
    """Fork what is asked for; returns the command in each fork."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    for name in MODULES:
        __import__(name)
    print(json.dumps("ready"), flush=True)
    while line := sys.stdin.readline():
        request = json.loads(line)
        children: list[int] = []
        for rank in range(request["processes"]):
            child = _fork(request, rank, children[0] if children else 0)
            if not child:
                command: list[str] = request["command"]
                return command
            children.append(child)
        print(children[0], flush=True)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)
    return []


if __name__ == "__main__":
    if found := serve():
        module, sys.argv = found[0], found
        runpy.run_module(module, run_name="__main__", alter_sys=True)
