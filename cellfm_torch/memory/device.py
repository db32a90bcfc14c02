"""How much memory a device has left, and the most of something that fits."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
from collections.abc import Callable
from pathlib import Path

import torch

HEAD_ROOM = 0.1
"""Share of the free memory that a plan leaves alone."""

CPU_FRAGMENTATION = 1.5
"""Process memory over the bytes of tensors alive, at worst: 1.01 to 1.5 was measured in training steps of 250 MB to
4 GB. The C library keeps freed blocks below 32 MB on its heap."""


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc


def keep_freed_memory(keep: bool = True) -> bool:
    """Let the C library keep the memory of freed tensors for the next ones, or give it back to the system.

    By default glibc takes every block above 32 MB from the system and gives it back when it is freed, so that each page
    of each large tensor is mapped and cleared again. A training step of the 80M model on 8,000 tokens took 1.6 times as
    long that way, and half the memory (glibc 2.36).

    Returns
    -------
    bool
        False where the C library is another one, and nothing has changed.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0 if keep else 65_536)
    libc.mallopt(_M_TRIM_THRESHOLD, -1 if keep else 64 << 20)
    if not keep:
        libc.malloc_trim(0)
    return True


def _cgroup_limits(root: Path) -> list[tuple[int, int]]:
    """Return limits and use (bytes) of the container, for the groups this process is in and those above them."""
    proc, sys_fs = root / "proc" / "self" / "cgroup", root / "sys" / "fs" / "cgroup"
    found = []
    for line in proc.read_text(encoding="utf-8").splitlines() if proc.is_file() else ():
        _, controllers, name = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top, limit, used = (
            (sys_fs / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            if controllers
            else (sys_fs, "memory.max", "memory.current")
        )
        group = top / name.lstrip("/")
        for folder in (group, *group.parents):
            try:
                most = (folder / limit).read_text(encoding="utf-8").strip()
                if most != "max":
                    found.append((int(most), int((folder / used).read_text(encoding="utf-8"))))
            except (OSError, ValueError):  # not every level has a limit, and not every system these files
                pass
            if folder == top:
                break
    return found


def _system(name: str, root: Path) -> int:
    """Return a number of bytes that the system states; all of the memory where it does not."""
    information = root / "proc" / "meminfo"
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")]
    return found[0] if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def total_memory(*, root: Path = Path("/")) -> int:
    """Return the bytes of the machine's memory, or of a container's limit where that is less."""
    return min([_system("MemTotal", root), *(most for most, _ in _cgroup_limits(root))])


def peak_memory() -> int:
    """Return the most bytes that this process has had in memory so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def available_memory(device: torch.device | str = "cpu", *, root: Path = Path("/")) -> int:
    """Return the bytes that can still be allocated on a device.

    On a CPU: what the system calls available, or what is left of a container's limit where that is less. On CUDA:
    what is free on the device, and what PyTorch holds without using it.

    Parameters
    ----------
    device
        ``cpu`` or a CUDA device.
    root
        Where proc/ and sys/ are.
    """
    device = torch.device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    left = [most - used for most, used in _cgroup_limits(root)]
    return max(0, min([_system("MemAvailable", root), *left]))


def largest(fits: Callable[[int], bool], *, least: int, most: int) -> int | None:
    """Return the largest number for which `fits` says yes, to within 5 %: doubled until it does not, then bisected.

    Parameters
    ----------
    fits
        Called with growing numbers first; whatever fits, smaller numbers fit as well.
    least, most
        Where to look. None is returned where not even `least` fits.
    """
    if not fits(least):
        return None
    below, above = least, least
    while below < most:
        above = min(2 * below, most)
        if not fits(above):
            break
        below = above
    while above - below > 0.05 * below:
        middle = (below + above) // 2
        if fits(middle):
            below = middle
        else:
            above = middle
    return below
