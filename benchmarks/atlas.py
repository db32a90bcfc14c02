"""Memory of training from disk: ``python benchmarks/atlas.py [--cells 10000000] [--file-cells 172800]``.

A store of ten million cells, whose shards are those of a smaller store of PBMC3k's cells linked under other names, and
one compressed h5ad file, streamed and read into memory. Each is opened by a fresh process, split, shuffled and loaded;
its peak is that of everything, imports included.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import hardware_slug, machine, memory_field, versions  # noqa: E402
from benchmarks.report import RESULTS, stem_of  # noqa: E402

PART = 86_400
"""Cells of the store that is linked."""


def grow(folder: Path, cells: int) -> int:
    """Add linked sources to a store of one until it has so many cells; returns how many it has."""
    from cellfm_torch.data import store_manifest

    first = next(entry for entry in store_manifest.read(folder) if entry["kind"] == "source")
    number = -(-cells // first["cells"])
    for i in range(1, number):
        entry = json.loads(json.dumps(first))
        entry |= {"number": i, "source": f"{first['source']}.{i}", "sha256": f"{i:064x}", "obs": f"{i:05}.h5"}
        os.link(folder / "obs" / first["obs"], folder / "obs" / entry["obs"])
        for k, shard in enumerate(entry["shards"]):
            shard["file"] = f"{i:05}-{k:03}.cells"
            os.link(folder / "shards" / first["shards"][k]["file"], folder / "shards" / shard["file"])
        store_manifest.append(folder, entry)
    return number * int(first["cells"])


def child(path: str, stream: bool, threads: int, seconds: float) -> dict[str, Any]:
    """Load for some seconds, or one whole epoch where that is 0; to be run in a fresh process."""
    from benchmarks.loader import module
    from benchmarks.loader_peers import WARM

    data = module(path, threads, stream=stream)
    imported = memory_field("VmHWM")
    began = time.perf_counter()
    loader = data.train_dataloader()
    opened, opening = memory_field("VmHWM"), time.perf_counter() - began
    cells, counted, started = 0, 0, None
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            cells += batch.num_cells
            now = time.perf_counter()
            if started is None and now - began - opening > WARM:
                started, counted = now, cells
            if seconds and started and now - started > seconds:
                break
        if not seconds or (started and now - started > seconds):
            break
    assert started is not None
    return {
        "cells": len(data.table),
        "opening, seconds": opening,
        "cells loaded": cells,
        "cells per second": (cells - counted) / (now - started),
        "memory with imports, MB": imported / 1e6,
        "peak when opened, MB": opened / 1e6,
        "peak, MB": memory_field("VmHWM") / 1e6,
    }


def fresh(path: Path, *, stream: bool, threads: int, seconds: float) -> dict[str, Any]:
    """Run :func:`child` in a process of its own."""
    code = "import json, sys; from benchmarks.atlas import child; print(json.dumps(child(*json.loads(sys.argv[1]))))"
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([str(path), stream, threads, seconds])],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000_000)
    parser.add_argument("--file-cells", type=int, default=172_800, help="of the h5ad file; 0 leaves it out")
    parser.add_argument("--seconds", type=float, default=20, help="of loading; 0 for an epoch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()

    from benchmarks.loader import PACKAGES, write_cells
    from cellfm_torch.data.files import Input
    from cellfm_torch.data.store_write import StoreOptions, prepare

    found: dict[str, Any] = {"machine": machine() | versions(PACKAGES), "load before": os.getloadavg()[0], "rows": {}}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        load = {"threads": options.threads, "seconds": options.seconds}
        if options.cells:
            part = write_cells(folder / "cells.h5ad", PART, 0)
            prepare([Input(part)], folder / "store", StoreOptions(), lambda *_: None)
            grow(folder / "store", options.cells)
            found["rows"]["store"] = fresh(folder / "store", stream=False, **load)
        if options.file_cells:
            file = write_cells(folder / "many.h5ad", options.file_cells, 0)
            for kind, stream in (("h5ad, streamed", True), ("h5ad, in memory", False)):
                found["rows"][kind] = fresh(file, stream=stream, **load)
    lines = ["# Memory of loading", "", "| | cells | opened in s | cells/s | peak, MB |", "|---|---|---|---|---|"]
    for kind, row in found["rows"].items():
        figures = [f"{row['cells']:,}", f"{row['opening, seconds']:.1f}", f"{row['cells per second']:,.0f}"]
        lines.append(f"| {kind} | {' | '.join(figures)} | {row['peak, MB']:,.0f} |")
    imports = max(row["memory with imports, MB"] for row in found["rows"].values())
    lines += [
        "",
        f"{options.threads} threads. Python, PyTorch and the other imports take {imports:,.0f} MB of each peak.",
    ]
    options.output.mkdir(parents=True, exist_ok=True)
    stem = stem_of("atlas", hardware_slug("cpu"), options.output)
    stem.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
