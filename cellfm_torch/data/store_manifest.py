"""What a prepared store says of itself: a list that only ever grows, one checked line per finished source."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

from cellfm_torch.data import store_schema
from cellfm_torch.errors import UserError
from cellfm_torch.files import written_beside

FORMAT = 1
NAME = "manifest.jsonl"

Entry = dict[str, Any]


def _line(entry: Entry) -> bytes:
    text = json.dumps(entry, sort_keys=True, ensure_ascii=False)
    return f"{zlib.crc32(text.encode()):08x} {text}\n".encode()


def _parse(line: bytes) -> Entry | None:
    """Return the entry of a line, or None for one that is not whole."""
    checksum, _, text = line.partition(b" ")
    if not line.endswith(b"\n") or checksum != f"{zlib.crc32(text[:-1]):08x}".encode():
        return None
    try:
        entry: Entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return entry


def create(folder: Path, header: Entry) -> None:
    """Begin the list of a new store."""
    with written_beside(folder / NAME) as part:
        part.write_bytes(_line({"kind": "store", "format": FORMAT} | header))


def read(folder: Path) -> list[Entry]:
    """Return the entries, the first of which describes the store; a last line cut short by a kill is left out.

    Raises
    ------
    UserError
        If the folder is no store, was written by a later version, or its list is damaged before the last line.
    """
    path = folder / NAME
    if not path.is_file():
        raise UserError(f"{folder}: is no prepared store (it has no {NAME}): make one with cellfm prepare")
    lines = path.read_bytes().splitlines(keepends=True)
    entries = [_parse(line) for line in lines]
    found = [entry for entry in entries if entry is not None]
    broken = [i for i, entry in enumerate(entries) if entry is None]
    if not found or broken not in ([], [len(entries) - 1]):
        where = f"line {broken[0] + 1}" if broken else "its beginning"
        raise UserError(f"{path}: is damaged at {where}: restore it from a copy, or prepare the store again")
    if isinstance(found[0], dict) and found[0].get("kind") == "store" and found[0].get("format") != FORMAT:
        raise UserError(
            f"{folder}: is a store of format {found[0].get('format')}, this version reads format {FORMAT}: "
            "install a later version of cellfm_torch, or prepare the store again"
        )
    for number, entry in enumerate(found):
        wrong = store_schema.fault(entry)
        if wrong or (number == 0) != (entry["kind"] == "store"):
            raise UserError(
                f"{path}: line {number + 1}: {wrong or 'kind'} is not what cellfm prepare writes there: restore it "
                "from a copy, or prepare the store again"
            )
    return found


def repair(folder: Path) -> None:
    """Remove what a kill has left of a last line."""
    path = folder / NAME
    whole = path.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end and _parse(whole[whole.rfind(b"\n", 0, end - 1) + 1 : end]) is None:
        end = whole.rfind(b"\n", 0, end - 1) + 1
    if end < len(whole):
        os.truncate(path, end)


def append(folder: Path, entry: Entry) -> None:
    """Add an entry; it is on the disk when this returns."""
    with (folder / NAME).open("ab") as file:
        file.write(_line(entry))
        file.flush()
        os.fsync(file.fileno())
