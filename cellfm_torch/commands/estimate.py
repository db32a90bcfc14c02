"""What a model will cost before it runs: ``cellfm estimate 80m``. Memory, arithmetic, speed; with --gpus a cluster."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_torch.answers import answer
from cellfm_torch.command_line import OneLineParser, complain
from cellfm_torch.commands import estimate_cluster
from cellfm_torch.errors import UserError, nearest

DTYPES = ("float32", "bfloat16", "float16")
GENES_PER_CELL = 817
"""Median of PBMC3k."""

REACHED = {"cpu": {"embedding": 1.6, "training": 1.0}, "cuda": {"embedding": 0.5, "training": 0.5}}
"""Arithmetic done per second over that of a plain matrix product. On a CPU as the 80M network reached on two cores in
float32 (oneDNN is faster than the plain product), see benchmarks/results; for CUDA an assumption."""

MATMUL = (4096, 1536, 6144)
"""Shape of the product whose rate utilisation refers to."""


def network_config(model: str, changes: Sequence[str]) -> Any:
    """Return the configuration of a preset or of a model folder, with ``FIELD=VALUE`` changed.

    Raises
    ------
    UserError
        If there is no such model, or a change makes no sense.
    """
    from cellfm_torch.model.config import PRESETS, CellFMConfig

    fields = [field.name for field in dataclasses.fields(CellFMConfig)]
    if model in PRESETS:
        values = dict(PRESETS[model])
    elif (file := Path(model) / "config.json").is_file():
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            kind = values.pop("model", "CellFM")
            CellFMConfig(**(values if kind == "CellFM" else PRESETS["tiny"]))
        except (ValueError, AttributeError, TypeError) as problem:
            raise UserError(f"{file} is not the configuration of a model: {problem}") from problem
        if kind != "CellFM":
            raise UserError(f"{file} describes a {kind}; estimates are for CellFM")
    else:
        raise UserError(
            f"there is no preset '{model}' and no model folder of that name{nearest(model, PRESETS)} There are "
            f"{', '.join(PRESETS)}"
        )
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or name not in fields:
            raise UserError(f"{change}: give FIELD=VALUE{nearest(name, fields)} There are {', '.join(fields)}")
        try:
            values[name] = json.loads(text.lower())
        except ValueError:
            raise UserError(f"{change}: must be a number, true or false") from None
    return CellFMConfig(**values)


def usual_utilisation(config: Any, device: str) -> dict[str, float]:
    """Return the useful utilisation to expect: embedding leaves out much of the arithmetic that counts as useful."""
    from cellfm_torch.model.cost import embedding_share

    reached = REACHED[device]
    return {"embedding": reached["embedding"] / embedding_share(config), "training": reached["training"]}


def measured_rate(device: Any, dtype: Any, *, repeats: int = 3) -> float:
    """Operations per second of a plain matrix product, the best of a few."""
    import torch

    rows, inner, columns = MATMUL
    a, b = torch.ones(rows, inner, device=device, dtype=dtype), torch.ones(inner, columns, device=device, dtype=dtype)
    best = math.inf
    for _ in range(1 + repeats):  # the first also starts threads and picks kernels
        start = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * rows * inner * columns / best


def estimate(
    config: Any,
    *,
    tokens: int,
    genes: float = GENES_PER_CELL,
    dtype: str = "float32",
    device: str = "cpu",
    checkpointed: int = 0,
    rate: float | None = None,
    utilisation: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Work out what a network costs.

    Parameters
    ----------
    config
        A CellFMConfig.
    tokens
        Gene tokens per batch.
    genes
        Gene tokens per cell, on average.
    dtype
        Of the products; weights, gradients and moments stay in float32.
    device
        Where activations are tried and, without `rate`, products timed.
    checkpointed
        Layers under activation checkpointing.
    rate
        Operations per second of a plain matrix product on the device meant.
    utilisation
        Share of the rate that useful arithmetic reaches, for ``"embedding"`` and ``"training"``; by default
        :func:`usual_utilisation` of a CPU, or of CUDA where `rate` is given.

    Returns
    -------
    Nested dict of numbers, bytes where nothing else is said.
    """
    import torch

    from cellfm_torch.commands.activations import checkpointed_activations, embedding_activations
    from cellfm_torch.memory.device import CPU_FRAGMENTATION, available_memory
    from cellfm_torch.model import cost

    where, kind = torch.device(device), getattr(torch, dtype)
    # float16 and bfloat16 take the same memory, and every CPU can do the latter.
    tried = torch.bfloat16 if kind == torch.float16 and where.type == "cpu" else kind
    cells = tokens / genes
    state = cost.training_state(config)
    training = checkpointed_activations(
        config, dtype=tried, device=where, cells=cells, tokens=tokens, layers=checkpointed
    )
    embedding = embedding_activations(config, dtype=tried, device=where).of(cells=cells, tokens=tokens)
    per_cell = cost.tokens_per_cell(config, genes)
    operations = {
        "embedding": cost.operations_per_token(config),
        "training": cost.training_operations_per_token(config, checkpointed=checkpointed),
    }
    speed = rate or measured_rate(where, kind)
    share = utilisation or usual_utilisation(config, "cpu" if where.type == "cpu" and not rate else "cuda")
    plain = {"embedding": operations["embedding"], "training": cost.training_operations_per_token(config)}
    # Recomputing is no useful arithmetic: it takes time, and does not count.
    seconds = {name: operations[name] * per_cell / (share[name] * speed) for name in operations}
    return {
        "network": dataclasses.asdict(config),
        "batch": {"gene_tokens": tokens, "cells": cells, "genes_per_cell": genes, "tokens_per_cell": per_cell},
        "dtype": dtype,
        "parameters": {**cost.parameter_counts(config), "total": sum(cost.parameter_counts(config).values())},
        "training_memory": {
            "weights": state.weights,
            "gradients": state.gradients,
            "optimizer": state.optimizer,
            "activations": training.chosen,
            "activations_no_layer_checkpointed": training.none,
            "activations_every_layer_checkpointed": training.every,
            "checkpointed_layers": checkpointed,
            "total": state.total + training.chosen,
        },
        "embedding_memory": {"weights": state.weights, "activations": embedding, "total": state.weights + embedding},
        "operations_per_token": plain,
        "operations_per_cell": {name: value * per_cell for name, value in plain.items()},
        "rate": {"operations_per_second": speed, "measured_on": None if rate else str(where)},
        "utilisation": share,
        "cells_per_second": {name: 1 / value for name, value in seconds.items()},
        "available_memory": None if rate else available_memory(where),
        "process_memory_factor": CPU_FRAGMENTATION if where.type == "cpu" and not rate else 1.0,
    }


def parsers() -> list[argparse.ArgumentParser]:
    """Return the options."""
    parser = OneLineParser(
        prog="cellfm estimate",
        description="Memory, arithmetic and expected speed of a model, before it runs.",
        epilog="examples: cellfm estimate 800m --tokens 65536 --dtype bfloat16 --rate 600; "
        "cellfm estimate 800m --gpus 8,64 --cells 100e6 --epochs 2",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("model", help="tiny, 80m, 800m or a model folder")
    add("changes", nargs="*", metavar="FIELD=VALUE", help="fields of the network that differ, such as num_layers=12")
    add("--tokens", type=int, metavar="N", help="gene tokens per batch (default: 16384, or CELLS x GENES)")
    add("--batch-cells", type=int, metavar="B", help="cells per batch, instead of --tokens")
    add("--genes", type=int, metavar="L", default=GENES_PER_CELL, help="gene tokens per cell (default: %(default)s)")
    add("--dtype", choices=DTYPES, default="float32", help="of the products; weights stay in float32")
    add("--checkpointing", metavar="none|all|N", default="none", help="layers that compute forward twice")
    add("--device", choices=("cpu", "cuda"), help="device to measure on (default: cuda where there is one)")
    add("--rate", type=float, metavar="TFLOPS", help="rate of matrix products of the device meant, not this one's")
    add("--utilisation", type=float, metavar="U", help="share of that rate that is reached (default: as measured)")
    add("--json", action="store_true", help="print JSON, in bytes and operations")
    estimate_cluster.add_options(parser)
    return [parser]


def _run(given: argparse.Namespace) -> dict[str, Any]:
    config = network_config(given.model, given.changes)
    for name in ("tokens", "batch_cells", "genes", "rate", "utilisation", *estimate_cluster.NUMBERS):
        value = getattr(given, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be a number above 0")
    if given.tokens and given.batch_cells:
        raise UserError("--tokens and --batch-cells both say how large a batch is: give one of them")
    tokens = given.tokens or (given.batch_cells * given.genes if given.batch_cells else 16384)
    layers = {"none": "0", "all": str(config.num_layers)}.get(given.checkpointing, given.checkpointing)
    if not layers.isdecimal():
        raise UserError(f"--checkpointing {given.checkpointing}: must be none, all or a number of layers")
    checkpointed = min(int(layers), config.num_layers)
    if given.gpus:
        return estimate_cluster.plans(given, config, tokens=tokens, checkpointed=checkpointed)
    import torch

    if given.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no CUDA device here; give --rate TFLOPS of the one you mean")
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu" and given.dtype == "float16" and not given.rate:
        raise UserError("--dtype float16: CPUs take minutes for one product; give --rate TFLOPS of the device you mean")
    return estimate(
        config,
        tokens=tokens,
        genes=given.genes,
        dtype=given.dtype,
        device=device,
        checkpointed=checkpointed,
        rate=given.rate and given.rate * 1e12,
        utilisation=given.utilisation and dict.fromkeys(("embedding", "training"), given.utilisation),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = parsers()[0].parse_intermixed_args(arguments)
    try:
        result = _run(given)
    except UserError as problem:
        return complain(problem)
    answer(**result)
    if given.json:
        print(json.dumps(result, indent=2))
    elif given.gpus:
        estimate_cluster.show(result, title=" ".join([given.model, *given.changes]))
    else:
        from cellfm_torch.commands.estimate_table import show

        show(result, title=" ".join([given.model, *given.changes]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
