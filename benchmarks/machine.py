"""What a result was measured on, and how much memory a process takes."""

from __future__ import annotations

import os
import platform
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def machine() -> dict[str, Any]:
    return {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform()}


def versions(names: Sequence[str]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def full_machine(device: str, threads: int) -> dict[str, Any]:
    """Describe the machine for a result that uses torch."""
    import torch

    from cellfm_torch.ops.int8 import has_vnni

    about = machine() | {"threads": threads, "cpu_capability": torch.backends.cpu.get_cpu_capability()}
    about["vnni"] = has_vnni()
    about["memory_gb"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    if device == "cuda":
        about |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return about


def hardware_slug(device: str) -> str:
    """Name the hardware in a file name: ``cpu``, or the GPU's name in small letters."""
    if device == "cpu":
        return "cpu"
    import torch

    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def memory_field(name: str) -> int:
    """Return a line of this process's status in bytes: VmRSS, VmHWM, RssAnon."""
    line = next(x for x in STATUS.read_text().splitlines() if x.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


class Peak:
    """The highest reading of a block, and the one at its start; bytes."""

    def __init__(self, start: int) -> None:
        self.start = self.highest = start

    @property
    def above(self) -> int:
        """What came on top of the start."""
        return self.highest - self.start


@contextmanager
def sampled(name: str = "VmRSS", *, period: float = 0.002) -> Iterator[Peak]:
    """Follow this process's memory from a thread; works in every container."""
    peak, stop = Peak(memory_field(name)), threading.Event()

    def follow() -> None:
        while not stop.wait(period):
            peak.highest = max(peak.highest, memory_field(name))

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
        peak.highest = max(peak.highest, memory_field(name))
