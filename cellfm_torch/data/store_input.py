"""What a prepared store takes from a source, and whether that has changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.options import ReadOptions
from cellfm_torch.data.source import Source, open_source


def open_input(path: Path, vocab: GeneVocab, options: ReadOptions) -> Source:
    """Open a source.

    Raises
    ------
    UserError
        If it is missing, damaged, without counts or without genes of the store.
    """
    return open_source(path, vocab, options)


def fingerprint(path: Path) -> dict[str, int]:
    """Return what tells cheaply whether a source has changed: its size in bytes and time of change (ns)."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    return {"bytes": sum(s.st_size for s in stats), "changed": max((s.st_mtime_ns for s in stats), default=0)}


def checksum(path: Path) -> str:
    """Return the SHA-256 of a source: of a file's contents, or of the names and contents in a folder."""
    digest = hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(os.fsencode(file.relative_to(path)) + b"\0")
        with file.open("rb") as contents:
            while piece := contents.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()
