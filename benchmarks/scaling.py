"""Weak scaling of two processes pinned to a core each, and how far the estimate's terms are from what was measured.

    python benchmarks/scaling.py [--preset tiny] [--tokens 16384] [--steps 20] [--turns 5] [--layers 4] [--dim 128]

In turn, in one run: one process trains on one core; two train on a core each and know nothing of each other, which is
the most that two could do on this machine; two train on a core each by DDP over gloo, with as many tokens each.
The cost of adding up gradients is fitted to all-reduces of other sizes, and the step of two processes predicted from it
and from the step of two that are apart: its error is what the traffic term of ``cellfm estimate --gpus`` rests on.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import hardware_slug, machine, versions  # noqa: E402
from benchmarks.report import RESULTS, stem_of  # noqa: E402
from cellfm_torch import CellBatch, CellFM, CellFMConfig, pretraining_loss  # noqa: E402

GENES_PER_CELL = 817
SIZES = (1 << 10, 1 << 14, 1 << 17, 1 << 19, 1 << 20, 1 << 21, 1 << 22)
"""Float32 numbers of an all-reduce; the gradients of the network are not among them."""

WORLD = 2


class Loss(nn.Module):
    """The network and its loss, so that DDP sees one call."""

    def __init__(self, network: CellFM) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: CellBatch) -> torch.Tensor:
        """Return the loss."""
        return pretraining_loss(self.network(batch, targets_only=True), batch)


def made_batch(config: CellFMConfig, tokens: int, seed: int) -> CellBatch:
    """Cells of made-up genes with a fifth of them masked."""
    rng = np.random.default_rng(seed)
    cells = max(1, tokens // GENES_PER_CELL)
    ids = np.concatenate(
        [np.sort(rng.choice(config.num_genes, GENES_PER_CELL, replace=False)) + 1 for _ in range(cells)]
    )
    values = torch.from_numpy(rng.uniform(0.5, 4, len(ids)).astype(np.float32))
    target = torch.from_numpy(rng.random(len(ids)) < 0.2)
    shape = (cells, GENES_PER_CELL)
    return CellBatch.from_padded(
        torch.from_numpy(ids).reshape(shape),
        values.reshape(shape),
        valid=torch.ones(shape, dtype=torch.bool),
        hidden=target.reshape(shape),
        target=target.reshape(shape),
        target_values=values.reshape(shape),
    )


def _config(options: argparse.Namespace) -> CellFMConfig:
    changes = {} if options.layers is None else {"num_layers": options.layers}
    if options.dim is not None:
        changes |= {"dim": options.dim, "num_heads": options.dim // 32}
    return CellFMConfig.preset(options.preset, **changes)


def _pinned(rank: int, cores: list[int]) -> None:
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)


def _seconds(step: Any, steps: int) -> float:
    step(), step()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - began) / steps


def _rank(
    rank: int, world: int, port: int, apart: bool, options: argparse.Namespace, cores: list[int], out: Any
) -> None:
    """Train, alone, apart or by DDP, and time all-reduces; the first rank answers."""
    _pinned(rank, cores)
    config = _config(options)
    torch.manual_seed(0)
    module: nn.Module = Loss(CellFM(config)).train()
    parameters = sum(p.numel() for p in module.parameters())
    batch = made_batch(config, options.tokens, rank)
    answer: dict[str, Any] = {"parameters": parameters}
    if world > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        dist.init_process_group("gloo", rank=rank, world_size=world)
        if not apart:
            answer["all_reduce"] = {}
            for size in SIZES:
                x = torch.ones(size)
                answer["all_reduce"][size] = _seconds(lambda x=x: dist.all_reduce(x), 10)
            module = DistributedDataParallel(module, gradient_as_bucket_view=True, bucket_cap_mb=options.bucket)
        dist.barrier()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        module(batch).backward()
        optimizer.step()

    answer["step"] = _seconds(step, options.steps)
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()
    if rank == 0:
        out.put(answer)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def run(world: int, options: argparse.Namespace, cores: list[int], *, apart: bool = False) -> dict[str, Any]:
    """Return what the first of `world` processes measured."""
    out = mp.get_context("spawn").SimpleQueue()
    mp.spawn(_rank, (world, _free_port(), apart, options, cores, out), nprocs=world)
    return out.get()


def fitted(sizes: list[int], seconds: list[float]) -> tuple[float, float]:
    """Return latency and bytes per second of all-reduces: least squares of relative errors."""
    a = np.stack([np.ones(len(sizes)), 4.0 * np.array(sizes)], axis=1) / np.array(seconds)[:, None]
    (latency, slope), *_ = np.linalg.lstsq(a, np.ones(len(sizes)), rcond=None)
    return float(latency), float(1 / slope)


def _spread(turns: list[dict[str, float]], name: str, form: str) -> str:
    values = [turn[name] for turn in turns]
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    """Run the command and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16384, help="gene tokens of a process and step")
    parser.add_argument("--preset", default="tiny", help="tiny, 80m or 800m")
    parser.add_argument("--layers", type=int, help="instead of the preset's")
    parser.add_argument("--dim", type=int, help="instead of the preset's")
    parser.add_argument("--bucket", type=float, default=25, help="MB of gradients that are sent together")
    parser.add_argument("--note", default="", help="sentence for the page")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:WORLD]
    if len(cores) < WORLD:
        raise SystemExit("two cores are needed")
    turns = []
    for turn in range(options.turns):
        alone, apart, both = run(1, options, cores), run(WORLD, options, cores, apart=True), run(WORLD, options, cores)
        latency, bandwidth = fitted(list(both["all_reduce"]), list(both["all_reduce"].values()))
        traffic = latency + 4 * alone["parameters"] / bandwidth
        turns.append(
            {
                "alone": alone["step"],
                "apart": apart["step"],
                "both": both["step"],
                "weak_scaling": alone["step"] / both["step"],
                "ceiling": alone["step"] / apart["step"],
                "latency": latency,
                "bandwidth": bandwidth,
                "predicted": apart["step"] + traffic,
                "error": (apart["step"] + traffic) / both["step"] - 1,
            }
        )
        print(f"turn {turn + 1}: " + ", ".join(f"{k} {v:.4g}" for k, v in turns[-1].items()), flush=True)
    middle = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
    about = machine() | versions(["torch"])
    settings = {k: v for k, v in vars(options).items()} | {"parameters": alone["parameters"], "cells": "made up"}
    config = _config(options)
    stem = stem_of(f"scaling_{options.preset}", hardware_slug("cpu"), RESULTS)
    result = {"machine": about, "settings": settings, "turns": turns, "median": middle}
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1))
    lines = [
        "# Two processes on a core each",
        "",
        f"CellFM of {config.num_layers} layers, width {config.dim}, {alone['parameters']:,} parameters; "
        f"{options.tokens:,} gene tokens per process and step; DDP over gloo; {options.turns} turns of "
        f"{options.steps} steps, medians. {options.note}".strip(),
        "",
        "| | |",
        "|---|---|",
        f"| step of one process, one core | {middle['alone'] * 1e3:.0f} ms |",
        f"| step of two that know nothing of each other, a core each | {middle['apart'] * 1e3:.0f} ms |",
        f"| step of two, a core each | {middle['both'] * 1e3:.0f} ms |",
        f"| weak scaling (1 is perfect) | {_spread(turns, 'weak_scaling', '.3f')} |",
        f"| the most that this machine's cores allow: two that know nothing of each other | "
        f"{_spread(turns, 'ceiling', '.3f')} |",
        f"| all-reduce, fitted | {middle['latency'] * 1e6:.0f} us + {middle['bandwidth'] / 1e9:.2f} GB/s |",
        f"| step of two, predicted from two apart and the fit | {middle['predicted'] * 1e3:.0f} ms |",
        f"| error of the prediction | {_spread(turns, 'error', '+.1%')} |",
        "",
        f"{about['cores']} cores of {about['processor']}; torch {about['torch']}.",
    ]
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
