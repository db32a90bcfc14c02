"""Files that are made to harm: code that would run when they are read, gigabytes in kilobytes, other people's files."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pytest
import torch
from bombs import BOMBS, GENES, bomb
from formats import WRITERS
from harness import REFUSED, run
from jobs import small_job
from mutations import cells as made_cells

from cellfm_torch import CellFM, CellFMConfig, UserError, load_model
from cellfm_torch.cli import main
from cellfm_torch.data import store_shard, store_write
from cellfm_torch.data.files import Input
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.options import ReadOptions
from cellfm_torch.data.reader import read_cells
from cellfm_torch.data.store import Store
from cellfm_torch.data.store_table import StoreTable
from cellfm_torch.train import main as train


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The folder that is there when a bomb has gone off."""
    return tmp_path / "went-off"


@pytest.fixture
def cells() -> anndata.AnnData:
    return made_cells(GENES, np.random.default_rng(0))


@pytest.fixture
def store(cells: anndata.AnnData, tmp_path: Path) -> Path:
    cells.write_h5ad(tmp_path / "cells.h5ad")
    options = store_write.StoreOptions(read=ReadOptions(min_genes=1), shard_cells=16, block_cells=4)
    store_write.prepare([Input(tmp_path / "cells.h5ad")], tmp_path / "store", options, lambda *_: None)
    return tmp_path / "store"


def refuses(
    capsys: pytest.CaptureFixture[str], arguments: list[str], command: Callable[[list[str]], int] = main
) -> str:
    """Run a command that must end in one line; returns the line."""
    capsys.readouterr()
    assert command(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


def test_the_bombs_are_bombs(mark: Path) -> None:
    """A test of what did not go off shows nothing where it could not."""
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.is_dir()


def test_floods_end_in_one_line_within_two_gigabytes() -> None:
    outcomes = list(run(bomb, range(len(BOMBS))))
    assert [(outcome.what, outcome.verdict) for outcome in outcomes] == [(make.__name__, REFUSED) for make in BOMBS]


def test_checkpoint_of_a_run(tmp_path: Path, mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a colleague sends to go on with."""
    adata = made_cells(list(GeneVocab.bundled(24078).symbols[:300]), np.random.default_rng(0))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    job = small_job(tmp_path / "cells.h5ad", tmp_path / "run", "trainer.max_steps=2", "trainer.val_check_interval=1")
    job += ["data.min_genes=1"]
    assert train(job) == 0
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    longer = [*job, "trainer.max_steps=4", "resume=true"]
    hostile = io.BytesIO()
    torch.save(torch.load(last, weights_only=True) | {"hyper_parameters": Bomb(mark)}, hostile)
    for content, why in ((hostile.getvalue(), "it would run code"), (pickle.dumps(Bomb(mark)), "cut short")):
        for name in ("last.ckpt", "last.before.ckpt"):
            last.with_name(name).write_bytes(content)
        assert why in refuses(capsys, longer, train)
        assert not mark.exists()


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.pth", "model.safetensors"])
def test_conversion(name: str, tmp_path: Path, mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in (pickle.dumps(Bomb(mark)), _archived(Bomb(mark))):
        (tmp_path / name).write_bytes(content)
        assert name in refuses(capsys, ["convert", str(tmp_path / name)])
        assert not mark.exists()


def _archived(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"cell": {"config": content, "state_dict": {}}}, buffer)
    return buffer.getvalue()


def test_model_folder(tmp_path: Path, mark: Path) -> None:
    config = CellFMConfig.preset("tiny", num_layers=1, dim=16, num_heads=1, num_genes=30)
    CellFM(config, genes=[f"G{i}" for i in range(30)]).save_pretrained(tmp_path / "model")
    for content in (pickle.dumps(Bomb(mark)), _archived(Bomb(mark))):
        (tmp_path / "model" / "model.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="model.safetensors cannot be read"):
            load_model(tmp_path / "model")
    assert not mark.exists()


def test_recorded_outputs_beside_a_checkpoint(tmp_path: Path, mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The converter compares with NAME.npz where there is one."""
    parity = Path(__file__).resolve().parents[1] / "parity"
    shutil.copy(parity / "pretrain.ckpt", tmp_path)
    with np.load(parity / "pretrain.npz") as there:
        arrays = dict(there)
    np.savez(tmp_path / "pretrain.npz", **{name: np.array([Bomb(mark)], dtype=object) for name in arrays})
    (tmp_path / "genes.txt").write_text("".join(f"G{i}\n" for i in range(101)))
    arguments = [str(tmp_path / "pretrain.ckpt"), "--genes", str(tmp_path / "genes.txt"), "--num-heads", "4"]
    assert "pretrain.npz" in refuses(capsys, ["convert", *arguments])
    assert not mark.exists()


def test_store(store: Path, mark: Path) -> None:
    """Its shards have an index in the format of NumPy, which can hold pickled objects."""
    shard = sorted((store / "shards").iterdir())[0]
    data, tail = shard.read_bytes(), store_shard._TAIL
    start, _, _ = tail.unpack(data[-tail.size - len(store_shard.MAGIC) : -len(store_shard.MAGIC)])
    index = io.BytesIO()
    np.savez_compressed(index, ends=np.array([Bomb(mark)], dtype=object))
    packed = index.getvalue()
    end = tail.pack(start, len(packed), zlib.crc32(packed)) + store_shard.MAGIC
    shard.write_bytes(data[:start] + packed + end)
    found = Store(store)
    with pytest.raises(UserError, match=f"{shard.name}: is damaged"):
        StoreTable(found, GeneVocab(found.genes))
    assert not mark.exists()


def test_cells(cells: anndata.AnnData, tmp_path: Path, mark: Path) -> None:
    for name in ("cells.pkl", "cells.h5ad", "cells.csv", "cells.loom"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb(mark)))
        with pytest.raises(UserError, match=name):
            read_cells(tmp_path / name, GeneVocab(GENES), min_genes=1)
    # Bytes are bytes, whatever they would be as a pickle.
    path = WRITERS["h5ad csr"](cells, tmp_path)
    with h5py.File(path, "r+") as file:
        file["uns"]["x"] = np.void(pickle.dumps(Bomb(mark)))
        codes = file["obs"].create_dataset("x", shape=(30,), dtype=h5py.vlen_dtype(np.uint8))
        for i in range(30):
            codes[i] = np.frombuffer(pickle.dumps(Bomb(mark)), dtype=np.uint8)
        codes.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    try:
        read_cells(path, GeneVocab(GENES), min_genes=1)
    except UserError as refusal:
        assert path.name in str(refusal)
    assert not mark.exists()


def test_zarr_with_a_filter_that_unpickles(cells: anndata.AnnData, tmp_path: Path, mark: Path) -> None:
    path = tmp_path / "cells.zarr"
    with anndata.settings.override(zarr_write_format=2):
        cells.write_zarr(path)
    folder = path / "obs" / "_index"
    about = json.loads((folder / ".zarray").read_text()) | {"filters": [{"id": "pickle"}], "compressor": None}
    (folder / ".zarray").write_text(json.dumps(about))
    (path / ".zmetadata").unlink(missing_ok=True)
    for chunk in (file for file in folder.iterdir() if not file.name.startswith(".")):
        chunk.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(UserError, match="cells.zarr"):
        read_cells(path, GeneVocab(GENES), min_genes=1)
    assert not mark.exists()


def test_configuration_of_a_run(tmp_path: Path, mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for line in (f"seed: !!python/object/apply:os.mkdir ['{mark}']", "a: &a [1]\nb: [*a, *a]"):
        (run_dir / "config.yaml").write_text(f"{line}\n")
        said = refuses(capsys, ["+experiment=pretrain", f"run_dir={run_dir}", "resume=true"], train)
        assert "config.yaml: is damaged or was not written by a run" in said
    assert not mark.exists()


@pytest.mark.parametrize("how", ["link", "storage", "virtual"])
def test_h5ad_that_reads_another_file(how: str, cells: anndata.AnnData, tmp_path: Path) -> None:
    """A result would hold, and pass on, what is in a file that its user never gave."""
    path = WRITERS["h5ad csr"](cells, tmp_path)
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.arange(30)
    (tmp_path / "secret.bin").write_bytes(bytes(240))
    with h5py.File(path, "r+") as file:
        if how == "link":
            file["obs"]["x"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/x")
        elif how == "storage":
            outside = [(str(tmp_path / "secret.bin"), 0, 240)]
            file["obs"].create_dataset("x", shape=(30,), dtype="i8", external=outside)
        else:
            layout = h5py.VirtualLayout(shape=(30,), dtype="i8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "x", shape=(30,))
            file["obs"].create_virtual_dataset("x", layout)
        if how != "link":
            file["obs"]["x"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        file["obs"].attrs["column-order"] = np.array(["cell_type", "x"], dtype=object)
    with pytest.raises(UserError, match="obs/x is (a link to|kept in) another file, .*secret"):
        read_cells(path, GeneVocab(GENES), min_genes=1)


def test_zarr_with_a_link_out_of_it(cells: anndata.AnnData, tmp_path: Path) -> None:
    path = tmp_path / "cells.zarr"
    cells.write_zarr(path)
    assert len(read_cells(path, GeneVocab(GENES), min_genes=1)) == 30
    chunk = next(
        file for file in (path / "obs").rglob("*") if file.is_file() and not file.name.startswith((".", "zarr"))
    )
    shutil.move(chunk, tmp_path / "secret")
    chunk.symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="is a link out of .*zarr"):
        read_cells(path, GeneVocab(GENES), min_genes=1)


def test_zipped_zarr_with_a_member_outside(cells: anndata.AnnData, tmp_path: Path) -> None:
    """Nothing is ever unpacked to the disk."""
    cells.write_zarr(tmp_path / "cells.zarr")
    path = tmp_path / "inside" / "cells.zarr.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((tmp_path / "cells.zarr").rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(tmp_path / "cells.zarr"))
        archive.writestr("../outside", "x")
        archive.writestr("/outside", "x")
    assert len(read_cells(path, GeneVocab(GENES), min_genes=1)) == 30
    assert not (tmp_path / "outside").exists() and not Path("/outside").exists()


def test_store_with_links_and_paths_out_of_it(store: Path, tmp_path: Path) -> None:
    shard = sorted((store / "shards").iterdir())[0]
    shutil.move(shard, tmp_path / "secret")
    shard.symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="is a link out of .*: put the file"):
        Store(store)
    listed = store / "manifest.jsonl"
    lines = [json.loads(line.partition(b" ")[2]) for line in listed.read_bytes().splitlines()]
    for name in ("../../secret", "/etc/passwd", "..", "a/b", ""):
        lines[-1]["shards"][0]["file"] = name
        texts = [json.dumps(line) for line in lines]
        listed.write_text("".join(f"{zlib.crc32(text.encode()):08x} {text}\n" for text in texts))
        with pytest.raises(UserError, match=f"line {len(lines)}: file is not what cellfm prepare writes there"):
            Store(store)
