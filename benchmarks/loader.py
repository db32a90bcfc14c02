"""Loading and preparing cells, beside other loaders and a route cell by cell: ``python benchmarks/loader.py``.

The cells are those of PBMC3k, repeated in another order per file. Every loader runs in this process, in turns, on the
same cells, after a check that the batches hold the counts of the file. scDataset and AnnLoader give raw rows without
masks or values, so they have less to do; the route cell by cell makes what the model eats, padded, as the official
pipeline is described (sample, normalise, mask and pad each cell in numpy).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import anndata  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from cellfm_torch import CellDataModule, GeneVocab, InputSpec  # noqa: E402
from cellfm_torch.data.files import Input  # noqa: E402
from cellfm_torch.data.options import ReadOptions  # noqa: E402
from cellfm_torch.data.store import Store  # noqa: E402
from cellfm_torch.data.store_write import StoreOptions, prepare  # noqa: E402
from cellfm_torch.paths import PBMC3K  # noqa: E402

VOCAB = GeneVocab.bundled(27855)
SPEC = InputSpec(genes=VOCAB.symbols, read_depth=True)
LENGTH = 2048


def make_files(folder: Path, number: int) -> list[Path]:
    """Compressed h5ad files of 8 x 2,700 cells, sorted by type: the worst case for a shuffle of blocks."""
    adata, files = anndata.read_h5ad(PBMC3K), []
    for i in range(number):
        rows = np.tile(np.arange(adata.n_obs), 8)
        types = adata.obs["cell_type"].cat.codes.to_numpy()[rows]
        rows = rows[np.lexsort((np.random.default_rng(i).random(len(rows)), types))]
        made = adata[rows].copy()
        made.obs_names = [f"{i}_{k}" for k in range(len(rows))]
        files.append(folder / f"cells{i:03}.h5ad")
        made.write_h5ad(files[-1], compression="gzip")
    return files


def module(path: Any, workers: int) -> CellDataModule:
    return CellDataModule(
        path, input_spec=SPEC, min_genes=10, downsample=True, val_fraction=0.02, num_workers=workers, label="cell_type"
    )


def ours(data: CellDataModule) -> Iterator[int]:
    """Cells of each batch, ready as CellBatch: downsampled, sampled, normalised, masked, packed."""
    loader = data.train_dataloader()
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            yield batch.num_cells


def cell_by_cell(data: CellDataModule) -> Iterator[int]:
    """Make the same numbers in a loop over shuffled cells in memory, padded to 2,048, stacked 16 at a time."""
    cells, rng, batch = data.cells, np.random.default_rng(0), []
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
    """Read the file, backed, with AnnLoader: shuffled batches of 64 rows."""
    from anndata.experimental import AnnLoader

    for batch in AnnLoader(anndata.read_h5ad(file, backed="r"), batch_size=64, shuffle=True):
        yield batch.X.shape[0]


def sc_dataset(file: Path) -> Iterator[int]:
    """Read the file, backed, with scDataset: blocks of 64 rows and 256 blocks in a fetch, as ours."""
    from scdataset import BlockShuffling, scDataset

    backed = anndata.read_h5ad(file, backed="r")
    dataset = scDataset(
        backed,
        BlockShuffling(block_size=64),
        batch_size=64,
        fetch_factor=256,
        fetch_callback=lambda rows, index: rows[np.sort(index)].X,
    )
    for batch in torch.utils.data.DataLoader(dataset, batch_size=None):
        yield batch.shape[0]


def rate(make: Callable[[], Iterator[int]], seconds: float) -> float:
    """Cells per second once the first batch is there."""
    batches = make()
    next(batches)
    cells, began = 0, time.perf_counter()
    for number in batches:
        cells += number
        if time.perf_counter() - began > seconds:
            break
    return cells / (time.perf_counter() - began)


def entropy(labels: np.ndarray, size: int) -> float:
    """Mean entropy (bits) of the labels in runs of `size` cells."""
    runs = labels[: len(labels) // size * size].reshape(-1, size)
    share = np.stack([(runs == k).mean(1) for k in range(labels.max() + 1)])
    logs = np.log2(share, where=share > 0, out=np.zeros_like(share))
    return float(-(share * logs).sum(0).mean())


def mixing(data: CellDataModule, size: int) -> dict[str, float]:
    """Label entropy of minibatches: as loaded, of a true shuffle, and in the order of the files."""
    loader = data.train_dataloader()
    epoch = loader.sampler.order.epoch(0)
    order = np.concatenate([loader.sampler.order.cells(epoch, g)[0] for g in range(len(epoch.fetches) - 1)])
    labels = loader.dataset.labels[loader.dataset.rows]
    true = np.random.default_rng(0).permutation(labels)
    return {
        "loaded": entropy(labels[order], size),
        "true shuffle": entropy(true, size),
        "file order": entropy(labels, size),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=8, help="of 21,600 cells each")
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = make_files(folder, options.files)
        began = time.perf_counter()
        outcome = prepare(
            [Input(file) for file in files], folder / "store", StoreOptions(read=ReadOptions()), lambda *_: None
        )
        seconds = time.perf_counter() - began
        store = Store(folder / "store")
        result: dict[str, Any] = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores; torch {torch.__version__}",
            "load before": os.getloadavg()[0],
            "cells": len(store),
            "prepare, cells per second": len(store) / seconds,
            "bytes per cell": sum(s["bytes"] for e in outcome.added for s in e["shards"]) / len(store),
            "bytes per cell of the h5ad": sum(file.stat().st_size for file in files) / len(store),
        }
        routes: dict[str, Callable[[], Iterator[int]]] = {
            f"store, {workers} threads": lambda workers=workers: ours(module(store.path, workers))
            for workers in (0, 1, 2)
        }
        in_memory = module(files[0], 0)
        in_memory.setup("predict")
        routes |= {
            "h5ad in memory": lambda: ours(in_memory),
            "cell by cell (official route)": lambda: cell_by_cell(in_memory),
            "AnnLoader": lambda: ann_loader(files[0]),
            "scDataset": lambda: sc_dataset(files[0]),
        }
        rates: dict[str, list[float]] = {}
        for _ in range(options.turns):
            for route, make in routes.items():
                try:
                    rates.setdefault(route, []).append(rate(make, options.seconds))
                except ImportError as missing:
                    result[f"not measured: {route}"] = str(missing)
        result["cells_per_second"] = rates
        result["ratio_to_peer"] = max(rates["store, 0 threads"]) / max(rates["cell by cell (official route)"])
        result["label entropy, 64 cells"] = mixing(module(store.path, 0), 64)
        result["peak memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(result, indent=1))
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
