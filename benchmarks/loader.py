"""Loading and preparing cells, beside other loaders: ``python benchmarks/loader.py [--cells N] [--cores 1,2]``.

The cells are those of PBMC3k, repeated in another order and sorted by type, in one compressed h5ad file and in a store
made of the same cells. Every loader runs in this process, in turns, after a check that ours gives the counts of the
file. Ours gives batches as the model eats them: downsampled, sampled, normalised, masked, packed. Files are in the
system's cache.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import anndata  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks import loader_peers as peers  # noqa: E402
from benchmarks.loader_peers import rate  # noqa: E402
from benchmarks.machine import hardware_slug, machine, versions  # noqa: E402
from benchmarks.report import RESULTS, stem_of  # noqa: E402
from cellfm_torch import CellDataModule, GeneVocab, InputSpec  # noqa: E402
from cellfm_torch.data.files import Input  # noqa: E402
from cellfm_torch.data.options import ReadOptions  # noqa: E402
from cellfm_torch.data.store_write import StoreOptions, prepare  # noqa: E402
from cellfm_torch.paths import PBMC3K  # noqa: E402

VOCAB = GeneVocab.bundled(27855)
PACKAGES = ("cellfm_torch", "torch", "numpy", "numba", "h5py", "anndata", "scDataset", "bionemo-scdl")
SPEC = InputSpec(genes=VOCAB.symbols, read_depth=True)


def write_cells(file: Path, cells: int, seed: int) -> Path:
    """Write a compressed h5ad file of so many cells, sorted by type: the worst case for a shuffle of blocks."""
    adata = anndata.read_h5ad(PBMC3K)
    rows = np.resize(np.arange(adata.n_obs), cells)
    types = adata.obs["cell_type"].cat.codes.to_numpy()[rows]
    rows = rows[np.lexsort((np.random.default_rng(seed).random(len(rows)), types))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names of cells, which are replaced
        made = adata[rows].copy()
    made.obs_names = [f"{seed}_{k}" for k in range(len(rows))]
    made.write_h5ad(file, compression="gzip")
    return file


def module(path: Any, workers: int, **options: Any) -> CellDataModule:
    """Our loader."""
    options = {"downsample": True, "val_fraction": 0.02, "label": "cell_type"} | options
    return CellDataModule(path, input_spec=SPEC, min_genes=10, num_workers=workers, **options)


def ours(data: CellDataModule) -> Iterator[int]:
    """Cells of each batch, epoch after epoch."""
    loader = data.train_dataloader()
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            yield batch.num_cells


def rows_only(data: CellDataModule) -> Iterator[int]:
    """Cells read and decompressed, which is all that the other loaders do."""
    loader = data.train_dataloader()
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)
        for plan in loader.sampler:
            loader.dataset.fetch(plan.cells)
            yield len(plan.cells)


def check(store: Path, file: Path) -> None:
    """Refuse to measure where streamed and stored cells are not those of the file in memory."""
    kinds = {"held": (file, {"stream": False}), "streamed": (file, {"stream": True}), "store": (store, {})}
    sums = {}
    for kind, (path, options) in kinds.items():
        batches = list(module(path, 0, **options).predict_dataloader())
        counts = torch.cat([batch.read_depth[:, 1] for batch in batches])
        sums[kind] = counts.double() * 1e5 + torch.cat([batch.lengths for batch in batches])
    assert torch.equal(sums["held"], sums["streamed"]), "a streamed file gives other cells than the same file in memory"
    # The store has the same cells from two files, in another order.
    assert torch.equal(sums["held"].sort()[0], sums["store"].sort()[0]), "the store holds other cells"


def entropy(labels: np.ndarray, size: int) -> float:
    """Mean entropy (bits) of the labels in runs of `size` cells."""
    runs = labels[: len(labels) // size * size].reshape(-1, size)
    share = np.stack([(runs == k).mean(1) for k in range(labels.max() + 1)])
    logs = np.log2(share, where=share > 0, out=np.zeros_like(share))
    return float(-(share * logs).sum(0).mean())


def mixing(data: CellDataModule, size: int = 64) -> dict[str, float]:
    """Label entropy of minibatches: as loaded, of a true shuffle, and in the order of the file."""
    loader = data.train_dataloader()
    epoch = loader.sampler.order.epoch(0)
    order = np.concatenate([loader.sampler.order.cells(epoch, g)[0] for g in range(len(epoch.fetches) - 1)])
    labels = loader.dataset.labels[loader.dataset.rows]
    true = np.random.default_rng(0).permutation(labels)
    return {
        "as loaded": entropy(labels[order], size),
        "true shuffle": entropy(true, size),
        "file order": entropy(labels, size),
    }


def measure_prepare(halves: Sequence[Path], folder: Path, processes: int) -> dict[str, float]:
    """Make a store of two files."""
    options = StoreOptions(read=ReadOptions(), processes=processes)
    began = time.perf_counter()
    outcome = prepare([Input(file) for file in halves], folder, options, lambda *_: None)
    seconds, cells = time.perf_counter() - began, sum(entry["cells"] for entry in outcome.added)
    stored = sum(shard["bytes"] for entry in outcome.added for shard in entry["shards"])
    return {"cells per second": cells / seconds, "bytes per cell": stored / cells}


def routes_of(file: Path, folder: Path, cores: int) -> dict[str, Callable[[], Iterator[int]]]:
    """Every way to load, on so many cores: threads of ours, processes of PyTorch's loaders."""
    workers = 0 if cores == 1 else cores
    store, streamed = module(folder / "store", workers), module(file, workers, stream=True)
    held = module(file, workers, stream=False)
    for data in (store, streamed, held):
        data.setup("predict")
    return {
        "store": lambda: ours(store),
        "h5ad, streamed": lambda: ours(streamed),
        "h5ad, in memory": lambda: ours(held),
        "cell by cell, in memory": lambda: peers.cell_by_cell(held.cells),
        "store, rows only (one thread)": lambda: rows_only(store),
        "h5ad, streamed, rows only (one thread)": lambda: rows_only(streamed),
        "AnnLoader, h5ad on disk (one process)": lambda: peers.ann_loader(file),
        "scDataset, h5ad on disk": lambda: peers.sc_dataset(file, workers),
        "BioNeMo-SCDL, its own format": lambda: peers.scdl(folder / "scdl", workers),
    }


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run everything."""
    found: dict[str, Any] = {
        "machine": machine() | versions(PACKAGES),
        "load before": os.getloadavg()[0],
        "cells": options.cells,
    }
    file = write_cells(folder / "cells.h5ad", options.cells, 0)
    halves = [write_cells(folder / f"half{i}.h5ad", options.cells // 2, i) for i in (1, 2)]
    prepare([Input(halves[0])], folder / "warm", StoreOptions(), lambda *_: None)
    found["prepare"] = {}
    for i, n in enumerate(options.cores):
        made = measure_prepare(halves, folder / (f"store{n}" if i else "store"), n)
        found["prepare"][f"{n} process{'es' * (n > 1)}"] = made
    found["bytes per cell of the h5ad"] = file.stat().st_size / options.cells
    check(folder / "store", file)
    found["label entropy of 64 cells, bits"] = {
        "store": mixing(module(folder / "store", 0)),
        "h5ad, streamed": mixing(module(file, 0, stream=True)),
    }
    missing: dict[str, str] = {}
    try:
        found["conversion by BioNeMo-SCDL, cells per second"] = options.cells / peers.make_scdl(file, folder / "scdl")
    except ImportError as error:
        missing["BioNeMo-SCDL"] = str(error)
    found["cells per second"] = {}
    for cores in options.cores:
        os.sched_setaffinity(0, range(cores))
        routes = routes_of(file, folder, cores)
        rates: dict[str, list[float]] = {}
        for _ in range(options.turns):
            for route, make in routes.items():
                if route.split(",")[0] in missing:
                    continue
                try:
                    rates.setdefault(route, []).append(rate(make, options.seconds))
                except ImportError as error:
                    missing[route.split(",")[0]] = str(error)
            if options.annbatch and "annbatch" not in missing:
                try:
                    said = peers.with_annbatch(options.annbatch, file, folder / "annbatch", options.seconds)
                except ImportError as error:
                    missing["annbatch"] = str(error)
                    continue
                rates.setdefault("annbatch, its own format", []).append(said.pop("cells per second"))
                for seconds in said.values():
                    found["conversion by annbatch, cells per second"] = options.cells / seconds
        found["cells per second"][f"{cores} core{'s' * (cores > 1)}"] = {
            route: each for route, each in rates.items() if each
        }
    for name in ("scdl", "annbatch"):
        if files := [path for path in (folder / name).rglob("*") if path.is_file()]:
            found[f"bytes per cell, {name}"] = sum(path.stat().st_size for path in files) / options.cells
    first = next(iter(found["cells per second"].values()))
    found["cells_per_second"] = float(np.median(first["store"]))
    found["ratio_to_peer"] = float(np.median(np.divide(first["store"], first["cell by cell, in memory"])))
    found["not measured"] = missing
    found["peak memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return found


def table(found: dict[str, Any]) -> str:
    """Say it in Markdown."""
    cores = list(found["cells per second"])
    lines = [
        f"# Loading {found['cells']:,} cells",
        "",
        f"{found['machine']['processor']}, {found['machine']['cores']} cores, load before: {found['load before']:.1f}. "
        "Cells per second, median of the "
        f"turns. The first four are ready for the model; the others give rows of counts only.",
        "",
        f"| | {' | '.join(cores)} |",
        f"|---|{'---|' * len(cores)}",
    ]
    for route in dict.fromkeys(route for each in found["cells per second"].values() for route in each):
        row = [found["cells per second"][core].get(route) for core in cores]
        lines.append(f"| {route} | {' | '.join(f'{np.median(r):,.0f}' if r else '-' for r in row)} |")
    for kind, made in found["prepare"].items():
        lines += ["", f"`cellfm prepare`, {kind}: {made['cells per second']:,.0f} cells/s, "]
        lines[-1] += (
            f"{made['bytes per cell']:,.0f} bytes per cell (the h5ad: {found['bytes per cell of the h5ad']:,.0f})."
        )
    for name in ("BioNeMo-SCDL", "annbatch"):
        if (speed := found.get(f"conversion by {name}, cells per second")) is not None:
            size = found[f"bytes per cell, {'scdl' if name == 'BioNeMo-SCDL' else name}"]
            lines += ["", f"Conversion by {name}: {speed:,.0f} cells/s, {size:,.0f} bytes per cell."]
    for kind, bits in found["label entropy of 64 cells, bits"].items():
        lines += ["", f"Label entropy of 64 cells, {kind}: " + ", ".join(f"{k} {v:.3f}" for k, v in bits.items()) + "."]
    for name, why in found["not measured"].items():
        lines += ["", f"Not measured: {name} ({why})."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=86_400)
    parser.add_argument("--cores", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2])
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--annbatch", metavar="PYTHON", help="an interpreter that has annbatch[zarrs]")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # What was read is no part of the result.
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        found = measure(options, Path(name))
    options.output.mkdir(parents=True, exist_ok=True)
    stem = stem_of("loader", hardware_slug("cpu"), options.output)
    stem.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
