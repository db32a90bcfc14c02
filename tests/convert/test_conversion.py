"""What a conversion does beside converting: validation, half precision, safe output, ranks, licence."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cellfm_torch import CellFM, cli
from cellfm_torch.convert import safetensors_file
from cellfm_torch.convert.mindspore_ckpt import read_checkpoint
from cellfm_torch.convert.ms2pt import main
from cellfm_torch.convert.wire import value_header
from cellfm_torch.errors import UserError

PARITY = Path(__file__).resolve().parents[1] / "parity"
GIVEN = ["--genes", "genes.txt", "--num-heads", "4"]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the recorded checkpoints and their genes, to work in."""
    for name in ("train", "pretrain"):
        (tmp_path / f"{name}.ckpt").write_bytes((PARITY / f"{name}.ckpt").read_bytes())
    (tmp_path / "genes.txt").write_text("".join(f"G{i}\n" for i in range(101)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "conversion.json").read_text()))


def test_verb_of_the_console_script(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["convert", "pretrain.ckpt", *GIVEN, "--output", "x"]) == 0
    assert (work / "x" / "model.safetensors").is_file()
    with pytest.raises(SystemExit) as exit:
        cli.main(["convert", "pretrain.ckpt", "--num-head", "4"])
    assert exit.value.code == 2
    assert "there is no option --num-head; did you mean '--num-heads'? See cellfm convert" in capsys.readouterr().err


def test_outputs_are_compared_with_a_recording_beside(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "pretrain.npz").symlink_to(PARITY / "pretrain.npz")
    assert main(["pretrain.ckpt", *GIVEN]) == 0
    outputs = record_of(work / "pretrain")["validation"]["outputs"]
    assert outputs.keys() == {"cell", "genes", "by_gene", "by_cell"} and max(outputs.values()) < 3e-5
    before = sorted(work.rglob("*"))
    assert main(["pretrain.ckpt", "--genes", "genes.txt", "--output", "x"]) == 2  # two heads instead of four
    assert "off the recording" in (message := capsys.readouterr().err) and "--num-heads 2 right?" in message
    assert main(["pretrain.ckpt", *GIVEN, "--dtype", "bfloat16", "--output", "half"]) == 0
    (work / "pretrain.npz").unlink()
    (work / "pretrain.npz").write_bytes(b"PK\x03\x04 and nothing more")
    assert main(["pretrain.ckpt", *GIVEN, "--output", "x"]) == 2
    assert "cannot be read as a recording" in capsys.readouterr().err
    assert main(["pretrain.ckpt", *GIVEN, "--output", "x", "--skip-validation"]) == 0
    assert "validation" not in record_of(work / "x")
    assert {x.name for x in work.iterdir()} - {x.name for x in before} == {"half", "x"}


@pytest.mark.parametrize(("dtype", "most"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_half_precision(work: Path, dtype: str, most: float) -> None:
    assert main(["pretrain.ckpt", *GIVEN, "--dtype", dtype]) == 0
    # Rounding to 11 or 8 significant bits: at most half a unit in the last of them, relative to the largest weight.
    assert 0 < record_of(work / "pretrain")["validation"]["weights"] <= most
    tensors = load_file(work / "pretrain" / "model.safetensors")
    assert {x.dtype for x in tensors.values()} == {getattr(torch, dtype)}
    assert CellFM.from_pretrained(work / "pretrain").cls_token.dtype == torch.float32


def test_output_is_replaced_only_where_that_is_safe(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain.ckpt", *GIVEN]) == 0
    folder = work / "pretrain"
    assert main(["pretrain.ckpt", *GIVEN, "--dtype", "float16"]) == 0  # of the same checkpoint: made anew
    assert load_file(folder / "model.safetensors")["cls_token"].dtype == torch.float16
    (folder / "notes.txt").write_text("mine")
    assert main(["pretrain.ckpt", *GIVEN]) == 2
    assert "pretrain exists and it holds notes.txt" in capsys.readouterr().err
    (folder / "notes.txt").unlink()
    assert main(["train.ckpt", *GIVEN, "--output", "pretrain"]) == 2
    assert "it was not made from this checkpoint" in capsys.readouterr().err
    (work / "empty").mkdir()
    assert main(["pretrain.ckpt", *GIVEN, "--output", "empty"]) == 0
    assert sorted(x.name for x in work.iterdir() if x.name.startswith(".")) == []


def test_a_full_disk_leaves_nothing(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cellfm_torch.convert import write

    calls = 0

    def fail(x: torch.Tensor) -> memoryview:
        nonlocal calls
        calls += 1
        if calls > 20:
            raise OSError(28, "No space left on device")
        return raw(x)

    raw = write.raw
    before = sorted(work.rglob("*"))
    monkeypatch.setattr(write, "raw", fail)
    assert main(["pretrain.ckpt", *GIVEN, "--output", "deep/er"]) == 2
    assert calls == 21 and sorted(work.rglob("*")) == before


def test_termination_leaves_nothing(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cellfm_torch.convert import write

    raw, before = write.raw, sorted(work.rglob("*"))

    def stop(x: torch.Tensor) -> memoryview:
        signal.raise_signal(signal.SIGTERM)
        return raw(x)

    monkeypatch.setattr(write, "raw", stop)
    handler = signal.getsignal(signal.SIGTERM)
    assert main(["pretrain.ckpt", *GIVEN]) == 130
    assert capsys.readouterr().err == "interrupted: nothing was written\n" and sorted(work.rglob("*")) == before
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_disk_that_lies_is_noticed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cellfm_torch.convert import conversion

    def damage(path: Path, *arguments: Any, **options: Any) -> None:
        write(path, *arguments, **options)
        content = bytearray(path.read_bytes())
        content[-100] ^= 1
        path.write_bytes(content)

    write = safetensors_file.write
    monkeypatch.setattr(safetensors_file, "write", damage)
    before = sorted(work.rglob("*"))
    with pytest.raises(UserError, match="came back with other numbers"):
        conversion.convert_file(work / "pretrain.ckpt", conversion.Options(num_heads=4, genes=work / "genes.txt"))
    assert sorted(work.rglob("*")) == before


def test_ranks_of_a_data_parallel_run(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = (work / "pretrain.ckpt").read_bytes()
    for rank in range(3):
        (work / "run" / f"rank_{rank}").mkdir(parents=True)
        (work / "run" / f"rank_{rank}" / "cell-2_10.ckpt").write_bytes(content)
    assert main(["run", *GIVEN]) == 0
    record = record_of(work / "run-model")
    assert record["source"] == "cell-2_10.ckpt" and len(record["identical_copies"]) == 3
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    capsys.readouterr()
    other = bytearray(content)
    other[-3] ^= 1
    (work / "run" / "rank_2" / "cell-2_10.ckpt").write_bytes(other)
    assert main(["run", *GIVEN, "--output", "x"]) == 2
    assert "cellwise_dec.map.weight is not that of rank_0: these are not copies" in capsys.readouterr().err
    (work / "run" / "rank_1" / "cell-2_20.ckpt").write_bytes(content)
    assert main(["run", *GIVEN, "--output", "x"]) == 2 and "holds 2 checkpoints" in capsys.readouterr().err
    (work / "run" / "rank_1").rename(work / "run" / "rank_7")
    assert main(["run", *GIVEN, "--output", "x"]) == 2 and "rank_1 is missing" in capsys.readouterr().err
    assert not (work / "x").exists()


def test_published_sizes_carry_their_licence(work: Path) -> None:
    tensors = read_checkpoint(work / "pretrain.ckpt") | {"gene_emb": torch.zeros(24_080, 64)}
    with (work / "base_weight.ckpt").open("wb") as file:
        for name, x in tensors.items():
            content = x.numpy().tobytes()
            file.write(value_header(name, "Float32", tuple(x.shape), len(content)) + content)
    assert main(["base_weight.ckpt"]) == 0
    assert record_of(work / "base_weight")["licence"].startswith("CC BY-NC-ND 4.0")
    assert "do not redistribute" in record_of(work / "base_weight")["licence"]
    assert main(["pretrain.ckpt", *GIVEN]) == 0 and "licence" not in record_of(work / "pretrain")


def test_mindspore_backend_without_mindspore(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain.ckpt", *GIVEN, "--key", "genes.txt"]) == 2
    assert "add --backend mindspore" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELLFM_MINDSPORE_PYTHON", sys.executable)
        assert main(["pretrain.ckpt", *GIVEN, "--backend", "mindspore"]) == 2
        assert "has no MindSpore" in capsys.readouterr().err
        patch.setenv("CELLFM_MINDSPORE_PYTHON", str(work / "none"))
        assert main(["pretrain.ckpt", *GIVEN, "--backend", "mindspore"]) == 2
        assert "cannot be run" in capsys.readouterr().err
    assert not (work / "pretrain").exists()
