"""The converter as people call it: a command, from another folder."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cellfm_torch import CellFM, __version__
from cellfm_torch.convert.mindspore_ckpt import read_checkpoint
from cellfm_torch.convert.ms2pt import main
from cellfm_torch.convert.names import target_name

ROOT = Path(__file__).resolve().parents[2]
PARITY = ROOT / "tests" / "parity"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the recorded checkpoint and its genes, to work in."""
    (tmp_path / "train.ckpt").symlink_to(PARITY / "train.ckpt")
    (tmp_path / "pretrain.ckpt").write_bytes((PARITY / "pretrain.ckpt").read_bytes())
    (tmp_path / "genes.txt").write_text("".join(f"G{i}\n" for i in range(101)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: x for name, x in os.environ.items() if name != "PYTHONPATH"}  # as after a plain git clone
    command = [sys.executable, str(ROOT / "convert" / "ms2pt.py"), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_command_converts_from_another_folder(work: Path) -> None:
    done = run("train.ckpt", "--num-heads", "4", "--genes", "genes.txt", cwd=work)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1 and "genes.txt has 101 symbols; lists of 96 to 103 would fit" in done.stderr
    assert done.stdout.endswith("train: load it with CellFM.from_pretrained('train')\n")
    for part in ("train.ckpt -> train", "229,377", "4 x optimiser state; 118 x Adam moment", "identical"):
        assert part in done.stdout
    folder = work / "train"
    assert {x.name for x in folder.iterdir()} == {"config.json", "model.safetensors", "genes.txt", "conversion.json"}
    tensors = read_checkpoint(work / "train.ckpt")
    record = json.loads((folder / "conversion.json").read_text())
    content = (work / "train.ckpt").read_bytes()
    assert record["sha256"] == hashlib.sha256(content).hexdigest() and record["bytes"] == len(content)
    assert record["source"] == "train.ckpt" and record["tool"] == f"cellfm_torch {__version__}"
    assert record["names"] == {name: target_name(name) for name in tensors if target_name(name)}
    assert record["names"].keys() | record["dropped"].keys() == tensors.keys()
    assert record["dropped"]["moment1.gene_emb"] == "Adam moment" and "global_step" in record["dropped"]
    network = CellFM.from_pretrained(folder)
    assert network.genes == tuple(f"G{i}" for i in range(101)) and network.config.num_heads == 4
    state = network.state_dict()
    assert state.keys() == set(record["names"].values())
    assert all(torch.equal(state[ours], tensors[name]) for name, ours in record["names"].items())


def test_command_fails_in_one_line(work: Path) -> None:
    (work / "cut.ckpt").write_bytes((work / "pretrain.ckpt").read_bytes()[:5000])
    done = run("cut.ckpt", cwd=work)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: cut.ckpt: truncated") and done.stderr.count("\n") == 1
    assert not (work / "cut").exists()


def test_output_folder_and_default_heads(work: Path) -> None:
    assert main(["pretrain.ckpt", "--genes", "genes.txt", "--output", "a/b"]) == 0
    assert CellFM.from_pretrained(work / "a" / "b").config.num_heads == 2
    assert not (work / "pretrain").exists()


def damaged(content: bytes) -> bytes:
    return content.replace(b"cls_token", b"cls_tokem", 1)


GIVEN = ["--genes", "genes.txt", "--num-heads", "4"]


@pytest.mark.parametrize(
    ("name", "arguments", "part"),
    [
        ("none.ckpt", GIVEN, "none.ckpt: cannot be read"),
        (".", GIVEN, "cannot be read"),
        ("empty.ckpt", GIVEN, "empty.ckpt: cannot be read"),
        ("genes.txt", ["--output", "out"], "genes.txt: not a MindSpore checkpoint"),
        ("unknown.ckpt", GIVEN, "holds cls_tokem, which the name table does not know"),
        ("short.ckpt", GIVEN, "the checkpoint lacks gene_decoder.w1.weight"),
        ("pretrain.ckpt", [], "none of the published vocabularies"),
        ("pretrain.ckpt", ["--genes", "none.txt"], "--genes none.txt: no such file"),
        ("pretrain.ckpt", ["--genes", "few.txt"], "needs 8 rows, gene_emb has 104"),
        ("pretrain.ckpt", ["--genes", "pretrain.ckpt"], "not UTF-8 text"),
        ("pretrain.ckpt", [*GIVEN[:2], "--num-heads", "5"], "num_heads=5"),
        ("pretrain.ckpt", [*GIVEN[:2], "--num-heads", "0"], "num_heads=0"),
        ("pretrain.ckpt", [*GIVEN, "--output", "few.txt"], "few.txt is a file"),
        ("pretrain.ckpt", [*GIVEN, "--output", "few.txt/x"], "few.txt/x cannot be written"),
        ("bare", GIVEN, "bare is a file, the model needs a folder; say --output"),  # no suffix to take off
    ],
)
def test_errors(work: Path, name: str, arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = (work / "pretrain.ckpt").read_bytes()
    (work / "empty.ckpt").write_bytes(b"")
    (work / "few.txt").write_text("A\nB\n")
    (work / "unknown.ckpt").write_bytes(damaged(content))
    (work / "bare").write_bytes(content)
    # A message is its key 0x0a, its length, the tag's key 0x0a and length: cut between two, so that the file parses.
    layer = content.index(b"\n\x1cencoder.1.attn.q_proj.weight")
    (work / "short.ckpt").write_bytes(content[: content.rindex(b"\n", 0, layer)])
    before = sorted(work.rglob("*"))
    assert main([name, *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("error: ") and shown.err.count("\n") == 1 and part in shown.err
    assert sorted(work.rglob("*")) == before  # nothing written
