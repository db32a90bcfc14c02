"""A small disk of its own that becomes full or read-only, or what is like it where nothing can be mounted."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from pathlib import Path

PLENTY = 512 << 20
WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


class Disk:
    """Context with a tmpfs in a folder, or the folder alone where the user must not mount.

    Attributes
    ----------
    mounted
        Whether it is a tmpfs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.mounted = folder, False

    def __enter__(self) -> Disk:
        self.folder.mkdir(exist_ok=True)
        if os.geteuid() == 0 and shutil.which("mount"):
            self.mounted = self._mount("-t", "tmpfs", "-o", f"size={PLENTY}", "cellfm-faults", str(self.folder))
        return self

    def __exit__(self, *_: object) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)

    def _mount(self, *words: str) -> bool:
        return subprocess.run(["mount", *words], capture_output=True).returncode == 0

    def _remount(self, options: str) -> bool:
        return self._mount("-o", f"remount,{options}", str(self.folder))

    def fill(self, room: int) -> bool:
        """Leave so many bytes; False where that is not in our power."""
        while self.mounted:
            there = os.statvfs(self.folder)
            used = (there.f_blocks - there.f_bfree) * there.f_frsize
            if self._remount(f"size={used + max(room, 4096)}"):
                return True
            time.sleep(0.01)  # what runs has written meanwhile
        return False

    def lock(self) -> str:
        """Make it read-only; says how: a file that is open for writing forbids it, and then all permissions go."""
        if self.mounted and self._remount("ro"):
            return "disk"
        for path in [*self.folder.rglob("*"), self.folder]:
            if path.exists():
                path.chmod(path.stat().st_mode & ~WRITE)
        return "permissions"

    def free(self) -> None:
        """Make it writable, with room."""
        if self.mounted:
            assert self._remount(f"rw,size={PLENTY}")
        for path in [self.folder, *self.folder.rglob("*")]:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
