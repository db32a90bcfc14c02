"""The reader against MindSpore's own writer; runs where CELLFM_MINDSPORE_PYTHON names an interpreter that has it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from cellfm_torch.convert.mindspore_ckpt import Source, read_checkpoint
from cellfm_torch.convert.ms2pt import main
from cellfm_torch.errors import UserError

MINDSPORE = os.environ.get("CELLFM_MINDSPORE_PYTHON")
PARITY = Path(__file__).resolve().parents[1] / "parity"
KEY = b"0123456789abcdef"
pytestmark = pytest.mark.skipif(not MINDSPORE, reason="CELLFM_MINDSPORE_PYTHON names no interpreter with MindSpore")

WRITE = """
import sys
import numpy as np, mindspore as ms
from mindspore.train import serialization
out, recorded = sys.argv[1:]
rng = np.random.default_rng(0)
types = [ms.float16, ms.float32, ms.float64, ms.bfloat16, ms.int8, ms.int16, ms.int32, ms.int64,
         ms.uint8, ms.uint16, ms.uint32, ms.uint64, ms.bool_]
made = [{"name": str(t), "data": ms.Tensor(rng.integers(0, 2, (3, 5)), t)} for t in types]
made += [{"name": "scalar", "data": ms.Tensor(7, ms.int32)}, {"name": "nothing", "data": ms.Tensor(0.5, ms.float32)}]
ms.save_checkpoint(made, out + "/types.ckpt", append_dict={"epoch_num": 3, "note": "some words"})
ms.save_checkpoint(made, out + "/types_crc.ckpt", crc_check=True)
weights = [{"name": name, "data": x} for name, x in ms.load_checkpoint(recorded).items()]
ms.save_checkpoint(weights, out + "/whole.ckpt", crc_check=True)
ms.save_checkpoint(weights, out + "/whole_st", format="safetensors")
ms.save_checkpoint(weights, out + "/whole_st_crc", format="safetensors", crc_check=True)
for mode in ("AES-GCM", "AES-CBC", "SM4-CBC"):
    ms.save_checkpoint(weights, out + "/" + mode + ".ckpt", enc_key=b"0123456789abcdef", enc_mode=mode)
serialization.SLICE_SIZE = 3  # kilobytes
ms.save_checkpoint(weights, out + "/sliced.ckpt", crc_check=True)
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mindspore")
    command = [str(MINDSPORE), "-c", WRITE, str(folder), str(PARITY / "train.ckpt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder / "genes.txt").write_text("".join(f"G{i}\n" for i in range(101)))
    (folder / "key").write_bytes(KEY)
    return folder


def test_every_type(written: Path) -> None:
    plain, checked = read_checkpoint(written / "types.ckpt"), read_checkpoint(written / "types_crc.ckpt")
    assert len(checked) == 15 and set(plain) - set(checked) == {"epoch_num"}  # the words are not a tensor
    rng = np.random.default_rng(0)
    for name, x in list(checked.items())[:13]:
        assert torch.equal(x.to(torch.float64), torch.from_numpy(rng.integers(0, 2, (3, 5))).double()), name
        assert torch.equal(x, plain[name]) and str(x.dtype).removeprefix("torch.") == name.lower()
    assert checked["scalar"].shape == () and int(checked["scalar"]) == 7 and float(checked["nothing"]) == 0.5
    with Source(written / "types.ckpt") as source:
        assert source.text("note") == "some words"


@pytest.mark.parametrize("name", ["whole.ckpt", "whole_st.safetensors", "whole_st_crc.safetensors", "sliced.ckpt"])
def test_same_numbers_from_every_format(written: Path, name: str) -> None:
    expected, found = read_checkpoint(PARITY / "train.ckpt"), read_checkpoint(written / name)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], x) and found[key].dtype == x.dtype for key, x in expected.items())
    if name == "sliced.ckpt":
        with Source(written / name) as source:
            assert len(source.entries["gene_emb"].ranges) == 9  # 26,624 bytes, 3 KB at a time
    given = ["--genes", str(written / "genes.txt"), "--num-heads", "4", "--output", str(written / f"{name}-model")]
    assert main([str(written / name), *given]) == 0


@pytest.mark.parametrize("name", ["whole.ckpt", "whole_st_crc.safetensors", "sliced.ckpt"])
def test_damage_under_a_checksum_is_seen(written: Path, name: str, tmp_path: Path) -> None:
    content = bytearray((written / name).read_bytes())
    content[-1000] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="damaged: its content has the checksum"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("mode", ["AES-GCM", "AES-CBC", "SM4-CBC"])
def test_encrypted(written: Path, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(written / f"{mode}.ckpt"), "--genes", str(written / "genes.txt"), "--num-heads", "4"]
    assert main(given) == 2
    assert f"encrypted ({mode}): only MindSpore can open it" in capsys.readouterr().err
    key = ["--backend", "mindspore", "--key-mode", mode, "--key"]
    assert main([*given, *key, str(written / "genes.txt")]) == 2
    message = capsys.readouterr().err
    assert "MindSpore cannot read it either, is --key right?" in message and message.count("\n") == 1
    assert not (written / mode).exists()
    assert main([*given, *key, str(written / "key")]) == 0
    assert (written / mode / "model.safetensors").is_file()
