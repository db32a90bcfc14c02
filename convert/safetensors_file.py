"""The safetensors format: 8 bytes that say how long the JSON header is, the header, the raw little-endian data.

By hand in both directions, because safetensors' own writer takes all tensors at once, and 3 GB of them at a time are
what this converter must not hold. What is written here is read back with safetensors itself.
"""

from __future__ import annotations

import json
import mmap
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellfm_torch.files import written_beside

from .tensors import MAX_DIMS, MAX_NAME, TYPES, DamagedCheckpoint, Entry, pieces

KIND_OF_TAG = {tag: kind for kind, (_, tag) in TYPES.items()}
TAG_OF_KIND = {kind: tag for kind, (_, tag) in TYPES.items()}
MOST_HEADER = 100_000_000  # as safetensors itself


@dataclass(frozen=True)
class Item:
    """A tensor to be written; `content` yields its bytes when its turn has come."""

    name: str
    kind: str
    dims: tuple[int, ...]
    content: Callable[[], Iterable[bytes | memoryview]]

    @property
    def num_bytes(self) -> int:
        """Bytes to be written."""
        return Entry(self.dims, self.kind).numel * TYPES[self.kind][0].itemsize


def write(
    path: Path, items: Sequence[Item], *, metadata: dict[str, str], progress: Callable[[int], object] | None = None
) -> None:
    """Write a file, one tensor after another.

    Parameters
    ----------
    path
        Written beside and renamed.
    items
        In the order of the file. Larger elements must come first, or safetensors finds the data misaligned.
    metadata
        Free text by name.
    progress
        Called with the number of bytes of each piece written.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for item in items:
        header[item.name] = {
            "dtype": TAG_OF_KIND[item.kind],
            "shape": list(item.dims),
            "data_offsets": [at, at + item.num_bytes],
        }
        at += item.num_bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    with written_beside(path) as part, part.open("wb", buffering=0) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for item in items:
            left = item.num_bytes
            for piece in item.content():
                view = memoryview(piece).cast("B")
                left -= len(view)
                while view:  # unbuffered: a write may take only a part
                    view = view[file.write(view) :]
                if progress is not None:
                    progress(memoryview(piece).nbytes)
            if left:
                raise AssertionError(f"{item.name} is {left} bytes shorter than its shape says")


def is_safetensors(data: mmap.mmap) -> bool:
    """Tell a safetensors file from a checkpoint, which never begins like this."""
    return len(data) > 9 and data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= MOST_HEADER


def index(data: mmap.mmap) -> tuple[dict[str, Entry], dict[str, str]]:
    """Find every tensor of a safetensors file by name; returns them and the file's metadata."""
    start = 8 + int.from_bytes(data[:8], "little")
    if start > len(data):
        raise DamagedCheckpoint(f"truncated: the header ends at byte {start:,}, the file at byte {len(data):,}")
    try:
        header = json.loads(data[8:start])
        metadata = {str(key): str(value) for key, value in header.pop("__metadata__", {}).items()}
        found = {}
        for name, given in header.items():
            first, last = (int(x) for x in given["data_offsets"])
            dims = tuple(int(x) for x in given["shape"])
            kind = KIND_OF_TAG.get(given["dtype"], str(given["dtype"])[:40])
            if not 0 <= first <= last or len(dims) > MAX_DIMS or len(name) > MAX_NAME:
                raise ValueError(f"the entry of {name[:MAX_NAME]!r}")
            if start + last > len(data):
                raise DamagedCheckpoint(
                    f"truncated: {name!r} ends at byte {start + last:,}, the file at byte {len(data):,}"
                )
            found[name] = Entry(dims, kind, [(start + first, start + last)])
    except DamagedCheckpoint:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
        raise DamagedCheckpoint(f"not a safetensors file (header: {' '.join(str(problem).split())[:100]})") from problem
    return found, metadata


def verify_checksum(data: mmap.mmap, entries: dict[str, Entry], metadata: dict[str, str]) -> None:
    """Refuse a file of MindSpore's whose checksum, of names and contents sorted by name, is not that of its content."""
    if "crc_num" not in metadata:
        return
    found = 0
    for name in sorted(entries):
        found = zlib.crc32(name.encode(), found)
        entry = entries[name]
        if not entry.dims and "Int" in entry.kind:
            # MindSpore takes bytes(array), and for a whole number without dimensions that is so many zeros.
            count = int.from_bytes(b"".join(pieces(data, entry)), "little")
            if count > MOST_HEADER:
                return  # it would have summed gigabytes of zeros, or failed
            found = zlib.crc32(bytes(count), found)
            continue
        for piece in pieces(data, entry):
            found = zlib.crc32(piece, found)
    if str(found) != metadata["crc_num"]:
        raise DamagedCheckpoint(f"damaged: its content has the checksum {found}, the file says {metadata['crc_num']}")
