"""Memory and time of converting an 800M-size checkpoint, beside copying it: ``python benchmarks/convert.py``.

The checkpoint is generated (random weights, the layout of the published one, 3.2 GB) in a temporary folder that needs
12 GB. Both sides run in a fresh process with the same imports, read from the page cache and end with fsync; they take
turns, so that a slow moment hits both. The fresh process matters on virtual machines that give free memory back to
their host: whoever writes a few seconds after files were deleted pays for getting it again, and the copy must too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import machine, sampled, versions  # noqa: E402

MODES = {
    "plain": {"hash": False, "validate": False},
    "hash": {"hash": True, "validate": False},
    "validation": {"hash": False, "validate": True},
}


def generate(path: Path, *, num_layers: int) -> None:
    import numpy as np
    import torch

    from cellfm_torch import CellFM, CellFMConfig
    from cellfm_torch.convert.names import source_name
    from cellfm_torch.convert.wire import value_header

    with torch.device("meta"):
        network = CellFM(CellFMConfig.preset("800m", num_layers=num_layers))
    block = (np.random.default_rng(0).standard_normal(1 << 22) * 0.02).astype("<f4").tobytes()
    with path.open("wb") as file:
        for name, x in network.state_dict().items():
            source = source_name(name)
            assert source is not None
            left = x.numel() * 4
            file.write(value_header(source, "Float32", tuple(x.shape), left))
            while left:
                left -= file.write(block[: min(left, len(block))])
        file.flush()
        os.fsync(file.fileno())


def convert(checkpoint: Path, output: Path, mode: str) -> dict[str, Any]:
    """Convert in this process, sampled every 5 ms by a thread."""
    import torch

    from cellfm_torch.convert.conversion import Options, convert_file

    torch.set_num_threads(1)
    with sampled("RssAnon", period=0.005) as memory:
        start = time.perf_counter()
        done = convert_file(checkpoint, Options(output=output, **MODES[mode]))
        seconds = time.perf_counter() - start
    checked = done.record.get("validation")
    return {
        "seconds": seconds,
        "interpreter": memory.start,
        "peak_above": memory.above,
        "parameters": done.parameters,
        "max_error": None if checked is None else checked["weights"],
    }


def copy(checkpoint: Path, output: Path) -> dict[str, Any]:
    """Copy in this process, after the imports of a conversion."""
    import cellfm_torch.convert.conversion  # noqa: F401

    start = time.perf_counter()
    shutil.copyfile(checkpoint, output)
    with output.open("rb+") as file:
        os.fsync(file.fileno())
    return {"seconds": time.perf_counter() - start}


def child(checkpoint: Path, output: Path, mode: str) -> dict[str, Any]:
    """Do one thing in a fresh process, and remove what it wrote."""
    command = [sys.executable, __file__, "--child", str(checkpoint), str(output), mode]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    shutil.rmtree(output) if output.is_dir() else output.unlink()
    return dict(json.loads(done.stdout))


def measure(folder: Path, *, repeats: int, num_layers: int) -> dict[str, Any]:
    checkpoint = folder / "base_weight.ckpt"
    generate(checkpoint, num_layers=num_layers)
    runs: dict[str, list[dict[str, Any]]] = {mode: [] for mode in ("copy", *MODES)}
    child(checkpoint, folder / "out", "copy")  # the first one may find the file on disk only
    for _ in range(repeats):
        for mode in runs:
            runs[mode].append(child(checkpoint, folder / "out", mode))
    median = {mode: statistics.median(run["seconds"] for run in found) for mode, found in runs.items()}
    copied = median["copy"]
    error = max(run["max_error"] for run in runs["validation"])
    if error != 0:
        raise SystemExit(f"the converted weights are off by {error}: no speed is reported")
    return {
        "theme": "convert",
        "file_bytes": checkpoint.stat().st_size,
        "parameters": runs["plain"][0]["parameters"],
        "repeats": repeats,
        "ratio_to_peer": median["plain"] / copied,
        "ratio_of_hash": (median["hash"] - median["plain"]) / copied,
        "ratio_of_validation": (median["validation"] - median["plain"]) / copied,
        "max_error": error,
        "peak_anonymous_mb": {mode: max(run["peak_above"] for run in runs[mode]) / 1e6 for mode in MODES},
        "interpreter_mb": runs["plain"][0]["interpreter"] / 1e6,
        "seconds": {mode: [run["seconds"] for run in found] for mode, found in runs.items()},
        "machine": machine(),
        "versions": versions(("torch", "numpy", "safetensors")),
    }


def table(found: dict[str, Any]) -> str:
    seconds = {name: statistics.median(times) for name, times in found["seconds"].items()}
    memory = found["peak_anonymous_mb"]
    rows = [
        ("copying the file", seconds["copy"], 1.0, None),
        ("converting, without hash and validation", seconds["plain"], found["ratio_to_peer"], memory["plain"]),
        ("SHA-256 of the source, on top", None, found["ratio_of_hash"], memory["hash"]),
        ("reading back and comparing, on top", None, found["ratio_of_validation"], memory["validation"]),
    ]
    lines = [
        f"# Converting {found['file_bytes'] / 1e9:.2f} GB, {found['parameters'] / 1e6:,.0f}M parameters",
        "",
        "| | median, s | ratio to copying | peak anonymous memory above the interpreter, MB |",
        "|---|---|---|---|",
    ]
    for name, time_, ratio, peak in rows:
        shown = ("" if time_ is None else f"{time_:.2f}", f"{ratio:.2f}", "" if peak is None else f"{peak:,.0f}")
        lines.append(f"| {name} | {' | '.join(shown)} |")
    about, numbers = found["machine"], found["versions"]
    lines += [
        "",
        f"{found['repeats']} turns each, source in the page cache, fsync on both sides, one thread. Largest error of a",
        f"weight read back: {found['max_error']:g}. {about['cores']} cores of {about['processor']}; "
        + ", ".join(f"{name} {number}" for name, number in numbers.items())
        + ".",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        checkpoint, output, mode = Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
        print(json.dumps(copy(checkpoint, output) if mode == "copy" else convert(checkpoint, output, mode)))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="results go to OUTPUT.json and OUTPUT.md (default: shown only)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=40, help="fewer for a quick look")
    parser.add_argument("--folder", type=Path, help="where to put the 12 GB (default: the system's temporary folder)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="convert-", dir=given.folder) as folder:
        found = measure(Path(folder), repeats=given.repeats, num_layers=given.layers)
    print(table(found))
    if given.output:
        given.output.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")
        given.output.with_suffix(".md").write_text(table(found))


if __name__ == "__main__":
    main()
