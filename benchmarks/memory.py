"""Peak memory of a training step and of embedding over tokens, each in a fresh process."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from benchmarks.fresh import PBMC3K_LIKE, run_fresh
from benchmarks.growth import draw
from benchmarks.machine import full_machine, versions
from benchmarks.report import progress
from benchmarks.settings import Settings
from cellfm_torch import CellFMConfig

LENGTHS = (600, 2048, 4096, 8192, 16384, 32768, 60000)
KINDS = {"embed": "embed, exact", "train": "train, forward and backward"}


def shapes_of(tokens: int) -> dict[str, list[int]]:
    """Lay a number of tokens out as one cell, and as cells of usual length."""
    usual, rest = divmod(tokens, PBMC3K_LIKE)
    return {"one cell": [tokens], f"cells of {PBMC3K_LIKE}": [PBMC3K_LIKE] * usual + ([rest] if rest else [])}


def measure(settings: Settings) -> dict[str, Any]:
    lengths = settings.lengths or LENGTHS
    jobs = [
        (kind, layout, tokens, cells)
        for kind in KINDS
        for layout in shapes_of(PBMC3K_LIKE)
        for tokens in lengths
        for cells in [shapes_of(tokens)[layout]]
    ]
    rows: list[dict[str, Any]] = []
    curves: dict[str, dict[int, dict[str, float | None]]] = {}
    for i in progress(len(jobs), "memory"):
        kind, layout, tokens, cells = jobs[i]
        found = run_fresh(kind, cells, settings)
        row: dict[str, Any] = {"name": f"{KINDS[kind]}, {layout}", "tokens": tokens, "cells": len(cells)}
        if found is None:
            rows.append(row | {"peak_memory_mb": None, "memory_above_mb": None})
            continue
        above = (found["peak"] - found["start"]) / 1e6
        rows.append(row | {"peak_memory_mb": found["peak"] / 1e6, "memory_above_mb": above})
        rows[-1]["tokens_per_second"] = tokens / found["seconds"]
        if layout == "one cell":
            curves.setdefault(kind, {})[tokens] = {"memory": above}
    if settings.device == "cpu":
        rows.append({"name": "on a GPU, bf16", "peak_memory_mb": None, "memory_above_mb": None})
    config = CellFMConfig.preset(settings.model)
    known = [row["peak_memory_mb"] for row in rows if row["peak_memory_mb"] is not None]
    what = "allocated on the GPU" if settings.device == "cuda" else "resident, sampled every 2 ms"
    return {
        "theme": "memory",
        "title": f"Peak memory over tokens, {settings.model}, {settings.device}, {settings.dtype}",
        **dict.fromkeys(("ratio_to_peer", "useful_utilisation", "max_error", "cells_per_second", "matmul_rate")),
        "tokens_per_second": None,
        "peak_memory_mb": max(known, default=None),
        "rows": rows,
        "curves": curves,
        "notes": [
            f"Fresh process each, {what}; the start has the weights, and for embed the tables of the genes that occur "
            "(genes are synthetic and drawn with replacement). tokens/s are of one call and no measurement of speed. "
            "Not measured: did not fit in 80 % of the memory that was free.",
        ],
        "shapes": {"layers": config.num_layers, "dim": config.dim, "lengths": list(lengths)},
        "settings": settings.as_json(),
        "machine": full_machine(settings.device, torch.get_num_threads()),
        "versions": versions(("torch", "numpy", "matplotlib")),
        "draw": functools.partial(_draw, curves),
    }


def _draw(curves: dict[str, Any], stem: Path) -> list[Path]:
    return [draw(curves, stem.with_name(f"{stem.name}_tokens.png"), axis="tokens of one cell")] if curves else []
