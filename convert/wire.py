"""MindSpore's .ckpt without MindSpore: walk its protobuf wire format over a memory map, and write it.

The file is a run of ``Checkpoint {repeated Value value = 1}`` messages, with
``Value {string tag = 1; TensorProto tensor = 2}`` and
``TensorProto {repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3}``. A large tensor comes as
several values of one tag; ``dims`` is always the full shape. With a checksum the file ends in ``crc_num`` and 10
big-endian bytes, the CRC-32 of everything before. Whole files: `mindspore_ckpt.py`.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice

from .tensors import CHUNK, MAX_DIMS, MAX_NAME, DamagedCheckpoint, Entry

VARINT, BYTES = 0, 2
FOOTER = b"crc_num"
FOOTER_BYTES = len(FOOTER) + 10
# How MindSpore's encrypted files begin; every block of theirs does.
ENCRYPTED = {b"\xd8\x5e\x3a\x7f": "AES-GCM", b"\xd9\x5e\x3a\x7f": "AES-CBC", b"\xda\x5e\x3a\x7f": "SM4-CBC"}

SLICE = 512 * 2**20  # bytes of a tensor in one message; protobuf refuses messages of 2 GB


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


def _message_end(data: mmap.mmap) -> int:
    """Return where the messages end and a checksum may begin."""
    end = len(data)
    if end >= FOOTER_BYTES and data[end - FOOTER_BYTES : end - 10] == FOOTER:
        return end - FOOTER_BYTES
    return end


def has_checksum(data: mmap.mmap) -> bool:
    """Say whether the file carries one."""
    return _message_end(data) < len(data)


def verify_checksum(data: mmap.mmap) -> None:
    """Refuse a file whose checksum, where it has one, is not that of its content."""
    end = _message_end(data)
    if end == len(data):
        return
    found = 0
    for at in range(0, end, CHUNK):
        found = zlib.crc32(data[at : min(at + CHUNK, end)], found)
    stored = int.from_bytes(data[len(data) - 10 :], "big")
    if found != stored:
        raise DamagedCheckpoint(f"damaged: its content has the checksum {found:08x}, the file says {stored:08x}")


def index(data: mmap.mmap) -> dict[str, Entry]:
    """Find every tensor of a ``.ckpt`` by name, without reading its content."""
    cipher = ENCRYPTED.get(data[:4])
    if cipher is not None:
        raise DamagedCheckpoint(f"encrypted ({cipher}): only MindSpore can open it, say --backend mindspore --key FILE")
    found: dict[str, Entry] = {}
    for number, first, last in _fields(data, 0, _message_end(data)):
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
        entry = found.setdefault(tag, Entry(tuple(dims), kind))
        if (entry.dims, entry.kind) != (tuple(dims), kind):
            raise DamagedCheckpoint(f"the slices of {tag!r} have different shapes or types")
        entry.ranges.append(content)
    return found


def _number(value: int) -> bytes:
    """Encode base 128: seven bits a byte, low ones first, the top bit says that more follow."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, content: bytes, *, more: int = 0) -> bytes:
    """Encode a length-delimited field, of which `more` bytes are to follow."""
    return _number(number << 3 | BYTES) + _number(len(content) + more) + content


def value_header(name: str, kind: str, dims: Sequence[int], num_bytes: int) -> bytes:
    """Return everything of a tensor's message that comes before its content.

    Parameters
    ----------
    name, kind, dims
        Tag, MindSpore's type name, full shape.
    num_bytes
        Of the content in this message.
    """
    shape = b"".join(_number(1 << 3 | VARINT) + _number(size) for size in dims)
    tensor = shape + _field(2, kind.encode()) + _field(3, b"", more=num_bytes)
    value = _field(1, name.encode()) + _field(2, tensor, more=num_bytes)
    return _field(1, value, more=num_bytes)
