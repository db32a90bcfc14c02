"""``cellfm estimate MODEL --gpus N --cells 100e6``: what pretraining on a cluster takes, by strategy."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from cellfm_torch.errors import UserError, nearest

NUMBERS = ("cells", "epochs", "gpus_per_node", "price", "failures", "write")
CELLS = 100e6
"""The corpus of the published model."""

UTILISATION = 0.4
"""Share of a GPU's stated rate that useful arithmetic is assumed to reach; no run of a whole cluster was measured."""

MOST_GPUS = 1 << 16
HOUR = 3600


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a cluster."""
    group = parser.add_argument_group("on a cluster", "pretraining, by strategy; see docs/scaling.md")
    add = group.add_argument
    add("--gpus", metavar="N[,N...]", help="how many: the other options of this group need it")
    add("--gpu", metavar="NAME", default="h100", help="h100 or h200 (default: %(default)s)")
    add("--cells", type=float, metavar="C", default=CELLS, help="cells of the corpus (default: 100e6)")
    add("--epochs", type=float, metavar="E", default=1.0, help="passes over it (default: 1)")
    add("--gpus-per-node", type=int, metavar="G", help="GPUs of a machine (default: 8)")
    add("--price", type=float, metavar="USD", help="of a GPU and hour (default: an assumption)")
    add("--failures", type=float, metavar="HOURS", help="GPU hours between two failures (default: 50000)")
    add("--write", type=float, metavar="GB/s", help="at which checkpoints are written (default: 5)")


def plans(given: argparse.Namespace, config: Any, *, tokens: int, checkpointed: int) -> dict[str, Any]:
    """Return plans of every strategy and number of GPUs, and what they rest on, as plain values.

    Raises
    ------
    UserError
        If a number or a name makes no sense.
    """
    import torch

    from cellfm_torch.commands.activations import checkpointed_activations
    from cellfm_torch.model import scaling

    numbers = [_number(word) for word in given.gpus.split(",")]
    name = given.gpu.lower()
    if name not in scaling.MACHINES:
        there = ", ".join(scaling.MACHINES)
        raise UserError(f"--gpu {given.gpu}: there are {there}{nearest(name, scaling.MACHINES)}")
    changes = {"gpus": given.gpus_per_node, "price": given.price}
    machine = dataclasses.replace(scaling.MACHINES[name], **{k: v for k, v in changes.items() if v is not None})
    storage = scaling.Storage() if given.write is None else scaling.Storage(write=given.write * 1e9)
    activations = checkpointed_activations(
        config,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
        cells=tokens / given.genes,
        tokens=tokens,
        layers=checkpointed,
    )
    found = [
        scaling.plan(
            config,
            strategy,
            gpus,
            cells=given.cells,
            epochs=given.epochs,
            tokens=tokens,
            genes=given.genes,
            activations=activations.chosen,
            machine=machine,
            storage=storage,
            utilisation=given.utilisation or UTILISATION,
            failures=given.failures or scaling.FAILURES,
            checkpointed=checkpointed,
        )
        for gpus in numbers
        for strategy in scaling.STRATEGIES
    ]
    return {
        "gpu": name,
        "machine": dataclasses.asdict(machine),
        "storage": dataclasses.asdict(storage),
        "cells": given.cells,
        "epochs": given.epochs,
        "tokens_per_gpu": tokens,
        "genes_per_cell": given.genes,
        "checkpointed_layers": checkpointed,
        "utilisation": given.utilisation or UTILISATION,
        "plans": [{**dataclasses.asdict(one), "step": one.step, "efficiency": one.efficiency} for one in found],
    }


def _number(word: str) -> int:
    if not word.strip().isdecimal() or not 1 <= int(word) <= MOST_GPUS:
        raise UserError(f"--gpus {word.strip()}: give whole numbers from 1 to {MOST_GPUS:,}, such as 8,64")
    return int(word)


def span(seconds: float) -> str:
    """Return a time in the unit that people would say it in."""
    for unit, length in (("days", 24 * HOUR), ("h", HOUR), ("min", 60), ("s", 1)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds * 1e3:,.0f} ms"


def show(result: dict[str, Any], *, title: str) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    from cellfm_torch.commands.estimate_table import amount

    table = Table(title=f"{title} on {result['gpu'].upper()}", title_justify="left", box=None, pad_edge=False)
    for heading in ("GPUs", "strategy", "memory", "step", "waits", "cells/s", "whole run", "price"):
        table.add_column(heading, justify="left" if heading == "strategy" else "right", no_wrap=True)
    for one in result["plans"]:
        table.add_row(
            f"{one['gpus']:,}",
            one["strategy"],
            f"{one['memory'] / 1e9:,.0f} GB" + ("" if one["fits"] else " !"),
            span(one["step"]),
            f"{1 - one['efficiency']:.0%}",
            f"{one['cells_per_second']:,.0f}",
            span(one["seconds"]),
            f"${one['price']:,.0f}",
        )
    console = Console(highlight=False)
    console.print(table)
    last = result["plans"][-1]
    together = last["gpus"] * result["tokens_per_gpu"] / result["genes_per_cell"]
    steps = result["cells"] * result["epochs"] / together
    lines = [
        f"{result['cells']:,.0f} cells x {result['epochs']:g} of {result['genes_per_cell']:,} genes; "
        f"{result['tokens_per_gpu']:,} gene tokens per GPU and step; {result['utilisation']:.0%} of "
        f"{result['machine']['rate'] / 1e12:,.0f} TFLOP/s; ${result['machine']['price']:g} per GPU and hour",
        f"on {last['gpus']:,} GPUs: a checkpoint of {amount(last['checkpoint'])}B is best every "
        f"{span(last['interval'])}; {last['wasted']:.1%} of the time goes to checkpoints and failures;",
        f"they read {amount(last['loading'])}B/s of cells; with {last['strategy']} each sends {amount(last['sent'])}B "
        "a step",
        f"a step there has {together:,.0f} cells, and the run {steps:,.0f} steps: whether a network learns as much "
        "from fewer, larger steps is not in these figures",
        "waits: share of a step in which traffic is not hidden behind arithmetic",
    ]
    if not all(one["fits"] for one in result["plans"]):
        lines.append(f"!: more than the {result['machine']['memory'] / 1e9:.0f} GB of a GPU: fewer --tokens, or fsdp")
    console.print("\n".join(lines), style="dim", soft_wrap=True)
