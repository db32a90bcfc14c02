"""Whether a source is what it was: a file, or a folder that is one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def fingerprint(path: Path) -> dict[str, int]:
    """Return what tells cheaply whether a source has changed: its size in bytes and time of change (ns)."""
    stats = [file.stat() for file in _files(path)]
    return {"bytes": sum(s.st_size for s in stats), "changed": max((s.st_mtime_ns for s in stats), default=0)}


def checksum(path: Path) -> str:
    """Return the SHA-256 of a source: of a file's contents, or of the names and contents in a folder."""
    digest = hashlib.sha256()
    for file in _files(path):
        if path.is_dir():
            digest.update(os.fsencode(file.relative_to(path)) + b"\0")
        with file.open("rb") as contents:
            while piece := contents.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()
