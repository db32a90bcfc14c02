"""Read MindSpore's .ckpt without MindSpore: walk its protobuf wire format over a memory map.

The file is a run of ``Checkpoint {repeated Value value = 1}`` messages, with
``Value {string tag = 1; TensorProto tensor = 2}`` and
``TensorProto {repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3}``. A large tensor comes as
several values of one tag; ``dims`` is always the full shape.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from cellfm_torch.errors import UserError

DTYPES = {
    "Float16": torch.float16,
    "Float32": torch.float32,
    "Float64": torch.float64,
    "BFloat16": torch.bfloat16,
    "Int8": torch.int8,
    "Int16": torch.int16,
    "Int32": torch.int32,
    "Int64": torch.int64,
    "UInt8": torch.uint8,
    "UInt16": torch.uint16,
    "UInt32": torch.uint32,
    "UInt64": torch.uint64,
    "Bool": torch.bool,
}
VARINT, BYTES = 0, 2
FOOTER = b"crc_num"
FOOTER_BYTES = len(FOOTER) + 10
# Beyond these the bytes are garbage. Multiplying a million dimensions takes forever, printing a name of megabytes too.
MAX_DIMS = 8
MAX_NAME = 1000


class DamagedCheckpoint(UserError):
    """The bytes are not those of a MindSpore checkpoint."""


@dataclass
class _Slices:
    """The pieces of one tensor, as byte ranges of the file."""

    dims: tuple[int, ...]
    kind: str
    ranges: list[tuple[int, int]] = field(default_factory=list)


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """Return (value, next position)."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise DamagedCheckpoint(f"ends inside a number at byte {at:,}")


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (field number, first byte, end byte) of each length-delimited field, (number, value, -1) of each varint."""
    while at < end:
        start = at
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = _varint(data, at, end)
            yield number, value, -1
        elif wire == BYTES:
            size, at = _varint(data, at, end)
            if at + size > end:
                raise DamagedCheckpoint(f"truncated: byte {start:,} announces {size:,} bytes, {end - at:,} are left")
            yield number, at, at + size
            at += size
        else:
            raise DamagedCheckpoint(f"not a MindSpore checkpoint (unexpected field at byte {start:,})")


def _dims(data: mmap.mmap, first: int, end: int) -> Iterator[int]:
    """Yield the dimensions of a packed ``repeated int64``."""
    while first < end:
        value, first = _varint(data, first, end)
        yield value


def _index(data: mmap.mmap) -> dict[str, _Slices]:
    """Find every tensor of the file by name."""
    end = len(data)
    if end >= FOOTER_BYTES and data[end - FOOTER_BYTES : end - 10] == FOOTER:
        end -= FOOTER_BYTES
    found: dict[str, _Slices] = {}
    for number, first, last in _fields(data, 0, end):
        if number != 1 or last < 0:
            raise DamagedCheckpoint(f"not a MindSpore checkpoint (unexpected field {number})")
        value = {n: (a, b) for n, a, b in _fields(data, first, last) if b >= 0}
        if 1 not in value or 2 not in value:
            raise DamagedCheckpoint(f"not a MindSpore checkpoint (no tensor at byte {first:,})")
        if value[1][1] - value[1][0] > MAX_NAME:
            raise DamagedCheckpoint(f"not a MindSpore checkpoint (a name of more than {MAX_NAME:,} bytes)")
        tag = data[slice(*value[1])].decode("utf-8", errors="replace")
        dims: list[int] = []
        kind, content = "", (0, 0)
        for n, a, b in _fields(data, *value[2]):
            if n == 1:
                dims.extend([a] if b < 0 else islice(_dims(data, a, b), MAX_DIMS + 1))
            elif n == 2 and b >= 0:
                kind = data[a : min(b, a + 40)].decode("utf-8", errors="replace")
            elif n == 3 and b >= 0:
                content = (a, b)
            if len(dims) > MAX_DIMS:
                raise DamagedCheckpoint(f"{tag!r} has more than {MAX_DIMS} dimensions")
        slices = found.setdefault(tag, _Slices(tuple(dims), kind))
        if (slices.dims, slices.kind) != (tuple(dims), kind):
            raise DamagedCheckpoint(f"the slices of {tag!r} have different shapes or types")
        slices.ranges.append(content)
    return found


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read every tensor of a MindSpore checkpoint.

    Parameters
    ----------
    path
        A ``.ckpt`` file, with or without a CRC footer, its tensors whole or in slices.

    Returns
    -------
    dict of str to Tensor
        By the names MindSpore gave them, in the order of the file. Scalars have shape ().

    Raises
    ------
    UserError
        If the file is missing, truncated, or not a MindSpore checkpoint.
    """
    path = Path(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return {name: _tensor(data, name, entry) for name, entry in _index(data).items()}
    except DamagedCheckpoint as problem:
        raise UserError(f"{path}: {problem}") from problem
    except (OSError, ValueError) as problem:  # ValueError: an empty file cannot be mapped
        if isinstance(problem, UserError):
            raise
        raise UserError(f"{path}: cannot be read as a MindSpore checkpoint ({problem})") from problem


def _tensor(data: mmap.mmap, name: str, entry: _Slices) -> Tensor:
    """Copy one tensor out of the map."""
    if entry.kind not in DTYPES:
        raise DamagedCheckpoint(f"{name!r} has the unknown type {entry.kind!r}")
    dtype = DTYPES[entry.kind]
    content = bytearray().join(data[a:b] for a, b in entry.ranges)
    count = math.prod(entry.dims)
    if len(content) != count * dtype.itemsize or math.prod(size or 1 for size in entry.dims) > 2**60:
        raise DamagedCheckpoint(
            f"{name!r} has {len(content):,} bytes, shape {entry.dims} of {entry.kind} needs more or less"
        )
    if not count:
        return torch.empty(entry.dims, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype).reshape(entry.dims)
