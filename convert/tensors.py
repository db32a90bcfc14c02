"""A tensor as byte ranges of a memory-mapped file: found without reading it, read piece by piece.

A map is not anonymous memory: the kernel drops its pages when it needs them, so a 3 GB file costs what is copied out.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cellfm_torch.errors import UserError

# Type name in a MindSpore checkpoint -> (torch's, safetensors').
TYPES = {
    "Float16": (torch.float16, "F16"),
    "Float32": (torch.float32, "F32"),
    "Float64": (torch.float64, "F64"),
    "BFloat16": (torch.bfloat16, "BF16"),
    "Int8": (torch.int8, "I8"),
    "Int16": (torch.int16, "I16"),
    "Int32": (torch.int32, "I32"),
    "Int64": (torch.int64, "I64"),
    "UInt8": (torch.uint8, "U8"),
    "UInt16": (torch.uint16, "U16"),
    "UInt32": (torch.uint32, "U32"),
    "UInt64": (torch.uint64, "U64"),
    "Bool": (torch.bool, "BOOL"),
}
DTYPES = {name: dtype for name, (dtype, _) in TYPES.items()}
KIND_OF = {dtype: name for name, (dtype, _) in TYPES.items()}
TEXT = "str"
"""Type name of a value that is a string; its shape is (0,) and its content UTF-32."""

# Beyond these the bytes are garbage. Multiplying a million dimensions takes forever, printing a name of megabytes too.
MAX_DIMS = 8
MAX_NAME = 1000
CHUNK = 1 << 22  # bytes read at a time; a multiple of every element size


class DamagedCheckpoint(UserError):
    """The bytes are not those of a MindSpore checkpoint."""


@dataclass
class Entry:
    """One tensor of a file: shape, MindSpore's type name, and where its bytes are."""

    dims: tuple[int, ...]
    kind: str
    ranges: list[tuple[int, int]] = field(default_factory=list)

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def num_bytes(self) -> int:
        """Bytes in the file."""
        return sum(last - first for first, last in self.ranges)

    def check(self, name: str) -> None:
        """Refuse an unknown type, and content of another size than shape and type say."""
        if self.kind == TEXT:
            return
        if self.kind not in DTYPES:
            raise DamagedCheckpoint(f"{name!r} has the unknown type {self.kind!r}")
        wrong = self.num_bytes != self.numel * DTYPES[self.kind].itemsize or min(self.dims, default=0) < 0
        if wrong or math.prod(size or 1 for size in self.dims) > 2**60:
            raise DamagedCheckpoint(
                f"{name!r} has {self.num_bytes:,} bytes, shape {self.dims} of {self.kind} needs more or less"
            )


def pieces(data: mmap.mmap, entry: Entry) -> Iterator[bytes]:
    """Yield the content of a tensor, a few megabytes at a time. An element may be split between two pieces."""
    for first, last in entry.ranges:
        for at in range(first, last, CHUNK):
            yield data[at : min(at + CHUNK, last)]


def chunks(data: mmap.mmap, entry: Entry) -> Iterator[Tensor]:
    """Yield the elements of a tensor, flat, a few megabytes at a time, aligned for arithmetic.

    Each is overwritten when the next is asked for.
    """
    dtype = DTYPES[entry.kind]
    # One buffer for all: fresh memory would cost as much time as the copying.
    buffer = bytearray(min(CHUNK, entry.num_bytes))
    filled = 0
    with memoryview(data) as view:
        for first, last in entry.ranges:
            while first < last:
                size = min(last - first, len(buffer) - filled)
                with view[first : first + size] as piece:
                    buffer[filled : filled + size] = piece
                first, filled = first + size, filled + size
                if filled == len(buffer):
                    yield torch.frombuffer(buffer, dtype=dtype)
                    filled = 0
    if filled:
        yield torch.frombuffer(buffer, dtype=dtype, count=filled // dtype.itemsize)


def tensor(data: mmap.mmap, entry: Entry) -> Tensor:
    """Copy one tensor out of the map."""
    dtype = DTYPES[entry.kind]
    if not entry.numel:
        return torch.empty(entry.dims, dtype=dtype)
    content = bytearray(entry.num_bytes)
    at = 0
    for first, last in entry.ranges:
        with memoryview(data) as view:
            content[at : at + last - first] = view[first:last]
        at += last - first
    return torch.frombuffer(content, dtype=dtype).reshape(entry.dims)


def text(data: mmap.mmap, entry: Entry) -> str:
    """Read a string."""
    content = b"".join(data[first : min(last, first + 4 * MAX_NAME)] for first, last in entry.ranges)
    return content.decode("utf-32-le", errors="replace")
