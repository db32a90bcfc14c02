"""Checkpoints of runs, of one file and sharded, become model folders."""

from __future__ import annotations

import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import flip, small_job
from omegaconf import OmegaConf
from safetensors.torch import load_file

from cellfm_torch.commands.export import main
from cellfm_torch.train import main as train


@pytest.fixture(scope="module")
def runs(small_cells: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with each kind of checkpoint."""
    folder = tmp_path_factory.mktemp("runs")
    fsdp = ("trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=1")
    for name, more in (("whole", ()), ("sharded", fsdp)):
        job = small_job(small_cells, folder / name, "trainer.max_steps=2", "model.config.max_genes=1024", *more)
        assert train(job) == 0
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return {name: folder / name for name in ("whole", "sharded")}


@pytest.mark.parametrize("kind", ["whole", "sharded"])
def test_is_the_model_that_the_run_wrote(
    kind: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs[kind]
    assert (run / "checkpoints" / "last.ckpt").is_dir() == (kind == "sharded")
    assert main([f"checkpoint={run}", f"output={tmp_path / 'model'}"]) == 0
    assert "load_model" in capsys.readouterr().out
    for name in ("config.json", "genes.txt"):
        assert (tmp_path / "model" / name).read_text() == (run / "model" / name).read_text()
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", run / "model"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    again = [f"checkpoint={run / 'checkpoints' / 'last.ckpt'}", f"output={tmp_path / 'model'}"]
    assert main(again) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*again, "overwrite=true"]) == 0


@pytest.mark.parametrize("kind", ["whole", "sharded"])
def test_a_flipped_bit_is_refused(
    kind: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a weight, which nothing but a checksum shows; the checkpoint before it is named where there is one."""
    good = runs[kind] / "checkpoints" / "last.ckpt"
    bad, older = tmp_path / "last.ckpt", tmp_path / "last.before.ckpt"
    for copy in (bad, older):
        shutil.copytree(good, copy) if good.is_dir() else shutil.copy(good, copy)
    flip(bad / "__0_0.distcp" if good.is_dir() else bad)
    asked = [f"config={runs[kind] / 'config.yaml'}", f"output={tmp_path / 'model'}"]
    assert main([f"checkpoint={bad}", *asked]) == 2
    message = capsys.readouterr().err
    assert re.search(r"the checksum of \S+ does not match", message) and message.count("\n") == 1
    assert f"checkpoint={older} [" in message
    assert not (tmp_path / "model").exists()
    assert main([f"checkpoint={older}", *asked]) == 0


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_refusals(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = runs["whole"] / "config.yaml"
    other = OmegaConf.load(config)
    other.model.config.dim = 64
    OmegaConf.save(other, tmp_path / "other.yaml")
    other.model._target_ = "os.system"
    OmegaConf.save(other, tmp_path / "evil.yaml")
    (tmp_path / "text.ckpt").write_text("text")
    (tmp_path / "folder.ckpt").mkdir()
    (tmp_path / "pickled.ckpt").write_bytes(pickle.dumps(Evil(tmp_path / "done")))
    torch.save({"state_dict": {"x": torch.zeros(1)}}, tmp_path / "foreign.ckpt")
    torch.save([1], tmp_path / "plain.ckpt")
    whole = runs["whole"] / "checkpoints" / "last.ckpt"
    for checkpoint, given, says in (
        (tmp_path / "missing.ckpt", config, "no such file or folder"),
        (tmp_path / "text.ckpt", config, "not a checkpoint that can be read"),
        (tmp_path / "pickled.ckpt", config, "not a checkpoint that can be read"),
        (tmp_path / "folder.ckpt", config, "not a checkpoint that can be read (it has no .metadata or no meta.pt)"),
        (tmp_path / "plain.ckpt", config, "holds no network of ours"),
        (tmp_path / "foreign.ckpt", config, "holds no network of ours"),
        (tmp_path / "foreign.ckpt", "null", "give config=RUN/config.yaml"),
        (whole, tmp_path / "text.ckpt", "not the config.yaml of a run"),
        (whole, tmp_path / "evil.yaml", "builds os.system"),
        (whole, tmp_path / "other.yaml", "of another model than its config.yaml says"),
    ):
        assert main([f"checkpoint={checkpoint}", f"config={given}", f"output={tmp_path / 'out'}"]) == 2
        message = capsys.readouterr().err
        assert says in message and message.startswith("error: ") and message.count("\n") == 1
    assert not (tmp_path / "out").exists() and not (tmp_path / "done").exists()
