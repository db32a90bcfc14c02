"""Give hostile inputs to a process with limits, so that a crash, a hang or a flood of memory is seen and counted.

A case is a number: the same number always makes the same input, so that the corpus is a list of numbers.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from cellfm_torch.errors import UserError

SECONDS = 60
"""A file of a few kilobytes that takes longer hangs."""

ADDRESSES = 8 << 30
"""Bytes of address space of the process that reads, libraries included."""

MEMORY = 2 << 30
"""Bytes that it may ever have taken."""

LONGEST = 700
"""Characters of a line that somebody may be expected to read."""

READ, REFUSED = "read", "one line"


class Outcome(NamedTuple):
    """What became of a case: ``"read"``, ``"one line"``, or a fault."""

    number: int
    what: str
    verdict: str
    message: str


Case = tuple[str, str, str]
"""What was done to the input, the verdict, and the message."""

Target = Callable[[int, Path], Case]
"""Make input `number` in an empty folder and read it."""


def judged(what: str, read: Callable[[], str], names: Sequence[str]) -> Case:
    """Read an input and say what became of it.

    Parameters
    ----------
    what
        Was done to it.
    read
        Returns a fault of what was read, or an empty string.
    names
        One of them must be named by an error.
    """
    try:
        fault = read()
    except UserError as error:
        return what, refusal(str(error), names), str(error)
    except BaseException as error:
        return what, f"fault: {type(error).__name__}", str(error)
    return what, f"fault: {fault}" if fault else READ, ""


def refusal(message: str, names: Sequence[str]) -> str:
    """Return the verdict on a message: one line that names its file, or a fault."""
    sound = "\n" not in message and len(message) < LONGEST and any(name in message for name in names)
    return REFUSED if sound else "fault: no clear line"


def most_taken() -> int:
    """Return the most bytes that this process has ever held.

    Not by getrusage: there a new process begins with what the one that started it had taken.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1])


def _reader(pipe: Connection, target: Target) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    # What libraries print goes nowhere; what is said counts as a message only.
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stderr.fileno())
    warnings.simplefilter("ignore")
    while True:
        number = pipe.recv()
        folder = Path(tempfile.mkdtemp(prefix="fuzz"))
        try:
            case = target(number, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        taken = most_taken()
        if taken > MEMORY:
            case = case[0], f"fault: took {taken / 1e9:.1f} GB", case[2]
        pipe.send(case)


def run(target: Target, numbers: Sequence[int]) -> Iterator[Outcome]:
    """Yield the outcome of each case."""
    context = multiprocessing.get_context("spawn")
    process = None
    for number in numbers:
        if process is None:
            ours, theirs = context.Pipe()
            process = context.Process(target=_reader, args=(theirs, target), daemon=True)
            process.start()
            theirs.close()
            patience = SECONDS + 60  # the first one waits for the imports
        ours.send(number)
        try:
            if ours.poll(patience):
                outcome = Outcome(number, *ours.recv())
                patience = SECONDS
                yield outcome
                if "took" not in outcome.verdict:
                    continue
            else:
                outcome = Outcome(number, "?", "fault: hang", "")
        except EOFError:
            process.join()
            outcome = Outcome(number, "?", f"fault: crash, exit code {process.exitcode}", "")
        process.kill()
        process = None
        if "took" not in outcome.verdict:
            yield outcome
    if process is not None:
        process.kill()
