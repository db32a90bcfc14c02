"""How long ``cellfm --help`` takes, beside ``python -c pass``: ``python benchmarks/startup.py``.

Each is a fresh process; they take turns, so that a slow moment hits both. The ratio is of processor time, which other
programs on the machine change less than the time on the clock.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import machine, versions  # noqa: E402
from benchmarks.report import RESULTS, progress, show, stem_of, write  # noqa: E402

COMMANDS = ("--help", "--version", "embed --help", "genes --help", "convert --help", "trian")


def once(code: str, words: list[str]) -> dict[str, float]:
    """Seconds on the clock and of processor time of a fresh process."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *words], capture_output=True, cwd=ROOT)
    seconds, after = time.perf_counter() - start, os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": seconds, "processor": spent}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15, help="turns (default: 15)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the result")
    given = parser.parse_args(arguments)
    code = "import sys; from cellfm_torch.cli import main; sys.exit(main())"
    jobs = {"python -c pass": ("pass", [])} | {f"cellfm {words}": (code, words.split()) for words in COMMANDS}
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    for _ in progress(given.repeats, "start-up"):
        for name, job in jobs.items():
            turns[name].append(once(*job))
    first = [turn["processor"] for turn in turns["python -c pass"]]
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "milliseconds": 1e3 * statistics.median(turn["seconds"] for turn in measured),
            "processor_milliseconds": 1e3 * statistics.median(turn["processor"] for turn in measured),
            "ratio_to_first": statistics.median(
                turn["processor"] / other for turn, other in zip(measured, first, strict=True)
            ),
            "turns": measured,
        }
        for name, measured in turns.items()
    ]
    found = {
        "theme": "startup",
        "title": f"Start-up of the command line, {given.repeats} fresh processes each in turns",
        "rows": rows,
        "notes": [
            "Medians; the ratio is of processor time within a turn.",
            f"Other programs: {os.getloadavg()[0]:.1f} processes wanted the cores at the end.",
        ],
        "machine": machine() | {"threads": 1},
        "versions": versions(("cellfm_torch",)),
    }
    show(found)
    write(found, stem_of("startup", "cpu", given.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
