"""Record what the official MindSpore CellFM computes, layer by layer, to compare with on a machine with PyTorch.

    python record_mindspore.py --official CHECKOUT --ckpt FILE.ckpt --output FILE.npz

Needs mindspore, numpy, the two files record_*.py beside it, and your own checkout of the official repository. See
docs/parity.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from record_cells import Arrays, Refusal, gene_rows, generated_counts, h5ad_counts, model_input
from record_network import ENCODED, TRAINED, build, find_layout, load, wrap

FORMAT = 1


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Record the official MindSpore CellFM layer by layer.")
    parser.add_argument("--official", type=Path, required=True, help="your checkout of biomed-AI/CellFM")
    parser.add_argument("--ckpt", type=Path, required=True, help="an official checkpoint")
    parser.add_argument("--output", type=Path, required=True, help="the .npz to write")
    parser.add_argument("--h5ad", type=Path, help="take the first cells of this file (default: generated cells)")
    parser.add_argument("--genes", type=Path, help="vocabulary for --h5ad, one symbol a line (default: the official)")
    parser.add_argument("--cells", type=int, default=3, help="how many cells (default: %(default)s)")
    parser.add_argument("--genes-per-cell", type=int, default=48, help="of generated cells (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of cells and masks (default: %(default)s)")
    parser.add_argument("--num-heads", type=int, help="retention heads (default: width / 32)")
    parser.add_argument("--device-target", choices=("CPU", "GPU", "Ascend"), default="CPU")
    parser.add_argument("--mode", choices=("graph", "pynative"), default="graph")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="float16: as in training")
    parser.add_argument("--gradients", action="store_true", help="also the loss and its gradients")
    options = parser.parse_args(arguments)
    if options.cells < 1:
        raise Refusal(f"--cells {options.cells}: must be at least 1")
    if options.output.suffix != ".npz":
        raise Refusal(f"--output {options.output}: must end in .npz")
    if not options.output.parent.is_dir():
        raise Refusal(f"--output {options.output}: there is no folder {options.output.parent}")
    if not options.ckpt.is_file():
        raise Refusal(f"--ckpt {options.ckpt}: no such file")
    if not options.official.is_dir():
        raise Refusal(f"--official {options.official}: no such folder")
    options.official = options.official.resolve()
    return options


def start(options: argparse.Namespace) -> Any:
    """Import MindSpore and choose device and mode."""
    os.environ.setdefault("GLOG_v", "3")  # errors only; its warnings are of its own making
    try:
        import mindspore as ms
    except ImportError as problem:
        raise Refusal(
            f"this needs MindSpore in the interpreter that runs it ({sys.executable}): {problem}"
        ) from problem
    mode = ms.GRAPH_MODE if options.mode == "graph" else ms.PYNATIVE_MODE
    try:
        ms.set_context(mode=mode, device_target=options.device_target)
        ms.Tensor(np.ones(1, np.float32)) + 1  # a device that is not there is noticed on first use
    except Exception as problem:
        raise Refusal(f"--device-target {options.device_target}: {first_line(problem)}") from problem
    return ms


def first_line(problem: BaseException) -> str:
    """Shorten MindSpore's messages, which run over pages."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(problem).__name__


def inputs_of(options: argparse.Namespace, found: dict[str, Any]) -> Arrays:
    """Make or read the cells."""
    rng = np.random.default_rng(options.seed)
    rows = found["rows"]
    if options.h5ad is None:
        cells = generated_counts(rng, rows=rows, num_cells=options.cells, num_genes=options.genes_per_cell)
    else:
        known = gene_rows(official=options.official, genes=options.genes, rows=rows)
        cells = h5ad_counts(rng, options.h5ad, known=known, num_cells=options.cells)
    arrays = model_input(rng, cells, zeros=found["zeros"], rows=rows, num_classes=found["num_classes"])
    if found["layout"] != "depth":
        del arrays["ST_feat"]
    if not found["num_classes"]:
        del arrays["label"]
    if found["layout"] == "annotation":
        del arrays["masked"], arrays["mask_gene"]
    return arrays


def record(ms: Any, network: Any, found: dict[str, Any], arrays: Arrays, *, gradients: bool) -> tuple[Arrays, float]:
    """Run the network; returns the recorded arrays and cells per second of the second forward pass."""
    tensors = {name: ms.Tensor(x) for name, x in arrays.items()}
    out: Arrays = {}
    if gradients:
        network.set_train(True)
        weights = network.trainable_params()
        inputs = [tensors[name] for name in TRAINED[found["layout"]] if name in tensors]
        loss, grads = ms.value_and_grad(network, None, weights)(*inputs)
        out["loss"] = loss.asnumpy()
        for index, weight in enumerate(weights):
            out[f"grad.{weight.name}"] = grads[index].asnumpy().astype(np.float32)
    num_cells, num_genes = arrays["gene"].shape
    prefixes = 3 if found["layout"] == "depth" else 1
    run, layers = wrap(ms, network, found, num_cells=num_cells, num_tokens=num_genes + prefixes)
    inputs = [tensors[name] for name in ENCODED[found["layout"]]]
    for _ in range(2):  # the first one compiles
        began = time.perf_counter()
        results = run(*inputs)
        out["layer.input"] = layers[0].input.asnumpy()
        seconds = time.perf_counter() - began
    for index, layer in enumerate(layers):
        out[f"layer.{index}"] = layer.output.asnumpy()
    if found["layout"] == "annotation":
        names = ["label_logits_gene", "label_logits_cell"]
    elif found["zeros"]:
        results = [part for pair in results for part in pair]
        names = ["gw_pred", "z_prob_gw", "cw_pred", "z_prob_cw"]
    else:
        names = ["gw_pred", "cw_pred"]
    for index, name in enumerate(names):
        out[name] = results[index].asnumpy().astype(np.float32)
    return out, num_cells / seconds


def commit_of(folder: Path) -> str | None:
    """Read the commit of a checkout, where git can tell."""
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def digest_of(path: Path) -> str:
    """Read the SHA-256 of a file of gigabytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    try:
        options = options_of(arguments)
        ms = start(options)
        try:
            weights = ms.load_checkpoint(str(options.ckpt))
        except Exception as problem:
            raise Refusal(f"--ckpt {options.ckpt}: MindSpore cannot read it: {first_line(problem)}") from problem
        found = find_layout({name: tuple(x.shape) for name, x in weights.items()}, num_heads=options.num_heads)
        arrays = inputs_of(options, found)
        network = build(ms, options.official, found)
        load(ms, network, weights)
        weights.clear()  # the network has its own copy, and graph mode makes another
        if options.dtype == "float16":
            network.to_float(ms.float16)
        recorded, speed = record(ms, network, found, arrays, gradients=options.gradients)
    except Refusal as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    for name in sorted(name for name, x in recorded.items() if not np.isfinite(x).all()):
        print(f"warning: the official network gives NaN or infinity in {name}", file=sys.stderr)
    about = {
        "format": FORMAT,
        **found,
        "mindspore": ms.__version__,
        "device": options.device_target,
        "mode": options.mode,
        "dtype": options.dtype,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "official_commit": commit_of(options.official),
        "checkpoint": options.ckpt.name,
        "sha256": digest_of(options.ckpt),
        "cells": options.h5ad.name if options.h5ad else f"generated, seed {options.seed}",
        "cells_per_second": round(speed, 3),
    }
    part = options.output.with_name(options.output.name + ".part")
    with part.open("wb") as file:
        np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays, **recorded)
    part.replace(options.output)
    print(f"{options.output}: {found['layout']}, {len(recorded)} arrays, {options.output.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
