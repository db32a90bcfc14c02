"""A process that is lost: those that are left say so in one line and end, rather than wait for it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Any

from cellfm_torch.command_line import USER_ERROR

EVERY = 0.5
"""Seconds between two looks at the processes."""
AT_EASE = 10.0
"""Seconds for this process to end by itself, such as when each of them has met the same mistake."""
SAYS = 30.0
"""Seconds between two lines of a process that waits for the others to begin."""
MOMENT = 3.0
"""Seconds for the others to end by themselves when this one does."""
_STARTED_BY = "CELLFM_STARTED_BY"
"""Variable by which processes that Lightning starts know the one that did."""

_IN_WORDS = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|socket (closed|timeout)|remote process exited|"
    r"failed to recv|no bytes|timed out waiting|has abruptly|wait timeout",
    re.IGNORECASE,
)
"""How gloo, NCCL and torch's store tell that a process does not answer."""
_WAITS = "waiting for all {} processes of this job to begin: if one of them has ended, end the others, too"
_LINE = "what was saved is kept: give the same command again to go on"


def lost(problem: BaseException) -> str | None:
    """Return one line about a process that no longer answers this one, or None for any other problem.

    Parameters
    ----------
    problem
        What was raised.
    """
    if not isinstance(problem, RuntimeError | ConnectionError) or not _IN_WORDS.search(str(problem)):
        return None
    if not _among_others():
        return None
    return f"another process of this job has ended (killed, for want of memory?) or is out of reach; {_LINE}"


def _among_others() -> bool:
    """Whether this process is one of several; Lightning tells those that it starts in other words than torchrun."""
    import torch.distributed as dist

    if _together():
        return dist.get_world_size() > 1
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 or int(os.environ.get("LOCAL_RANK", 0)) > 0


def _together() -> bool:
    """Whether all processes have found each other."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


class Watched:
    """Context in which the processes that Lightning starts are watched: where one is lost, all end with a line.

    Those that it has started end when that one is lost.

    One that torchrun or srun has started says so as long as it waits for the others to begin, one of which may be lost.

    Lightning's own watch kills the process that started them without a word, and even while that one, told to stop, is
    about to end by itself. It watches what is in its list, which is emptied here.

    Parameters
    ----------
    trainer
        Before it starts them. Those that torchrun or srun have started are watched by these.
    """

    def __init__(self, trainer: Any) -> None:
        self._launcher = getattr(trainer.strategy, "launcher", None)
        self._processes: list[subprocess.Popen[Any]] = []
        started = int(os.environ.get("LOCAL_RANK", 0)) > 0
        self._parent = int(os.environ.get(_STARTED_BY, 0)) if started else 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watched:
        if not self._parent:
            os.environ[_STARTED_BY] = str(os.getpid())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._take()
        if not self._parent:
            os.environ.pop(_STARTED_BY, None)
        if value is not None:  # they would wait for this one
            self._end()

    def _take(self) -> None:
        there = getattr(self._launcher, "procs", [])
        while there:
            self._processes.append(there.pop(0))

    def _watch(self) -> None:
        number = int(os.environ.get("WORLD_SIZE", 1))
        says = time.monotonic() + SAYS if number > 1 and not _together() else None
        while not self._over.wait(EVERY):
            if says is not None and _together():
                says = None
            if says is not None and time.monotonic() > says:
                print(_WAITS.format(number), file=sys.stderr, flush=True)
                says += SAYS
            if self._parent and os.getppid() != self._parent and not self._over.wait(AT_EASE):
                print(f"error: the process that started this job has ended; {_LINE}", file=sys.stderr, flush=True)
                os._exit(USER_ERROR)
            self._take()
            codes = {rank: process.poll() for rank, process in enumerate(self._processes, start=1)}
            wrong = [(rank, code) for rank, code in codes.items() if code]
            if wrong and not self._over.wait(AT_EASE):
                rank, code = wrong[0]
                how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
                print(f"error: process {rank + 1} of this job {how}; {_LINE}", file=sys.stderr, flush=True)
                self._end(at_once=True)
                os._exit(USER_ERROR)

    def _end(self, *, at_once: bool = False) -> None:
        deadline = time.monotonic() + (0 if at_once else MOMENT)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.wait()
