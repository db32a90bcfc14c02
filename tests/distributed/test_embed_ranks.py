"""Embedding by several processes: parts of each, merged in the order of the cells; one that is killed loses a batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
from launch import free_port, launch
from ranks import embed_command

from cellfm_torch import CellFM, CellFMConfig, embed
from cellfm_torch.commands.embed import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(ragged: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model"
    config = CellFMConfig.preset("tiny", num_layers=1, dim=32, num_heads=1, num_genes=len(ragged[1]))
    CellFM(config, genes=ragged[1]).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def expected(ragged: tuple[Path, list[str]], folder: Path) -> np.ndarray:
    return np.asarray(embed(ragged[0], folder, verbose=False, token_budget=600).obsm["X_cellfm"])


def job(ragged: tuple[Path, list[str]], folder: Path, output: Path) -> list[str]:
    options = [f"cells={ragged[0]}", f"model_folder={folder}", f"output={output}"]
    return [*options, "token_budget=600", "accelerator=cpu"]


def same(output: Path, expected: np.ndarray) -> bool:
    """Other batches than one process makes: 1e-5 of the mean magnitude in float32, the project's bar."""
    found = np.asarray(anndata.read_h5ad(output).obsm["X_cellfm"])
    return bool(np.abs(found - expected).max() < 1e-5 * np.abs(expected).mean())


def test_killed_rank_goes_on(
    ragged: tuple[Path, list[str]], folder: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    """SIGKILL of the second of two processes; four then do what is left."""
    output = tmp_path / "out.h5ad"
    typed = job(ragged, folder, output)
    with pytest.raises(AssertionError, match="rank 1 of 2:\n.* with -9"):
        launch(embed_command, 2, typed, die=True)
    parts = list(tmp_path.glob("out.h5ad.parts/*.npz"))
    assert parts and not output.exists()
    done = np.concatenate([np.load(path)["rows"] for path in parts])
    assert 0 < len(done) < len(expected)
    assert launch(embed_command, 4, typed, die=False) == [0, 0, 0, 0]
    assert same(output, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5ad"]


@pytest.mark.parametrize("left", [1, 0])
def test_fewer_cells_left_than_processes(
    left: int,
    ragged: tuple[Path, list[str]],
    folder: Path,
    expected: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two processes do the last cell, or none; what is kept is taken as it is, here other numbers than the model's."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    output, parts = tmp_path / "out.h5ad", tmp_path / "out.h5ad.parts"
    typed = job(ragged, folder, output)
    with monkeypatch.context() as patch:
        patch.setattr("cellfm_torch.embedding.run.write_h5ad", interrupted)
        assert main(typed) == 130
    for file in parts.glob("*.npz"):
        file.unlink()
    rows = np.arange(len(expected) - left)
    np.savez(parts / "000000000000.npz", rows=rows, cell=expected[rows] + 1)
    assert launch(embed_command, 2, typed, die=False) == [0, 0]
    kept = expected.copy()
    kept[rows] += 1
    assert same(output, kept)
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5ad"]


def test_torchrun(ragged: tuple[Path, list[str]], folder: Path, expected: np.ndarray, tmp_path: Path) -> None:
    """As a user types it; the number of processes need not be said twice."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    typed = job(ragged, folder, tmp_path / "out.h5ad")
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "cellfm_torch.cli", "embed", *typed],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("110 cells: obsm['X_cellfm'] 32 wide") == 1
    assert same(tmp_path / "out.h5ad", expected)
