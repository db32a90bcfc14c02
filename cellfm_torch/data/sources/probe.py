"""A first look at an HDF5 file, in a process of its own.

A damaged file can make the HDF5 library loop for ever or crash, and take down whoever reads it. Another process, which
is started once and looks at each file before it is opened here, turns both into an error.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

CPU_SECONDS = 10
"""A look takes milliseconds of processor time, however slow the disk is; a loop takes all there is."""

_LOOK = """
import json, sys
import h5py

try:
    import resource
except ImportError:
    resource = None

def attributes(item):
    for key in item.attrs:
        try:
            item.attrs[key]
        except Exception:
            pass

def walk(group, seen, found):
    attributes(group)
    for name in group:
        try:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                found.append(f"{group.name}/{name} is a link to another file, {link.filename}")
                continue
            item = group[name]
            place = h5py.h5o.get_info(item.id)
            if (place.fileno, place.addr) in seen:
                continue
            seen.add((place.fileno, place.addr))
            if isinstance(item, h5py.Group):
                walk(item, seen, found)
                continue
            attributes(item)
            elsewhere = item.external or (item.virtual_sources() if item.is_virtual else None)
            if elsewhere:
                found.append(f"{item.name} is kept in another file, {elsewhere[0][1 if item.is_virtual else 0]}")
                continue
            claimed, held = item.size * item.dtype.itemsize, item.id.get_storage_size()
            if claimed > 1 << 30 and claimed > 100_000 * held:
                found.append(f"{item.name} claims {item.size:,} values in {held:,} bytes")
            elif item.size and item.shape:
                item[tuple(slice(0, 1) for _ in item.shape)]
                item[tuple(slice(n - 1, n) for n in item.shape)]
                if item.ndim == 1:
                    item[:1000]
        except Exception:  # an error is one that the reader gets too, and can name better
            pass

def look(path):
    found = []
    with h5py.File(path) as file:
        walk(file, set(), found)
    return "; ".join(found[:1])

for line in sys.stdin:
    if resource is not None:
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + SECONDS, resource.RLIM_INFINITY))
    try:
        answer = look(json.loads(line))
    except Exception:
        answer = ""
    print(json.dumps(answer), flush=True)
"""


class _Prober:
    """The other process, started on first use and again after it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def ask(self, path: Path) -> str:
        """Return what is wrong with a file, or an empty string."""
        with self._lock:
            process = self._started()
            if process is None or process.stdin is None or process.stdout is None:
                return ""
            try:
                process.stdin.write(json.dumps(str(path)) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            except BrokenPipeError:
                answer = ""
            if answer:
                return str(json.loads(answer))
            self._process = None
            process.wait()
        return "reading it makes the HDF5 library loop or crash"

    def _started(self) -> subprocess.Popen[str] | None:
        if self._process is None or self._owner != os.getpid():  # a fork must not share the pipes
            if not sys.executable:
                return None
            code = _LOOK.replace("SECONDS", str(CPU_SECONDS))
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self._owner = os.getpid()
        return self._process

    def stop(self) -> None:
        """End the process."""
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
        self._process = None


_PROBER = _Prober()
atexit.register(_PROBER.stop)


def look_at(path: Path) -> None:
    """Look at an HDF5 file.

    Raises
    ------
    ValueError
        If reading it would never end, crash, take far more memory than it can hold, or read other files.
    """
    if wrong := _PROBER.ask(path.resolve()):
        raise ValueError(wrong)
