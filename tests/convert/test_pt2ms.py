"""The way back: the same bytes under the same names, for every recorded case, and MindSpore itself takes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cellfm_torch import CellFM, CellFMConfig
from cellfm_torch.convert import ms2pt, pt2ms
from cellfm_torch.convert.mindspore_ckpt import Source, read_checkpoint
from cellfm_torch.convert.names import drop_reason

ROOT = Path(__file__).resolve().parents[2]
PARITY = ROOT / "tests" / "parity"
MINDSPORE = os.environ.get("CELLFM_MINDSPORE_PYTHON")
CASES = ["pretrain", "zeros", "finetune", "label", "lora", "annotation", "train"]


@pytest.fixture
def genes(tmp_path: Path) -> str:
    path = tmp_path / "genes.txt"
    path.write_text("".join(f"G{i}\n" for i in range(101)))
    return str(path)


def there_and_back(case: str, folder: Path, genes: str, *options: str) -> Path:
    given = [str(PARITY / f"{case}.ckpt"), "--output", str(folder / case), "--num-heads", "4", "--genes", genes]
    assert ms2pt.main([*given, *options]) == 0
    assert pt2ms.main([str(folder / case)]) == 0
    return folder / f"{case}.ckpt"


@pytest.mark.parametrize("case", CASES)
def test_round_trip_is_bit_exact(case: str, tmp_path: Path, genes: str) -> None:
    back = there_and_back(case, tmp_path, genes)
    if case != "train":  # not a bit differs, headers and order included
        assert back.read_bytes() == (PARITY / f"{case}.ckpt").read_bytes()
        return
    with Source(back) as ours, Source(PARITY / f"{case}.ckpt") as theirs:
        assert list(ours.entries) == [name for name in theirs.entries if not drop_reason(name)]
        for name, entry in ours.entries.items():
            assert (entry.dims, entry.kind) == (theirs.entries[name].dims, theirs.entries[name].kind)
            assert b"".join(ours.pieces(name)) == b"".join(theirs.pieces(name)), name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_goes_both_ways(dtype: str, tmp_path: Path, genes: str) -> None:
    (tmp_path / "half").mkdir()
    back = there_and_back("label", tmp_path, genes, "--dtype", dtype)
    tensors, original = read_checkpoint(back), read_checkpoint(PARITY / "label.ckpt")
    assert tensors.keys() == original.keys()
    for name, x in original.items():
        assert torch.equal(tensors[name], x.to(getattr(torch, dtype))), name


def test_a_network_of_ours_goes_to_mindspore(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = CellFMConfig(num_layers=2, dim=32, num_heads=1, num_genes=31, read_depth=True, zeros=True, lora_rank=2)
    network = CellFM(config, genes=[f"G{i}" for i in range(31)])
    network.save_pretrained(tmp_path / "mine")
    assert pt2ms.main([str(tmp_path / "mine"), "--output", str(tmp_path / "out" / "x.ckpt")]) == 0
    tensors = read_checkpoint(tmp_path / "out" / "x.ckpt")
    assert len(tensors) == len(network.state_dict()) and tensors["ST_emb"].shape == (1, 2, 32)
    given = [str(tmp_path / "out" / "x.ckpt"), "--genes", str(tmp_path / "mine" / "genes.txt")]
    assert ms2pt.main(given) == 0
    again = CellFM.from_pretrained(tmp_path / "out" / "x")
    assert again.config.lora_rank == 2
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in network.state_dict().items())


def test_large_tensors_are_sliced(tmp_path: Path, genes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pt2ms, "SLICE", 1001)
    back = there_and_back("label", tmp_path, genes)
    with Source(back) as ours:
        assert len(ours.entries["gene_emb"].ranges) == -(-104 * 64 * 4 // 1001)
    tensors, original = read_checkpoint(back), read_checkpoint(PARITY / "label.ckpt")
    assert all(torch.equal(tensors[name], x) for name, x in original.items())


def test_refusals(tmp_path: Path, genes: str, capsys: pytest.CaptureFixture[str]) -> None:
    back = there_and_back("pretrain", tmp_path, genes)
    capsys.readouterr()
    folder = tmp_path / "pretrain"
    (tmp_path / "empty").mkdir()
    config = json.loads((folder / "config.json").read_text())
    cases = {
        "is not a model folder": [str(tmp_path / "empty")],
        "exists; say --output": [str(folder)],
        "there is no option --ouput; did you mean '--output'?": [str(folder), "--ouput", "x"],
    }
    before = sorted(tmp_path.rglob("*"))
    for part, arguments in cases.items():
        try:
            code = pt2ms.main(arguments)
        except SystemExit as exit:
            code = exit.code
        message = capsys.readouterr().err
        assert code == 2 and part in message and message.count("\n") == 1
    back.unlink()
    (folder / "config.json").write_text(json.dumps(config | {"num_layers": 3}))
    assert pt2ms.main([str(folder)]) == 2
    assert "holds encoder.3." in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == [path for path in before if path != back]


LOAD = """
import sys, json
import numpy as np, mindspore as ms
from mindspore import nn, Parameter
for path, original in json.loads(sys.argv[1]):
    ours, theirs = ms.load_checkpoint(path), ms.load_checkpoint(original)
    net = nn.Cell()
    for i, (name, x) in enumerate(theirs.items()):
        if name in ours:
            net.insert_param_to_cell(f"p{i}", Parameter(ms.Tensor(np.zeros(x.shape, np.float32)), name=name), False)
    left = ms.load_param_into_net(net, ours, strict_load=True)
    assert left == ([], []), left
    assert set(ours) <= set(theirs)
    for p in net.get_parameters():
        assert p.asnumpy().tobytes() == theirs[p.name].asnumpy().tobytes(), p.name
    print(len(list(net.get_parameters())), flush=True)
"""


@pytest.mark.skipif(not MINDSPORE, reason="CELLFM_MINDSPORE_PYTHON names no interpreter with MindSpore")
def test_mindspore_loads_every_case(tmp_path: Path, genes: str) -> None:
    pairs = [(str(there_and_back(case, tmp_path, genes)), str(PARITY / f"{case}.ckpt")) for case in CASES]
    done = subprocess.run([str(MINDSPORE), "-c", LOAD, json.dumps(pairs)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["59", "67", "64", "79", "123", "95", "59"]


def test_runs_as_a_script(tmp_path: Path, genes: str) -> None:
    there_and_back("pretrain", tmp_path, genes).unlink()
    command = [sys.executable, str(ROOT / "convert" / "pt2ms.py"), "pretrain", "--output", "again.ckpt"]
    environment = {name: x for name, x in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("again.ckpt: 59 tensors")
    assert (tmp_path / "again.ckpt").read_bytes() == (PARITY / "pretrain.ckpt").read_bytes()
