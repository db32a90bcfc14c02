"""The three modes of retention over cells of 512 to 32,768 tokens, and how the 80M embedding grows with them.

Shapes: N tokens of all cells together, H heads, K head dim, Q sampled queries.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cells import fill_tables, network_of, num_tokens, operations_per_token, synthetic, visible
from benchmarks.fresh import PBMC3K_LIKE, run_fresh
from benchmarks.growth import draw
from benchmarks.machine import full_machine, versions
from benchmarks.report import progress
from benchmarks.settings import Settings
from benchmarks.timing import Side, Work, matmul_side, take_turns, utilisation
from cellfm_torch import CellFMConfig
from cellfm_torch.ops import retention

MODES = ("chunked", "recurrent", "parallel")
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
CELLS = (1, 2, 4, 8, 16, 32, 64)
MOST_PAIRS = 4 << 30
"""Bytes of pairwise weights, H N^2 each, above which the parallel mode is left out."""

MOST_PARALLEL = 8192
"""Tokens in a call of the parallel mode."""

Operands = tuple[Tensor, Tensor, Tensor, Tensor]


def operands(lengths: Sequence[int], settings: Settings) -> Operands:
    """Draw q, k, v (N, H, K) as ERetNet has them, relu of q and k, and the offsets."""
    config = CellFMConfig.preset(settings.model)
    rng = torch.Generator().manual_seed(settings.seed)
    shape = (sum(lengths), config.num_heads, config.head_dim)
    q, k, v = (torch.randn(shape, generator=rng) for _ in range(3))
    q, k, v = (x.to(settings.device, settings.torch_dtype) for x in (q.relu_(), k.relu_(), v))
    return q, k, v, torch.tensor([0, *lengths], device=settings.device).cumsum(0)


def run_mode(mode: str, q: Tensor, k: Tensor, v: Tensor, offsets: Tensor) -> Tensor:
    """Apply the operator without gradients."""
    with torch.inference_mode():
        return retention(q, k, v, offsets=offsets, mode=mode)


def available(settings: Settings) -> dict[str, bool]:
    """Say which modes the operator accepts."""
    few, found = operands([4, 3], settings), {}
    for mode in MODES:
        try:
            run_mode(mode, *few)
            found[mode] = True
        except ValueError:
            found[mode] = False
    return found


def fits(mode: str, length: int, settings: Settings) -> bool:
    """Say whether a mode is measured at this length: the pairwise weights of the parallel one grow with its square."""
    heads, width = CellFMConfig.preset(settings.model).num_heads, settings.torch_dtype.itemsize
    return mode != "parallel" or heads * length**2 * max(4, width) <= MOST_PAIRS


def error_of(mode: str, length: int, settings: Settings, queries: int = 64) -> float:
    """Largest difference from the quadratic form in float64 at some queries of one cell, over the mean magnitude."""
    q, k, v, offsets = operands([length], settings)
    some = torch.linspace(0, length - 1, min(queries, length)).long().to(q.device)
    made = run_mode(mode, q, k, v, offsets)[some].double()
    q64, k64, v64 = (x.double().transpose(0, 1) for x in (q[some], k, v))  # (H, Q or N, K)
    reference = ((q64 @ k64.mT) @ v64).transpose(0, 1)
    return float((made - reference).abs().max() / reference.abs().mean())


class Turns:
    """The same number of tokens at every length, so that a turn compares lengths and nothing else."""

    def __init__(self, settings: Settings, lengths: Sequence[int]) -> None:
        self.settings, self.lengths, self.total = settings, lengths, max(lengths)

    def cells(self, length: int, mode: str = "") -> list[int]:
        """Return as many cells of a length as make up a call's tokens; fewer where all pairs are weighed."""
        return [length] * max(1, min(self.total, MOST_PARALLEL if mode == "parallel" else self.total) // length)

    def operator(self, mode: str, length: int) -> Side:
        """Time the operator alone."""
        x = operands(self.cells(length, mode), self.settings)

        def call(turn: int) -> Work:
            run_mode(mode, *x)
            return len(x[3]) - 1, len(x[0])

        return Side(f"{mode} {length}", call)

    def embedding(self, embedder: Any, network: Any, name: str, lengths: Sequence[int]) -> Side:
        """Time the exact path of the network on cells of these lengths, its tables made."""
        batch = visible(synthetic(lengths, num_genes=network.config.num_genes, device=self.settings.device))
        small = visible(synthetic([64], num_genes=network.config.num_genes, device=self.settings.device))
        fill_tables(embedder, batch.gene_ids, small)

        def call(turn: int) -> Work:
            embedder(batch)
            return batch.num_cells, num_tokens(network, batch)

        return Side(name, call)


def per_token(sides: dict[int, Side]) -> dict[int, float]:
    """Median microseconds per token, by length or number of cells."""
    return {
        size: statistics.median(1e6 * s / w[1] for s, w in zip(side.seconds, side.work, strict=True))
        for size, side in sides.items()
    }


def worst_growth(sides: dict[int, Side]) -> float:
    """Median over the turns of the largest time per token over the smallest, across lengths."""
    turns = range(len(next(iter(sides.values())).seconds))
    ratios = []
    for turn in turns:
        each = [side.seconds[turn] / side.work[turn][1] for side in sides.values()]
        ratios.append(max(each) / min(each))
    return statistics.median(ratios)


def growth_of_medians(times: dict[int, float]) -> float:
    return max(times.values()) / min(times.values())


def measure(settings: Settings) -> dict[str, Any]:
    lengths = settings.lengths or LENGTHS
    turns = Turns(settings, lengths)
    has = available(settings)
    operator = {
        mode: {n: turns.operator(mode, n) for n in lengths if has[mode] and fits(mode, n, settings)} for mode in MODES
    }
    network = network_of(settings).eval().to(settings.torch_dtype)
    embedder = network.embedder()
    embed = {n: turns.embedding(embedder, network, f"embed {n}", turns.cells(n)) for n in lengths}
    by_cells = {
        n: turns.embedding(embedder, network, f"embed {n} cells", [PBMC3K_LIKE] * n)
        for n in (x for x in CELLS if x * PBMC3K_LIKE <= max(2 * max(lengths), 2048))
    }
    matmul = matmul_side(settings.device, settings.torch_dtype)
    sides = [side for group in (*operator.values(), embed, by_cells) for side in group.values()]
    for side in sides:
        side.call(0)
    take_turns([matmul, *sides], progress(settings.repeats, "retention"), device=settings.device)

    memory_of = functools.partial(run_fresh, settings=settings)
    cost = operations_per_token(network.config)
    rows: list[dict[str, Any]] = []
    curves: dict[str, dict[int, dict[str, float | None]]] = {}
    growth: dict[str, float | None] = {}
    for mode in MODES:
        if not operator[mode]:
            empty = dict.fromkeys(("tokens_per_second", "microseconds_per_token", "max_error", "memory_above_mb"))
            rows.append({"name": f"{mode}", **empty})
            growth[mode] = None
            continue
        growth[mode] = growth_of_medians(per_token(operator[mode]))
        for n, time in per_token(operator[mode]).items():
            found = memory_of("retention", [n], mode=mode)
            row = _row(mode, n, time, operator[mode][n], found)
            own = row["memory_above_mb"]
            if own is not None:  # whoever asks for the result needs room for it
                own = max(0.0, own - n * network.config.dim * settings.torch_dtype.itemsize / 1e6)
            rows.append(row | {"max_error": error_of(mode, n, settings), "own_memory_mb": own})
            curves.setdefault(mode, {})[n] = {"time": time, "memory": own}
        for n in lengths:
            if not fits(mode, n, settings):
                rows.append({"name": mode, "tokens": n, "tokens_per_second": None, "memory_above_mb": None})
    name = f"embed {settings.model}"
    growth["embed"] = growth_of_medians(per_token(embed))
    for n, time in per_token(embed).items():
        row = _row(name, n, time, embed[n], memory_of("embed", [n]))
        rows.append(row | {"useful_utilisation": utilisation(embed[n], matmul, cost)})
        curves.setdefault("embed", {})[n] = {"time": time, "memory": row["memory_above_mb"]}
    cells_curve: dict[int, dict[str, float | None]] = {}
    for n, time in per_token(by_cells).items():
        row = _row(
            f"{name}, {PBMC3K_LIKE} genes a cell", None, time, by_cells[n], memory_of("embed", [PBMC3K_LIKE] * n)
        )
        rows.append(row | {"cells": n, "useful_utilisation": utilisation(by_cells[n], matmul, cost)})
        cells_curve[n] = {"time": time, "memory": row["memory_above_mb"]}
    if settings.device == "cpu":
        rows.append({"name": "on a GPU", "tokens_per_second": None, "memory_above_mb": None})
    longest = max(lengths)
    head = next(row for row in rows if row["name"] == "chunked" and row.get("tokens") == longest)
    span = f"from {min(lengths):,} to {longest:,}"
    notes = [
        f"Time per token max/min {span}: "
        + ", ".join(f"{which} {value:.2f}" if value else f"{which} not measured" for which, value in growth.items())
        + " (of the medians over the turns).",
        f"Every length is timed at {turns.total:,} tokens in one batch (parallel mode: "
        f"{min(turns.total, MOST_PARALLEL):,}), all lengths in every turn. Memory is of one cell alone in a fresh "
        "process, above what weights, tables and operands take; 'own' also leaves out the operator's result, which is "
        "as large as q.",
        "Error: largest difference from the quadratic form in float64 at 64 queries, over its mean magnitude; operator "
        f"of {network.config.num_heads} heads of {network.config.head_dim}. The parallel mode is left out where its "
        f"pairwise weights take more than {MOST_PAIRS / 2**30:.0f} GiB.",
        f"Plain matmul in the same turns: {matmul.steady(1) / 1e9:.0f} GFLOP/s. Synthetic genes, drawn with "
        "replacement.",
    ]
    return {
        "theme": "retention",
        "title": f"Retention and embedding by length, {settings.model}, {settings.device}, {settings.dtype}",
        "ratio_to_peer": None,
        "useful_utilisation": utilisation(embed[longest], matmul, cost),
        "max_error": max(row["max_error"] for row in rows if row.get("max_error") is not None),
        "cells_per_second": embed[min(lengths)].steady(),
        "tokens_per_second": head["tokens_per_second"],
        "matmul_rate": matmul.steady(1),
        "peak_memory_mb": head["peak_memory_mb"],
        "time_per_token_max_over_min": growth,
        "time_per_token_max_over_min_within_turns": {
            which: worst_growth(group) for which, group in {**operator, "embed": embed}.items() if group
        },
        "rows": rows,
        "curves": {"by_length": curves, "by_cells": cells_curve},
        "notes": notes,
        "shapes": {"heads": network.config.num_heads, "head_dim": network.config.head_dim, "lengths": list(lengths)},
        "settings": settings.as_json(),
        "machine": full_machine(settings.device, torch.get_num_threads()),
        "versions": versions(("torch", "numpy", "matplotlib")),
        "draw": functools.partial(_draw, curves, cells_curve),
    }


def _row(name: str, tokens: int | None, time: float, side: Side, memory: dict[str, Any] | None) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "tokens_per_second": 1e6 / time, "microseconds_per_token": time}
    if tokens is not None:
        made["tokens"] = tokens
    made["peak_memory_mb"] = None if memory is None else memory["peak"] / 1e6
    made["memory_above_mb"] = None if memory is None else (memory["peak"] - memory["start"]) / 1e6
    return made | {"seconds": side.seconds}


def _draw(curves: dict[str, Any], cells_curve: dict[int, Any], stem: Path) -> list[Path]:
    return [
        draw(curves, stem.with_name(f"{stem.name}_genes.png"), axis="genes per cell"),
        draw({"embed": cells_curve}, stem.with_name(f"{stem.name}_cells.png"), axis="cells per batch"),
    ]
