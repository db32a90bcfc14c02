"""embed(): the right numbers in the right rows, whatever the batch, order, format and number of processes.

Shapes: n = 24 cells, of which the third is empty and the fifth has few genes.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from cellfm_torch import CellDataModule, CellFM, CellFMConfig, ScFoundation, ScFoundationConfig, UserError, embed
from cellfm_torch.data.fingerprint import checksum
from cellfm_torch.embedding.compute import Halving
from cellfm_torch.embedding.parts import FolderParts
from cellfm_torch.paths import PBMC3K

CELLS, EMPTY, FEW = 24, 2, 4


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells with everything an AnnData may have besides counts."""
    adata = anndata.read_h5ad(PBMC3K)[:CELLS].copy()
    counts = adata.X.tolil()
    counts[EMPTY] = 0
    few = np.flatnonzero(adata.X[FEW].toarray()[0])[8:]
    counts[FEW, few] = 0
    adata.X = counts.tocsr()
    adata.layers["twice"] = adata.X * 2
    adata.obsm["X_pca"] = np.arange(2 * CELLS, dtype=np.float32).reshape(CELLS, 2)
    adata.uns["kept"] = {"a": 1}
    adata.obs["kind"] = pd.Categorical(["a", "b"] * (CELLS // 2))
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model"
    CellFM(CellFMConfig.preset("tiny", num_layers=2, dim=64, num_heads=2)).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def expected(cells: Path, folder: Path) -> np.ndarray:
    """By the plain path, one cell at a time."""
    network = CellFM.from_pretrained(folder).eval()
    data = CellDataModule(cells, input_spec=network.input_spec, min_genes=1, token_budget=9000, verbose=False)
    found = np.full((CELLS, 64), np.nan, np.float32)
    rows = [row for row in range(CELLS) if row != EMPTY]
    with torch.no_grad():
        for i, row in enumerate(rows):
            data.predict_rows = np.array([i])
            (batch,) = data.predict_dataloader()
            found[row] = network.encode(batch).cell[0].numpy()
    return found


def same(found: Any, expected: np.ndarray) -> bool:
    """Equal, with NaN in the same places; 1e-5 of the mean magnitude is the project's bar for other batches."""
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    return bool(np.nanmax(np.abs(found - expected)) < 1e-5 * np.nanmean(np.abs(expected)))


def test_in_memory(cells: Path, folder: Path, expected: np.ndarray) -> None:
    adata = anndata.read_h5ad(cells)
    before = adata.copy()
    found = embed(adata, folder, verbose=False)
    assert found is adata and same(adata.obsm["X_cellfm"], expected)
    assert adata.obs["cellfm_warning"].tolist() == [
        {EMPTY: "no counts in the model's genes", FEW: "fewer than 10 genes"}.get(i, "") for i in range(CELLS)
    ]
    assert adata.obs["cellfm_genes"].iloc[[EMPTY, FEW]].tolist()[0] == 0 and adata.obs["cellfm_genes"].iloc[FEW] <= 8
    pd.testing.assert_frame_equal(adata.obs[before.obs.columns], before.obs)
    np.testing.assert_array_equal(adata.X.toarray(), before.X.toarray())
    record = adata.uns["cellfm"]
    assert record["model"]["weights_sha256"] == checksum(folder / "model.safetensors")
    assert record["genes"]["AnnData"]["matched"] > 15_000 and json.loads(record["options"])["int8"] is False


def test_file_to_file_keeps_everything(cells: Path, folder: Path, expected: np.ndarray, tmp_path: Path) -> None:
    found = embed(cells, folder, output=tmp_path / "out.h5ad", verbose=False)
    assert found.isbacked
    found.file.close()
    adata, before = anndata.read_h5ad(tmp_path / "out.h5ad"), anndata.read_h5ad(cells)
    assert same(adata.obsm["X_cellfm"], expected)
    pd.testing.assert_frame_equal(adata.obs[before.obs.columns], before.obs)
    pd.testing.assert_frame_equal(adata.var, before.var)
    np.testing.assert_array_equal(adata.layers["twice"].toarray(), before.layers["twice"].toarray())
    np.testing.assert_array_equal(adata.obsm["X_pca"], before.obsm["X_pca"])
    assert adata.uns["kept"] == {"a": 1} and adata.obs["cellfm_warning"].cat.categories[0] == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5ad"]


def test_a_file_is_read_once(cells: Path, folder: Path, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellfm_torch.data.source.open_file", None)  # what reads counts from files
    adata = embed(cells, folder, verbose=False)
    assert same(adata.obsm["X_cellfm"], expected)
    assert adata.uns["cellfm"]["genes"].keys() == {"cells.h5ad"}


def test_whatever_the_batch_and_the_order(cells: Path, folder: Path, expected: np.ndarray) -> None:
    order = np.random.default_rng(0).permutation(CELLS)
    adata = anndata.read_h5ad(cells)[order].copy()
    assert same(embed(adata, folder, token_budget=2500, verbose=False).obsm["X_cellfm"], expected[order])


def test_streamed_and_other_formats(cells: Path, folder: Path, expected: np.ndarray, tmp_path: Path) -> None:
    streamed = embed(cells, folder, stream=True, output=tmp_path / "streamed.h5ad", verbose=False)
    assert same(streamed.obsm["X_cellfm"], expected)
    streamed.file.close()
    adata = anndata.read_h5ad(cells)
    frame = pd.DataFrame(adata.X.toarray().astype(int), index=adata.obs_names, columns=adata.var_names)
    frame.to_csv(tmp_path / "cells.csv")
    from_csv = embed(tmp_path / "cells.csv", folder, output=tmp_path / "csv.h5ad", verbose=False)
    assert from_csv.obs_names.tolist() == adata.obs_names.tolist() and same(from_csv.obsm["X_cellfm"], expected)
    from_csv.file.close()
    adata.X = sp.csc_matrix(adata.X)
    assert same(embed(adata, folder, verbose=False).obsm["X_cellfm"], expected)


def test_other_outputs(cells: Path, folder: Path) -> None:
    """Mean, maximum and layers against the network's own encoding."""
    network = CellFM.from_pretrained(folder)
    network.train()
    adata = embed(cells, network, outputs=("cell", "mean", "max", "layer1", "layer2"), verbose=False)
    assert network.training
    data = CellDataModule(cells, input_spec=network.input_spec, min_genes=1, token_budget=10**6, verbose=False)
    (batch,) = data.predict_dataloader()
    with torch.no_grad():
        genes = network.eval().encode(batch).genes.split(batch.lengths.tolist())
    rows = [row for row in range(CELLS) if row != EMPTY]
    for name, expected in (
        ("mean", torch.stack([x.mean(0) for x in genes])),
        ("max", torch.stack([x.amax(0) for x in genes])),
    ):
        assert same(adata.obsm[f"X_cellfm_{name}"][rows], expected.numpy()), name
    assert same(adata.obsm["X_cellfm_layer2"], adata.obsm["X_cellfm"])
    assert not same(adata.obsm["X_cellfm_layer1"], adata.obsm["X_cellfm"])


def test_scfoundation(cells: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ScFoundation(ScFoundationConfig.preset("scfoundation-tiny")).save_pretrained(tmp_path / "scf")
    adata = embed(cells, tmp_path / "scf", verbose=False)
    assert adata.obsm["X_cellfm"].shape[0] == CELLS and adata.uns["cellfm"]["model"]["kind"] == "ScFoundation"
    assert np.isnan(adata.obsm["X_cellfm"]).all(axis=1).tolist() == [i == EMPTY for i in range(CELLS)]


def test_memory_that_does_not_suffice(cells: Path, folder: Path, expected: np.ndarray) -> None:
    """A device that holds 3,000 tokens: batches are halved, nothing is lost, and one cell too many is said so."""
    network = CellFM.from_pretrained(folder).eval()
    (batch,) = CellDataModule(
        cells, input_spec=network.input_spec, min_genes=1, token_budget=10**6, verbose=False
    ).predict_dataloader()

    def small_device(limit: int) -> Any:
        def run(piece: Any) -> torch.Tensor:
            if piece.num_genes > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return network.embedder()(piece)

        return Halving({"cell": run})

    with pytest.warns(UserWarning, match="out of memory with .* gene tokens: going on with"):
        found = small_device(3000)(batch)["cell"]
    assert same(found.numpy(), expected[[i for i in range(CELLS) if i != EMPTY]])
    with pytest.warns(UserWarning, match="out of memory"), pytest.raises(UserError, match=r"the [\d,]+ genes of cell"):
        small_device(500)(batch)
    with pytest.raises(RuntimeError, match="a mistake"):
        Halving({"cell": lambda _: (_ for _ in ()).throw(RuntimeError("a mistake"))})(batch)


def test_goes_on_where_it_stopped(
    cells: Path, folder: Path, expected: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was kept is not computed again, what was damaged is, and another job does not take it over."""
    monkeypatch.setattr("cellfm_torch.embedding.callbacks.PART_BYTES", 1)
    output, seen = tmp_path / "out.h5ad", []
    plain = Halving.__call__

    def interrupted(self: Halving, batch: Any) -> Any:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(batch.cell_index.tolist())
        return plain(self, batch)

    options: dict[str, Any] = {"output": output, "token_budget": 2500, "verbose": False}
    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, SystemExit)):
        patch.setattr(Halving, "__call__", interrupted)
        embed(cells, folder, **options)
    parts = sorted((tmp_path / "out.h5ad.parts").glob("*.npz"))
    assert len(parts) == 3 and not output.exists()
    with pytest.raises(UserError, match="another options: give the same options to go on with it, or overwrite=true"):
        embed(cells, folder, sample_genes=300, **options)
    parts[1].write_bytes(parts[1].read_bytes()[:-30])
    again: list[int] = []

    def watched(self: Halving, batch: Any) -> Any:
        again.extend(batch.cell_index.tolist())
        return plain(self, batch)

    monkeypatch.setattr(Halving, "__call__", watched)
    found = embed(cells, folder, **options)
    assert same(found.obsm["X_cellfm"], expected)
    found.file.close()
    assert sorted([*again, *seen[0], *seen[2]]) == [i for i in range(CELLS) if i != EMPTY]
    assert not (tmp_path / "out.h5ad.parts").exists()


def test_killed_command_goes_on(cells: Path, folder: Path, expected: np.ndarray, tmp_path: Path) -> None:
    """SIGKILL at the first part, in another process; the same command ends it, with two processes this time."""
    output = tmp_path / "out.h5ad"
    start = "import cellfm_torch.embedding.callbacks as c; c.PART_BYTES = 1; import sys, time; "
    slow = (
        "from cellfm_torch.embedding.compute import Halving; call = Halving.__call__; "
        "Halving.__call__ = lambda self, batch: (time.sleep(0.3), call(self, batch))[1]; "
    )
    typed = [f"cells={cells}", f"model_folder={folder}", f"output={output}", "token_budget=2500", "accelerator=cpu"]
    run = "from cellfm_torch.commands.embed import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", start + slow + run, *typed], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("out.h5ad.parts/*.npz")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    command = [sys.executable, "-m", "cellfm_torch.commands.embed", *typed, "devices=2", "strategy=ddp"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert re.search(r"gene tokens: about .* GB free\); \d+ cells are done already", done.stdout)
    assert "1 cells with no counts in the model's genes" in done.stdout
    assert same(anndata.read_h5ad(output).obsm["X_cellfm"], expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5ad"]


def test_refusals(cells: Path, folder: Path, tmp_path: Path) -> None:
    adata = anndata.read_h5ad(cells)
    (tmp_path / "there.h5ad").write_text("mine")
    (tmp_path / "two.h5ad").write_bytes(cells.read_bytes())
    for given, options, says in (
        (cells, {"outputs": "cel"}, r"outputs=cel: this CellFM has cell, mean, .*did you mean 'cell'"),
        (cells, {"output": tmp_path / "there.h5ad"}, "exists already: choose another output, or set overwrite=true"),
        (cells, {"output": tmp_path / "out.csv"}, "the name must end in .h5ad"),
        (cells, {"min_genes": 200}, "min_genes: embedding keeps all cells"),
        (cells, {"devices": 2}, "devices=2: takes an output file"),
        (adata, {"output": tmp_path / "out.h5ad"}, "output: is for cells in a file"),
        (tmp_path / "*.h5ad", {}, r"give one file of cells, not 2 \(.*there.h5ad, .*two.h5ad\)"),
        (adata[[EMPTY]].copy(), {}, "cells are empty|none of its 1 cells"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            embed(given, folder, verbose=False, **options)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="config.json"):
        embed(cells, tmp_path, verbose=False)
    assert (tmp_path / "there.h5ad").read_text() == "mine" and not list(tmp_path.glob("*.parts"))


def test_folder_that_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is in the way"):
        FolderParts(tmp_path / "parts", {"a": 1})
    assert (tmp_path / "parts" / "thesis.txt").exists()
