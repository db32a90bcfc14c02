"""Peak memory of scFoundation on a bulk sample that expresses 19,000 genes, each output in a fresh process.

Shapes: N genes of one sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.fresh import run_fresh
from benchmarks.machine import full_machine, versions
from benchmarks.report import progress
from benchmarks.scfoundation import network_of
from benchmarks.scfoundation_peer import OfficialScFoundation, laid_out
from benchmarks.settings import Settings
from cellfm_torch import CellBatch, ScFoundationConfig

LENGTHS = (19_000,)
KINDS = {
    "bulk_cell": "cell embedding, embedder()",
    "bulk_expression": "expression and cell embedding, forward()",
    "bulk_official": "cell embedding, official code",
}
TOTAL = 3e7
"""Reads of a bulk sample."""


def sample(num_genes: int, *, of: int, seed: int) -> CellBatch:
    """Make one sample that expresses `num_genes` genes (N) of a vocabulary of `of`."""
    rng = torch.Generator().manual_seed(seed)
    share = torch.empty(num_genes).log_normal_(0, 2, generator=rng)
    return CellBatch(
        gene_ids=torch.randperm(of, generator=rng)[:num_genes].sort().values,
        values=torch.log1p(share / share.sum() * 1e4),
        hidden=torch.zeros(num_genes, dtype=torch.bool),
        offsets=torch.tensor([0, num_genes]),
        cell_index=torch.zeros(1, dtype=torch.int64),
        read_depth=torch.tensor([[TOTAL, TOTAL]]),
    )


def prepare(kind: str, num_genes: int, settings: Settings) -> Callable[[], object]:
    """Return the call to be watched."""
    network = network_of(settings).eval()
    batch = sample(num_genes, of=network.config.num_genes, seed=settings.seed)
    if kind == "bulk_official":
        assert settings.peer is not None
        peer = OfficialScFoundation(settings.peer, network)
        cells = laid_out(batch, network.config.num_genes)
        del network
        return lambda: peer.embed(cells)
    if kind == "bulk_cell":
        embedder = network.embedder()
        return lambda: embedder(batch)

    def forward() -> object:
        with torch.inference_mode():
            return network(batch)

    return forward


def measure(settings: Settings) -> dict[str, Any]:
    config = ScFoundationConfig.preset(settings.model)
    kinds = [kind for kind in KINDS if settings.peer or kind != "bulk_official"]
    jobs = [(kind, length) for length in settings.lengths or LENGTHS for kind in kinds]
    rows: list[dict[str, Any]] = []
    for i in progress(len(jobs), "bulk"):
        kind, length = jobs[i]
        found = run_fresh(kind, [length], settings)
        row: dict[str, Any] = {"name": KINDS[kind], "tokens": length, "cells": 1}
        if found is None:
            rows.append(row | {"peak_memory_mb": None, "memory_above_mb": None})
            continue
        rows.append(
            row | {"peak_memory_mb": found["peak"] / 1e6, "memory_above_mb": (found["peak"] - found["start"]) / 1e6}
        )
        rows[-1]["tokens_per_second"] = length / found["seconds"]
    ours = [row["peak_memory_mb"] for row in rows if row["name"] != KINDS["bulk_official"]]
    return {
        "theme": "bulk",
        "title": f"A bulk sample, {settings.model}, {settings.device}, {settings.dtype}",
        **dict.fromkeys(("ratio_to_peer", "useful_utilisation", "max_error", "cells_per_second", "matmul_rate")),
        "tokens_per_second": None,
        "peak_memory_mb": None if None in ours else max(ours),
        "rows": rows,
        "notes": [
            "Fresh process each, resident memory sampled every 2 ms; the start has the weights. tokens/s are of one "
            "call and no measurement of speed. Not measured: did not fit in 80 % of the memory that was free.",
        ],
        "shapes": {
            "encoder_layers": config.encoder_layers,
            "dim": config.encoder_dim,
            "vocabulary": config.num_genes,
            "lengths": list(settings.lengths or LENGTHS),
        },
        "settings": settings.as_json(),
        "machine": full_machine(settings.device, torch.get_num_threads()),
        "versions": versions(("torch", "numpy")),
    }
