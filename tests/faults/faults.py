"""Kill, stop and starve the commands at random moments, and compare what comes out with a run that was left alone.

    python tests/faults/faults.py [--runs 200] [--jobs train,embed] [--journal FILE] [--page FILE]

A round is one job in a new folder: the same command again and again, each time with a fault, until one comes to an end.
The faults: SIGKILL to all of its processes; SIGTERM to all or to the first; SIGKILL to one of several processes (a lost
rank); a full disk and a read-only one, before the command or while it runs, afterwards as before; a newest checkpoint
that is cut or has a bit turned over. After each, nothing half written may stand for a whole, a command that could speak
must have said what happened in one line, and it must have ended within a minute of a signal or a lost rank. In the end
the output must be that of the undisturbed run. The journal keeps a line for each round, and the same command goes on
where it ends.

Where we are root the disk is a tmpfs that is remounted with another size, or read-only; elsewhere a full disk is a
limit on the size of files, and a read-only one is one without permission to write.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), *(str(ROOT / "tests" / name) for name in ("commands", "data"))]

from disks import Disk  # noqa: E402
from forks import Forks, Running, members, signalled  # noqa: E402
from kinds import OF_CHECKPOINTS, Job, jobs  # noqa: E402
from page import table, write_page  # noqa: E402

MINUTE = 60.0
"""Seconds within which a command must have ended after a signal or a lost rank, times the load of a core."""
PATIENCE = 600.0
"""Seconds that a command of some ten seconds may take on a busy machine; longer is a hang."""
WAITS = "waiting for all 2 processes of this job to begin"
OF_THE_DISK = ("full disk", "read-only")


@dataclass
class Outcome:
    """What became of a command.

    Attributes
    ----------
    code, said
        Its exit code, and what it said on stderr.
    struck
        Whether the fault came before its end.
    spoke
        Whether a process that could speak was left.
    seconds, whole
        From the fault to the end of all processes, and from the beginning.
    """

    code: int
    said: str
    struck: bool
    spoke: bool
    seconds: float
    whole: float


def _allowed() -> float:
    return MINUTE * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def _processes(running: Running) -> list[int]:
    """Those that work, the first one first; the keeper of shared memory and the reader of suspect files do not."""
    found = {pid: line for pid, line in members(running.group).items() if "resource_tracker" not in line}
    workers = ("forks.py", "spawn_main", "cellfm_torch.")
    return sorted((pid for pid in found if any(name in found[pid] for name in workers)), key=running.group.__ne__)


def _strike(fault: str, running: Running, disk: Disk, room: int, rng: random.Random, lasts: float) -> tuple[bool, bool]:
    """Do it to a running command; returns whether it was still there, and whether somebody is left to speak of it."""
    if fault in OF_THE_DISK:
        disk.lock() if fault == "read-only" else disk.fill(room)
    elif fault != "lost rank":
        number = signal.SIGTERM if fault == "terminate" else signal.SIGKILL
        signalled(running.group if fault == "terminate" and rng.random() < 0.5 else -running.group, number)
    else:
        if len(_processes(running)) < 2:
            while len(_processes(running)) < 2:
                if running.ended(0.05):
                    return False, False
            if running.ended(rng.uniform(0, 0.8) * lasts):
                return False, False
        there = _processes(running)
        if len(there) < 2:
            return False, False
        lost = there[0] if rng.random() < 0.25 else rng.choice(there[1:])
        signalled(lost, signal.SIGKILL)
        return True, lost != running.group
    return True, True


def disturbed(
    forks: Forks, job: Job, out: Path, disk: Disk, fault: str, *, rng: random.Random, after: float, lasts: float
) -> Outcome:
    """Run a command with a fault after some seconds, or for the disk at once; afterwards the disk is as it was.

    Raises
    ------
    AssertionError
        If it hangs.
    """
    room, most = int(2 ** rng.uniform(12, 22)), 0
    command = job.command(out)
    at_once = fault in OF_THE_DISK and rng.random() < 0.4
    if fault == "full disk" and not disk.mounted:
        most, at_once = room, True
    elif at_once:
        disk.lock() if fault == "read-only" else disk.fill(room)
    running = forks.start(command, processes=job.processes, most=most)
    struck, spoke, began = at_once, True, time.monotonic()
    first = began
    try:
        if fault and not at_once and not running.ended(after):
            struck, spoke = _strike(fault, running, disk, room, rng, lasts)
            began = time.monotonic()
        limit = _allowed() if struck and fault in ("terminate", "lost rank") else PATIENCE
        waits = False
        while not running.ended(1.0) and not waits and time.monotonic() < began + limit:
            # It says so until whoever has started the processes ends them.
            waits = struck and job.processes > 1 and WAITS in running.said()
        if waits:
            running.kill()
        hangs = not running.ended(1.0)
        now = time.monotonic()
        if hangs:
            running.kill()
            running.ended(MINUTE)
        codes, said = running.result()
        if job.processes > 1:  # of those that were left one may have done its part before
            spoke = any(code not in (0, -signal.SIGKILL) for code in codes)
        assert not hangs, f"hangs for {limit:.0f} s after {fault or 'nothing'}: {said[-3000:]}"
        return Outcome(codes[0], said, struck, spoke, now - began, now - first)
    finally:
        running.kill()
        if fault in OF_THE_DISK:
            disk.free()


def check(job: Job, found: Outcome, fault: str) -> None:
    """Raise AssertionError where a command ended otherwise than it should after a fault."""
    lines = [line for line in found.said.splitlines() if line.startswith("error: ")]
    told = f"{fault or 'nothing'}, exit code {found.code}: {found.said[-3000:]}"
    if not found.struck and not (fault == "kill" and found.code == -signal.SIGKILL):
        assert found.code == 0, f"fails by itself: {told}"
    elif fault != "kill":
        assert "Traceback" not in found.said, told
        if fault in OF_THE_DISK:
            assert found.code == 2 and 1 <= len(lines) <= job.processes, told
        elif fault == "lost rank" and found.spoke:
            assert lines or WAITS in found.said, f"says nothing: {told}"


def spoil(out: Path, fault: str, rng: random.Random) -> bool:
    """Damage the newest checkpoint; False where there is none."""
    there = sorted(out.rglob("last.ckpt"))
    if not there or not there[0].stat().st_size:
        return False
    data = bytearray(there[0].read_bytes())
    at = rng.randrange(len(data))
    if fault == "cut checkpoint":
        there[0].write_bytes(bytes(data[:at]))
    else:
        data[at] ^= 1 << rng.randrange(8)
        there[0].write_bytes(bytes(data))
    return True


def one_round(
    forks: Forks, job: Job, plain: Path, disk: Disk, *, rng: random.Random, lasts: float, most_faults: int
) -> dict[str, Any]:
    """Run a job under faults until it is done; returns its faults, and the longest answers to signals by fault."""
    out = disk.folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    done: list[str] = []
    slowest: dict[str, float] = {}
    begun_again = 0
    while True:
        fault = rng.choice(job.faults) if len(done) < most_faults else ""
        if fault in OF_CHECKPOINTS:
            if not spoil(out, fault, rng):
                continue
            done.append(fault)
            fault = rng.choice(["kill", ""])
        # Later with every fault, so that the work ends at all.
        after = rng.uniform(0.02, 1.0) * lasts * (1 + len(done) / 10)
        found = disturbed(forks, job, out, disk, fault, rng=rng, after=after, lasts=lasts)
        job.whole(out)
        if found.code == 0 or (done and "exists already" in found.said):  # the one before had written all of it
            if found.code == 0 and not found.struck:  # the machine is more or less busy than before
                lasts = found.whole
            break
        if "or remove them to begin again" in found.said:  # the last two checkpoints were damaged
            begun_again += 1
            for path in out.rglob("*.ckpt"):
                path.unlink()
            continue
        check(job, found, fault)
        done.append(fault)
        if fault in ("terminate", "lost rank"):
            slowest[fault] = round(max(slowest.get(fault, 0.0), found.seconds), 1)
    job.same(plain, out)
    left = [str(path) for pattern in ("*.part", "*.aside", "*.old") for path in out.rglob(pattern)]
    assert not left, f"left behind: {left}"
    said = {"faults": done, "slowest": slowest, "begun_again": begun_again, "tmpfs": disk.mounted}
    return said | {"lasts": round(lasts, 1)}


def rounds(name: str, folder: Path, *, seed: int, most_faults: int = 20) -> Iterator[dict[str, Any]]:
    """Run a job under faults, round after round, at most so many in each; yields what each round had.

    Raises
    ------
    AssertionError
        If something was lost, half written, said badly, or hung.
    """
    rng = random.Random(f"{name} {seed}")
    given, plain = folder / "given", folder / "plain"
    given.mkdir()
    job = jobs(given)[name]
    with Forks(folder) as forks, Disk(folder / "disk") as disk:
        plain.mkdir()
        began = time.monotonic()
        running = forks.start(job.command(plain), processes=job.processes)
        assert running.ended(PATIENCE), "hangs without any fault"
        codes, said = running.result()
        assert not any(codes), said
        lasts = (time.monotonic() - began) / 2  # it has loaded and compiled what later ones find ready
        job.same(plain, plain)
        while True:
            found: dict[str, Any] = one_round(forks, job, plain, disk, rng=rng, lasts=lasts, most_faults=most_faults)
            lasts = found["lasts"]
            yield found


def main() -> int:
    """Run the long version."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="with a fault, over all jobs")
    parser.add_argument("--jobs", help="some of them, separated by semicolons")
    parser.add_argument("--journal", type=Path, help="file of rounds to go on with")
    parser.add_argument("--page", type=Path, help="file for the table")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # disks are given back then, too
    with tempfile.TemporaryDirectory() as folder:
        every = list(jobs(Path(folder)))
    names = options.jobs.split(";") if options.jobs else every
    lines = options.journal.read_text().splitlines() if options.journal and options.journal.exists() else []
    journal: list[dict[str, Any]] = [json.loads(line) for line in lines]
    for name in names:
        before = [one for one in journal if one["job"] == name]
        wanted = -(-options.runs // len(every)) - sum(len(one["faults"]) for one in before)
        if wanted <= 0:
            continue
        with tempfile.TemporaryDirectory() as folder:
            for found in rounds(name, Path(folder), seed=len(before)):
                journal.append({"job": name} | found)
                if options.journal:
                    with options.journal.open("a") as file:
                        file.write(json.dumps(journal[-1]) + "\n")
                wanted -= len(found["faults"])
                print(f"{name}: {len(found['faults'])} faults, then whole and equal", file=sys.stderr, flush=True)
                if wanted <= 0:
                    break
    print(table(journal))
    if options.page:
        write_page(options.page, journal)
    return 0


if __name__ == "__main__":
    sys.exit(main())
