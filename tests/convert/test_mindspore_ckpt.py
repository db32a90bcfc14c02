"""The .ckpt reader against files written here, and against damage."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from cellfm_torch.convert.mindspore_ckpt import DTYPES, read_checkpoint
from cellfm_torch.errors import UserError

RECORDED = Path(__file__).resolve().parents[1] / "parity" / "pretrain.ckpt"


def varint(value: int) -> bytes:
    """Protobuf's base-128: seven bits a byte, low ones first, the top bit says that more follow."""
    value &= 2**64 - 1  # negative int64 as two's complement
    out = bytearray()
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    out.append(value)
    return bytes(out)


def chunk(number: int, content: bytes) -> bytes:
    """A length-delimited field (wire type 2)."""
    return varint(number * 8 + 2) + varint(len(content)) + content


def value(name: str, kind: str, dims: Sequence[int], content: bytes, *, packed: bool = False) -> bytes:
    """One Checkpoint message with one Value; proto2 writes dims unpacked unless told otherwise."""
    if packed:
        shape = chunk(1, b"".join(varint(d) for d in dims)) if dims else b""
    else:
        shape = b"".join(varint(8) + varint(d) for d in dims)
    tensor = shape + chunk(2, kind.encode()) + chunk(3, content)
    return chunk(1, chunk(1, name.encode()) + chunk(2, tensor))


def footer(content: bytes) -> bytes:
    return b"crc_num" + zlib.crc32(content).to_bytes(10, "big")


def read(tmp_path: Path, content: bytes) -> dict[str, torch.Tensor]:
    path = tmp_path / "some.ckpt"
    path.write_bytes(content)
    return read_checkpoint(path)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        read_checkpoint(path)
    return one_line(path, refused.value)


def one_line(path: Path, problem: UserError) -> str:
    message = str(problem)
    assert str(path) in message and "\n" not in message and len(message) < 3000, message
    return message


ARRAYS = {
    "Float32": np.array([[1.5, -2.0, np.inf], [0.0, 1e-40, 3e38]], "<f4"),
    "Float64": np.array([[1.5, -2.0, 1e-320], [0.0, 4.0, 1e308]], "<f8"),
    "Float16": np.array([[1.5, -2.0, 65504], [0.0, 6e-8, -0.0]], "<f2"),
    "Int8": np.array([[-128, 127, 0], [1, 2, 3]], "<i1"),
    "Int16": np.array([[-32768, 32767, 0], [1, 2, 3]], "<i2"),
    "Int32": np.array([[-(2**31), 2**31 - 1, 0], [1, 2, 3]], "<i4"),
    "Int64": np.array([[-(2**63), 2**63 - 1, 0], [1, 2, 3]], "<i8"),
    "UInt8": np.array([[255, 0, 1], [1, 2, 3]], "<u1"),
    "UInt16": np.array([[65535, 0, 1], [1, 2, 3]], "<u2"),
    "UInt32": np.array([[2**32 - 1, 0, 1], [1, 2, 3]], "<u4"),
    "UInt64": np.array([[2**64 - 1, 0, 1], [1, 2, 3]], "<u8"),
    "Bool": np.array([[True, False, True], [False, False, True]], "?"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("crc", [False, True])
def test_every_type(tmp_path: Path, packed: bool, crc: bool) -> None:
    content = b"".join(value(kind, kind, x.shape, x.tobytes(), packed=packed) for kind, x in ARRAYS.items())
    bfloat16 = [0x3F80, 0xC000, 0x7F80]  # 1, -2, infinity: the upper halves of float32
    content += value("BFloat16", "BFloat16", [3], struct.pack("<3H", *bfloat16), packed=packed)
    tensors = read(tmp_path, content + (footer(content) if crc else b""))
    assert list(tensors) == [*ARRAYS, "BFloat16"] and set(tensors) == set(DTYPES)
    for kind, x in ARRAYS.items():
        assert tensors[kind].dtype == DTYPES[kind] and tensors[kind].shape == x.shape
        assert tensors[kind].numpy().tobytes() == x.tobytes(), kind
    assert tensors["BFloat16"].dtype == torch.bfloat16 and tensors["BFloat16"].tolist() == [1.0, -2.0, float("inf")]


@pytest.mark.parametrize("packed", [False, True])
def test_scalars_and_empty_tensors(tmp_path: Path, packed: bool) -> None:
    tensors = read(
        tmp_path,
        value("scalar", "Float32", [], struct.pack("<f", 0.25), packed=packed)
        + value("one", "Float32", [1, 1], struct.pack("<f", 0.5), packed=packed)
        + value("empty", "Float32", [3, 0], b"", packed=packed),
    )
    assert tensors["scalar"].shape == () and float(tensors["scalar"]) == 0.25
    assert tensors["one"].shape == (1, 1) and tensors["empty"].shape == (3, 0)


def test_slices_are_joined(tmp_path: Path) -> None:
    x = np.arange(300, dtype="<f4").reshape(20, 15)
    raw = x.tobytes()
    pieces = [raw[:400], raw[400:401], raw[401:1000], raw[1000:]]  # of any size, also within a number
    content = value("before", "Int8", [1], b"\x07")
    content += b"".join(value("big", "Float32", x.shape, piece) for piece in pieces[:2])
    content += value("between", "Int8", [1], b"\x08")
    content += b"".join(value("big", "Float32", x.shape, piece) for piece in pieces[2:])
    tensors = read(tmp_path, content + footer(content))
    assert list(tensors) == ["before", "big", "between"] and np.array_equal(tensors["big"].numpy(), x)


def test_values_may_share_a_message_or_not(tmp_path: Path) -> None:
    """Concatenated messages are one message: protobuf cannot tell them apart."""
    parts = [value(name, "Int8", [1], b"\x01") for name in "abc"]
    assert list(read(tmp_path, b"".join(parts))) == ["a", "b", "c"]


def test_fields_in_another_order_and_unknown_ones(tmp_path: Path) -> None:
    tensor = chunk(3, b"\x05\x06") + varint(9 * 8) + varint(300) + chunk(2, b"Int8") + varint(8) + varint(2)
    content = chunk(1, chunk(2, tensor) + chunk(15, b"new in some version") + chunk(1, b"x"))
    assert read(tmp_path, content)["x"].tolist() == [5, 6]


def test_tensors_are_writable_and_outlive_the_file(tmp_path: Path) -> None:
    x = read(tmp_path, value("x", "Float32", [2], struct.pack("<2f", 1, 2)))["x"]
    (tmp_path / "some.ckpt").unlink()
    x += 1
    assert x.tolist() == [2, 3]


def test_recorded_file_is_read_as_its_bytes_say() -> None:
    tensors = read_checkpoint(RECORDED)
    content = RECORDED.read_bytes()
    again = b"".join(
        value(name, "Float32", x.shape, x.numpy().tobytes()) for name, x in tensors.items()
    )  # every byte accounted for: our writer gives the file back
    assert again == content and len(tensors) > 40


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "cannot be read as a MindSpore checkpoint"),
        (b"gene_emb: 1, 2, 3\n", "not a MindSpore checkpoint"),
        (b"PK\x03\x04" + bytes(100), "not a MindSpore checkpoint"),
        (bytes(64), "not a MindSpore checkpoint"),
        (b"\xff" * 64, "ends inside a number"),
        (b"\x80\x02}q\x00.", "not a MindSpore checkpoint"),  # a pickle
        (chunk(1, b""), "no tensor"),
        (chunk(1, chunk(1, b"x")), "no tensor"),
        (chunk(2, b"x"), "not a MindSpore checkpoint"),
        (varint(8) + varint(5), "not a MindSpore checkpoint"),
        (chunk(1, varint(8) + varint(3) + varint(16) + varint(4)), "no tensor"),  # numbers where bytes belong
        (value("x", "Float7", [1], b"1234"), "'x' has the unknown type 'Float7'"),
        (value("x", "", [1], b"1234"), "unknown type"),
        (value("x", "Float32", [2], b"1234"), "'x' has 4 bytes"),
        (value("x", "Float32", [1], b"12345"), "'x' has 5 bytes"),
        (value("x", "Float32", [-1], b"1234"), "'x' has 4 bytes"),
        (value("x", "Float32", [2**62, 2**62], b"1234"), "'x' has 4 bytes"),
        (value("x", "Float32", [0, 2**62, 2**62], b""), "'x' has 0 bytes"),  # nothing in it, and no such tensor
        (value("x", "Float32", [1] * 9, b"1234"), "more than 8 dimensions"),
        (value("x", "Float32", [1] * 10**5, b"1234", packed=True), "more than 8 dimensions"),
        (value("x" * 10**5, "Float32", [1], b"1234"), "a name of more than"),
        (value("two\nlines", "F", [1], b"1234"), r"'two\nlines' has the unknown type"),
        (value("x", "Int8", [2], b"1") + value("x", "Int8", [1], b"1"), "slices of 'x' have different shapes"),
        (value("x", "Int8", [2], b"1") + value("x", "Bool", [2], b"1"), "slices of 'x' have different shapes"),
        (value("x", "Int8", [1], b"1") * 2, "'x' has 2 bytes"),
        (value("x", "Int8", [1], b"1") + b"crc_num123", "not a MindSpore checkpoint"),  # half a footer
    ],
)
def test_malformed(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "bad.ckpt"
    path.write_bytes(content)
    assert part in refusal(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.ckpt")
    refusal(tmp_path)


def test_truncated_anywhere(tmp_path: Path) -> None:
    whole, content = read_checkpoint(RECORDED), RECORDED.read_bytes()
    path = tmp_path / "cut.ckpt"
    path.write_bytes(content)
    complete = 0
    for size in sorted({*range(200), *range(0, len(content), 997)}, reverse=True):
        with path.open("r+b") as file:
            file.truncate(size)
        try:
            tensors = read_checkpoint(path)
        except UserError as problem:
            one_line(path, problem)
        else:  # cut between two messages: what is there is right
            complete += 1
            assert len(tensors) < len(whole) and all(torch.equal(x, whole[name]) for name, x in tensors.items())
    assert complete < 5


def small() -> bytes:
    """Every kind of header, short enough to flip each bit of it."""
    content = value("encoder.0.q", "Float32", [3, 4], bytes(48)) + value("step", "Int32", [], bytes(4))
    content += value("packed", "Float16", [2, 2], bytes(8), packed=True)
    content += value("sliced", "Int64", [5], bytes(24)) + value("sliced", "Int64", [5], bytes(16))
    return content + footer(content)


def test_every_single_bit_flipped(tmp_path: Path) -> None:
    content, path = small(), tmp_path / "flip.ckpt"
    refused = 0
    for bit in range(len(content) * 8):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except UserError as problem:
            refused += 1
            one_line(path, problem)
    assert refused > 500  # flips in tensor content and in names cannot be seen


def test_flips_in_the_headers_of_a_real_file_do_not_allocate(tmp_path: Path) -> None:
    """A header that takes megabytes of weights for dimensions or for a name must not be multiplied out or printed."""
    content, path = RECORDED.read_bytes(), tmp_path / "flip.ckpt"
    path.write_bytes(content)
    starts = [i for i in range(len(content) - 7) if content[i : i + 7] == b"Float32"][:3]
    places = {*range(60), *(start + i for start in starts for i in range(-40, 16) if start + i >= 0)}
    tracemalloc.start()
    with path.open("r+b") as file:
        for place in sorted(places):
            for bit in range(8):
                file.seek(place)
                file.write(bytes([content[place] ^ 1 << bit]))
                file.flush()
                try:
                    read_checkpoint(path)
                except UserError as problem:
                    one_line(path, problem)
            file.seek(place)
            file.write(content[place : place + 1])
            file.flush()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(content)  # the tensors themselves are one file's worth; a list of its bytes would be 36


def test_random_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.ckpt"
    for _ in range(300):
        noise = rng.bytes(int(rng.integers(1, 400)))
        path.write_bytes(chunk(1, noise) if rng.random() < 0.5 else chunk(1, chunk(1, b"x") + chunk(2, noise)))
        try:
            read_checkpoint(path)
        except UserError as problem:
            one_line(path, problem)
