"""Other ways to load the cells of an h5ad file, for ``benchmarks/loader.py``; each yields the cells of its batches.

They give raw rows, without a vocabulary, masks or values, so they have less to do than what they stand beside; only the
route cell by cell makes what the model eats. annbatch needs Python 3.12 and is run by another interpreter, as
``python benchmarks/loader_peers.py FILE FOLDER SECONDS``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

LENGTH, ROWS = 2048, 64
"""Genes of a padded cell, and cells of a peer's batch."""

WARM = 1.0
"""Seconds before the clock starts, so that neither what is loaded once nor the first fetch counts."""


def rate(make: Callable[[], Iterator[int]], seconds: float) -> float:
    """Return cells per second."""
    cells, started, began = 0, time.perf_counter(), None
    for number in make():
        now = time.perf_counter()
        if began is None:
            if now - started > WARM:
                began = now
            continue
        cells += number
        if now - began > seconds:
            break
    assert began is not None, "all cells were gone before the clock started"
    return cells / (time.perf_counter() - began)


def cell_by_cell(cells: Any) -> Iterator[int]:
    """Make model input in a loop over shuffled cells in memory, padded, stacked 16 at a time."""
    import torch

    rng, batch = np.random.default_rng(0), []
    while True:
        for row in rng.permutation(len(cells)):
            own = slice(cells.counts.indptr[row], cells.counts.indptr[row + 1])
            genes, counts = cells.counts.indices[own] + 1, cells.counts.data[own]
            seen = np.maximum(1, rng.binomial(counts, rng.beta(2, 2))) if rng.random() < 0.5 else counts
            if len(genes) > LENGTH:
                weight = np.log1p(seen)
                kept = rng.choice(len(genes), LENGTH, replace=False, p=weight / weight.sum())
                genes, counts, seen = genes[kept], counts[kept], seen[kept]
            value, wanted = np.log1p(seen / seen.sum() * 1e4), np.log1p(counts / counts.sum() * 1e4)
            target = rng.choice(len(genes), max(1, len(genes) // 5), replace=False)
            hidden = np.zeros(LENGTH, dtype=bool)
            hidden[target[: max(1, len(target) * 4 // 5)]] = True
            pad = (0, LENGTH - len(genes))
            padded = [np.pad(x, pad).astype(np.float32) for x in (value, wanted)]
            batch.append((np.pad(genes, pad).astype(np.int64), *padded, hidden))
            if len(batch) == 16:
                [torch.from_numpy(np.stack(part)) for part in zip(*batch, strict=True)]
                yield len(batch)
                batch = []


def ann_loader(file: Path) -> Iterator[int]:
    """Shuffled batches with anndata's AnnLoader, of a file that is open and not in memory."""
    import anndata
    from anndata.experimental import AnnLoader

    while True:
        for batch in AnnLoader(anndata.read_h5ad(file, backed="r"), batch_size=ROWS, shuffle=True):
            yield batch.X.shape[0]


def _picked(rows: Any, index: np.ndarray) -> Any:
    return rows[np.sort(index)].X


def sc_dataset(file: Path, workers: int) -> Iterator[int]:
    """Blocks of 64 rows and 256 blocks in a fetch, as ours, with scDataset."""
    import anndata
    import torch
    from scdataset import BlockShuffling, scDataset

    backed = anndata.read_h5ad(file, backed="r")
    dataset = scDataset(
        backed, BlockShuffling(block_size=64), batch_size=ROWS, fetch_factor=256, fetch_callback=_picked
    )
    while True:
        for batch in torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers):
            yield batch.shape[0]


def scdl(folder: Path, workers: int) -> Iterator[int]:
    """Shuffled batches of the memory-mapped arrays that BioNeMo-SCDL made of the file."""
    import torch
    from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset
    from bionemo.scdl.util.torch_dataloader_utils import collate_sparse_matrix_batch

    dataset = SingleCellMemMapDataset(str(folder))
    options = {"batch_size": ROWS, "shuffle": True, "num_workers": workers}
    while True:
        for batch in torch.utils.data.DataLoader(dataset, collate_fn=collate_sparse_matrix_batch, **options):
            yield batch.shape[0]


def make_scdl(file: Path, folder: Path) -> float:
    """Convert the file for SCDL; returns the seconds."""
    from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset

    began = time.perf_counter()
    SingleCellMemMapDataset(str(folder), h5ad_path=str(file), use_X_not_raw=True)
    return time.perf_counter() - began


def with_annbatch(python: str, file: Path, folder: Path, seconds: float) -> dict[str, float]:
    """Measure annbatch in another interpreter, on the cores of this process."""
    command = [python, __file__, str(file), str(folder), str(seconds)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise ImportError(done.stderr.strip().splitlines()[-1])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure_annbatch(file: Path, folder: Path, seconds: float) -> dict[str, float]:
    """Convert the file where that is not done, and load it: 64 neighbours stay together, 256 of these in a fetch."""
    import warnings

    import zarr
    from annbatch import DatasetCollection, Loader

    warnings.simplefilter("ignore")
    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    found = {}
    collection = DatasetCollection(str(folder))
    if collection.is_empty:
        began = time.perf_counter()
        collection.add_adatas([str(file)])
        found["conversion, seconds"] = time.perf_counter() - began

    def batches() -> Iterator[int]:
        loader = Loader(batch_size=ROWS, chunk_size=64, preload_nchunks=256, to=None, preload_to_gpu=False)
        loader = loader.use_collection(collection)
        while True:
            for batch in loader:
                yield batch["X"].shape[0]

    return found | {"cells per second": rate(batches, seconds)}


if __name__ == "__main__":
    print(json.dumps(measure_annbatch(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))))
