"""``python -m benchmarks THEME``: measure, show, and keep the result."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.report import RESULTS, show, stem_of, write
from benchmarks.settings import DTYPES, Settings

THEMES = ("retention", "train", "embed", "memory", "scfoundation", "bulk")
SCRIPTS = ("atlas", "chem", "convert", "enhance", "loader", "parity", "perturb", "startup")
"""Benchmarks with options of their own; also runnable as ``python benchmarks/NAME.py``."""

DEFAULT_REPEATS = {"embed": 24, "train": 7, "retention": 5, "memory": 1, "scfoundation": 4, "bulk": 1}
DEFAULT_MODEL = {"scfoundation": "scfoundation", "bulk": "scfoundation"}


def lengths(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def parser() -> argparse.ArgumentParser:
    from cellfm_torch.command_line import OneLineParser

    others = f"With options of their own: {', '.join(SCRIPTS)}."
    made = OneLineParser(prog="python -m benchmarks", description=__doc__, epilog=others)
    made.add_argument("theme", choices=THEMES)
    made.add_argument(
        "--peer", type=Path, help="a checkout of biomed-AI/CellFM-torch, or of scFoundation, to run beside"
    )
    made.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    made.add_argument("--model", help="preset (default: 80m, or scfoundation)")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--dtype", choices=tuple(DTYPES), default="float32", help="below float32 by autocast")
    made.add_argument("--repeats", type=int, help=f"turns (default: {DEFAULT_REPEATS})")
    made.add_argument(
        "--cells",
        type=int,
        help="of PBMC3k (default: all for embed, a batch per turn for train, 12 per turn for scfoundation)",
    )
    made.add_argument("--token-budget", type=int, default=16384, help="gene tokens per batch (default: 16384)")
    made.add_argument("--peer-cells", type=int, default=4, help="cells per call of the peer (default: 4)")
    made.add_argument(
        "--lengths", type=lengths, default=(), help="genes per cell, for retention, memory and bulk: 512,1024"
    )
    made.add_argument("--threads", type=int, default=2, help="of a CPU (default: 2)")
    made.add_argument(
        "--keep-memory", action="store_true", help="as cellfm train on a CPU: reuse freed memory, of all sides alike"
    )
    made.add_argument("--seed", type=int, default=0)
    return made


def main(arguments: list[str] | None = None) -> int:
    from cellfm_torch.errors import UserError

    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] and arguments[0] in SCRIPTS:
        file = Path(__file__).with_name(f"{arguments[0]}.py")
        return subprocess.run([sys.executable, str(file), *arguments[1:]]).returncode
    given = vars(parser().parse_args(arguments))
    given["repeats"] = given["repeats"] or DEFAULT_REPEATS[given["theme"]]
    given["model"] = given["model"] or DEFAULT_MODEL.get(given["theme"], "80m")
    settings = Settings(**given)
    try:
        run(settings)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(settings: Settings) -> Path:
    """Measure one theme; returns where the result lies, without suffix."""
    import torch

    from benchmarks.machine import hardware_slug
    from cellfm_torch.errors import UserError
    from cellfm_torch.memory.device import keep_freed_memory

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no GPU here")
    torch.set_num_threads(settings.threads)
    if settings.keep_memory and not keep_freed_memory():
        raise UserError("--keep-memory: the C library here is not glibc")
    folder = settings.output or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]  # what others do on this machine; afterwards it is our own
    found = importlib.import_module(f"benchmarks.{settings.theme}").measure(settings)
    found["machine"]["load_average_before"] = load
    if settings.keep_memory:
        found["notes"].append("Freed memory was kept for the next tensors (KeepFreedMemory), for all sides alike.")
    stem = stem_of(settings.theme, hardware_slug(settings.device), folder)
    draw = found.pop("draw", None)
    if draw is not None:
        found["pictures"] = [path.name for path in draw(stem)]
    write(found, stem)
    show(found)
    print(f"{stem}.json, .md")
    return stem


if __name__ == "__main__":
    sys.exit(main())
