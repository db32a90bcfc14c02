"""Checkpoints damaged in every way we could think of: one clear line each, no traceback, nothing written."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cellfm_torch.convert.mindspore_ckpt import read_checkpoint
from cellfm_torch.convert.ms2pt import main
from cellfm_torch.convert.wire import value_header

PARITY = Path(__file__).resolve().parents[1] / "parity"
Tensors = dict[str, np.ndarray]  # type: ignore[type-arg]
KINDS = {"float32": "Float32", "float16": "Float16", "int32": "Int32", "float64": "Float64"}


def message(name: str, x: np.ndarray) -> bytes:  # type: ignore[type-arg]
    return value_header(name, KINDS[x.dtype.name], x.shape, x.nbytes) + x.tobytes()


def joined(tensors: Tensors) -> bytes:
    return b"".join(message(name, x) for name, x in tensors.items())


def official(case: str = "pretrain") -> Tensors:
    return {name: x.numpy() for name, x in read_checkpoint(PARITY / f"{case}.ckpt").items()}


def without(part: str, case: str = "pretrain") -> bytes:
    return joined({name: x for name, x in official(case).items() if part not in name})


def renamed(old: str, new: str, case: str = "pretrain") -> bytes:
    return joined({name.replace(old, new): x for name, x in official(case).items()})


def changed(name: str, change: Callable[[np.ndarray], np.ndarray], case: str = "pretrain") -> bytes:  # type: ignore[type-arg]
    tensors = official(case)
    return joined(tensors | {name: change(tensors[name])})


def spoilt(name: str, value: float, case: str = "pretrain") -> bytes:
    def spoil(x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        x = x.copy()
        x.flat[x.size // 2] = value
        return x

    return changed(name, spoil, case)


def flipped(at: float, bits: int = 0xFF) -> bytes:
    content = bytearray(joined(official()))
    content[int(at * len(content))] ^= bits
    return bytes(content)


def checked(content: bytes, *, off: int = 1) -> bytes:
    return content + b"crc_num" + (zlib.crc32(content) ^ off).to_bytes(10, "big")


def safetensors(**changes: object) -> bytes:
    x = official()["cls_token"]
    entry = {"dtype": "F32", "shape": [1, 1, 64], "data_offsets": [0, 256]} | changes
    header = json.dumps({"cls_token": entry}).encode()
    return len(header).to_bytes(8, "little") + header + x.tobytes()


def scan(word: bytes, new: bytes) -> bytes:
    assert len(word) == len(new)
    return joined(official()).replace(word, new, 1)


WHOLE = joined(official())
MALFORMED: dict[str, tuple[Callable[[], bytes], str]] = {
    # Not a checkpoint.
    "empty": (lambda: b"", "cannot be read"),
    "text": (lambda: b"gene_emb: 1, 2, 3\n", "not a MindSpore checkpoint"),
    "zip": (lambda: b"PK\x03\x04" + bytes(100), "not a MindSpore checkpoint"),
    "pickle": (lambda: b"\x80\x02}q\x00.", "not a MindSpore checkpoint"),
    "zeros": (lambda: bytes(64), "not a MindSpore checkpoint"),
    "json": (lambda: b'{"gene_emb": [1]}', "not a MindSpore checkpoint"),
    "footer only": (lambda: b"crc_num" + bytes(10), "holds no tensors"),
    "AES-GCM": (lambda: b"\xd8\x5e\x3a\x7f" + WHOLE, "encrypted (AES-GCM)"),
    "AES-CBC": (lambda: b"\xd9\x5e\x3a\x7f" + WHOLE, "--backend mindspore"),
    "SM4-CBC": (lambda: b"\xda\x5e\x3a\x7f" + WHOLE, "encrypted (SM4-CBC)"),
    # Cut, or bits turned over.
    "cut at 1 byte": (lambda: WHOLE[:1], "ends inside a number at byte 1"),
    "cut in the first header": (lambda: WHOLE[:20], "truncated"),
    "cut in the middle": (lambda: WHOLE[: len(WHOLE) // 2], "truncated: byte"),
    "last byte missing": (lambda: WHOLE[:-1], "truncated: byte"),
    "last tensor missing": (lambda: without("cellwise_dec.map"), "lacks cell_decoder.map.weight"),
    "half missing": (lambda: joined(dict(list(official().items())[:30])), "lacks encoder.1."),
    "bytes appended": (lambda: WHOLE + b"\x00" * 7, "not a MindSpore checkpoint"),
    "half a footer": (lambda: WHOLE + b"crc_num123", "not a MindSpore checkpoint"),
    "wrong checksum": (lambda: checked(WHOLE), "has the checksum"),
    "a bit flipped under a checksum": (
        lambda: checked(flipped(0.5, 1), off=zlib.crc32(WHOLE) ^ zlib.crc32(flipped(0.5, 1))),
        "damaged: its content has the checksum",
    ),  # noqa: E501
    "first byte": (lambda: flipped(0), "not a MindSpore checkpoint"),
    "unknown type": (lambda: scan(b"Float32", b"Float33"), "unknown type 'Float33'"),
    "half the type": (lambda: scan(b"Float32", b"Float16"), "bytes, shape"),
    # Numbers that are none.
    "NaN": (lambda: spoilt("encoder.2.ffn.u_proj.weight", np.nan), "encoder.2.ffn.u_proj.weight holds nan"),
    "infinity": (lambda: spoilt("gene_emb", np.inf), "gene_emb holds inf at position 3,328"),
    "minus infinity": (lambda: spoilt("value_enc.value_enc.a", -np.inf), "holds -inf at position 0"),
    "NaN in a head": (lambda: spoilt("proj.2.bias", np.nan, "label"), "proj.2.bias holds nan"),
    "NaN in an adapter": (lambda: spoilt("encoder.0.attn.lora_q.B.weight", np.nan, "lora"), "holds nan"),
    "NaN in a wrapped backbone": (lambda: spoilt("extractor.cls_token", np.nan, "annotation"), "extractor.cls_token"),
    "NaN in float16": (
        lambda: changed("cls_token", lambda x: np.full_like(x, np.nan, dtype=np.float16)),
        "cls_token holds nan",
    ),
    "whole numbers": (lambda: changed("cls_token", lambda x: x.astype(np.int32)), "weights are floating point"),
    # Names.
    "unknown name": (lambda: renamed("cls_token", "cls_tokem"), "holds cls_tokem, which the name table"),
    "another framework's names": (lambda: renamed(".gamma", ".weight"), "which the name table does not know"),
    "an extra tensor": (lambda: WHOLE + message("extra", np.ones(1, "f4")), "holds extra"),
    "the same tensor twice": (lambda: WHOLE + message("cls_token", official()["cls_token"]), "has 512 bytes"),
    "a layer missing": (lambda: without("encoder.1."), "layers [0, 2, 3]: some are missing"),
    "all layers missing": (lambda: without("encoder."), "layers []"),
    "a layer written 01": (lambda: renamed("encoder.1.", "encoder.01."), "lacks encoder.1."),
    "an embedding missing": (lambda: without("mask_emb"), "lacks mask_emb"),
    "gene_emb missing": (lambda: without("gene_emb"), "has no gene_emb of two dimensions"),
    "a norm missing": (lambda: without("encoder.3.post_norm1.beta"), "lacks encoder.3.norm1.bias"),
    "S and T without their embedding": (lambda: without("ST_emb", "finetune"), "holds depth_enc."),
    "one of two zero heads": (lambda: without("cellwise_dec.zero_logit", "zeros"), "holds gene_decoder.expressed."),
    "an adapter without its half": (lambda: without("2.attn.lora_v.B", "lora"), "lacks encoder.2.retention.v_proj"),
    "adapters in some layers": (lambda: without("encoder.3.attn.lora", "lora"), "lacks encoder.3.retention"),
    "heads without clusters": (lambda: without("cluster_emb", "label"), "has heads but no cluster_emb"),
    "heads without proj": (lambda: without("proj.4", "label"), "lacks head.proj.4.weight"),
    "a query layer missing": (lambda: without("query_layer.0.", "annotation"), "query layers [1]: some are missing"),
    "half a query layer": (lambda: without("query_layer.1.attn2", "annotation"), "lacks head.query_layers.1.cross"),
    "wrapped without queries": (lambda: without("query_layer", "annotation"), "lacks head.query.retention"),
    "half wrapped": (
        lambda: renamed("extractor.gene_emb", "gene_emb", "annotation"),
        "mixes the names of two layouts",
    ),
    "both layouts": (lambda: WHOLE + joined({k: x for k, x in official("annotation").items() if "cls" in k}), "both"),
    # Shapes.
    "narrow gene_emb": (lambda: changed("gene_emb", lambda x: x[:, :60]), "has shape (1, 1, 64)"),
    "flat gene_emb": (lambda: changed("gene_emb", np.ravel), "has no gene_emb of two dimensions"),
    "fewer rows": (lambda: changed("gene_emb", lambda x: x[:96]), "needs 104 rows, gene_emb has 96"),
    "transposed": (lambda: changed("value_dec.w2.weight", np.transpose), "gene_decoder.w2.weight has shape (64, 1)"),
    "one row too many": (
        lambda: changed("encoder.1.ffn.v_proj.weight", lambda x: np.vstack([x, x[:1]])),
        "shape (65, 64)",
    ),
    "no dimensions": (lambda: changed("value_enc.value_enc.a", lambda x: x.reshape(())), "value_enc.a has shape ()"),
    "ranks that differ": (
        lambda: changed("encoder.0.ffn.lora_o.A.weight", lambda x: x[:3], "lora"),
        "encoder.0.retention.q_proj.lora_a has shape (4, 64)",
    ),
    "clusters of another width": (lambda: changed("cluster_emb", lambda x: x[:, :5], "label"), "cluster_emb has shape"),
    # MindSpore's safetensors.
    "safetensors, cut header": (lambda: safetensors()[:30], "truncated: the header ends at byte"),
    "safetensors, cut data": (lambda: safetensors()[:-10], "truncated: 'cls_token' ends at byte"),
    "safetensors, no JSON": (lambda: safetensors().replace(b"shape", b'sh"pe'), "not a safetensors file"),
    "safetensors, backwards": (lambda: safetensors(data_offsets=[256, 0]), "not a safetensors file"),
    "safetensors, wrong size": (lambda: safetensors(shape=[1, 1, 65]), "has 256 bytes"),
    "safetensors, unknown type": (lambda: safetensors(dtype="F8_E5M2"), "unknown type"),
    "safetensors, no list": (lambda: safetensors(shape=7), "not a safetensors file"),
    "safetensors, another model": (safetensors, "has no gene_emb"),
}


def test_there_are_enough() -> None:
    assert len(MALFORMED) >= 60


@pytest.mark.parametrize("kind", MALFORMED)
def test_one_line_and_nothing_written(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, part = MALFORMED[kind]
    monkeypatch.chdir(tmp_path)
    Path("bad.ckpt").write_bytes(make())
    Path("genes.txt").write_text("".join(f"G{i}\n" for i in range(101)))
    before = sorted(tmp_path.rglob("*"))
    assert main(["bad.ckpt", "--genes", "genes.txt", "--num-heads", "4"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("error: ") and shown.err.count("\n") == 1
    assert part in shown.err and len(shown.err) < 400, shown.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("case", ["pretrain", "zeros", "finetune", "label", "lora", "annotation", "train"])
def test_what_is_not_damaged_passes(case: str, tmp_path: Path) -> None:
    (tmp_path / "good.ckpt").write_bytes(checked(joined(official(case)), off=0))
    (tmp_path / "genes.txt").write_text("".join(f"G{i}\n" for i in range(101)))
    assert main([str(tmp_path / "good.ckpt"), "--genes", str(tmp_path / "genes.txt"), "--num-heads", "4"]) == 0
