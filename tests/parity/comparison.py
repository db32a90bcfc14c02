"""Compare our network with a recording of the official one (record_mindspore.py), layer by layer.

Shapes: B cells, L genes of the longest cell, P prefix tokens, N genes of all cells together, D width.
"""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import batch_of, official_loss
from rich.console import Console
from rich.table import Table
from tolerances import Tolerance, tolerance_between
from torch import Tensor

from cellfm_torch import CellBatch, CellFM
from cellfm_torch.convert.names import target_name
from cellfm_torch.errors import UserError

Arrays = dict[str, Any]
DEVICES = {"cpu": "CPU", "cuda": "GPU"}  # as PyTorch calls them, as MindSpore does
HEADS = {  # recorded name: attribute of Prediction
    "gw_pred": "by_gene",
    "cw_pred": "by_cell",
    "z_prob_gw": "expressed_by_gene",
    "z_prob_cw": "expressed_by_cell",
}


@dataclass(frozen=True)
class Stage:
    """One row of the table: what was compared, how far apart it is, and how far it may be."""

    name: str
    largest: float
    relative: float
    allowed: float

    @property
    def beyond(self) -> bool:
        """Whether the error is too large; NaN is."""
        return not self.relative <= self.allowed


@dataclass
class Report:
    """All stages in the order of computation, and what could not be compared."""

    about: dict[str, Any]
    ours: str
    tolerance: Tolerance
    stages: list[Stage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def first_beyond(self) -> Stage | None:
        """Where the two part."""
        return next((stage for stage in self.stages if stage.beyond), None)

    def render(self) -> str:
        """Write the table as text."""
        about = self.about
        theirs = f"MindSpore {about['mindspore']} {about['mode']}, {about['device']}, {about['dtype']}"
        table = Table(title_justify="left")
        for heading, justify in (("", "left"), ("largest error", "right"), ("relative", "right"), ("allowed", "right")):
            table.add_column(heading, justify=justify)  # type: ignore[arg-type]
        table.add_column("")
        for stage in self.stages:
            verdict = "beyond" if stage.beyond else ""
            if stage is self.first_beyond:
                verdict = "<- first beyond tolerance"
            numbers = (f"{x:.1e}" for x in (stage.largest, stage.relative, stage.allowed))
            table.add_row(stage.name, *numbers, verdict, style="red" if stage.beyond else None)
        console = Console(file=io.StringIO(), width=120)
        console.print(f"{about['checkpoint']}, {about['cells']}\ntheirs: {theirs}\nours: {self.ours}")
        console.print(table)
        console.print("relative: largest error / mean magnitude; gradients: norm of the difference / norm")
        console.print(f"tolerance: {self.tolerance.reason}")
        for note in self.notes:
            console.print(f"note: {note}")
        return console.file.getvalue()  # type: ignore[attr-defined]


def read_recording(path: Path) -> tuple[dict[str, Any], Arrays]:
    """Read (about, arrays) of a recording.

    Raises
    ------
    UserError
        If the file is not one.
    """
    try:
        with np.load(path) as file:
            arrays = dict(file)
        about = json.loads(str(arrays.pop("about")))
    except (OSError, ValueError, KeyError) as problem:
        raise UserError(f"{path}: not a recording of record_mindspore.py ({problem})") from problem
    if about["format"] != 1:
        raise UserError(f"{path}: has format {about['format']}, this reads format 1; record it again")
    return about, arrays


def compare(
    about: dict[str, Any], arrays: Arrays, network: CellFM, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Report:
    """Run our network on the recorded input and compare everything that was recorded.

    Raises
    ------
    UserError
        If network and recording have different sizes.
    """
    config = network.config
    sizes = {"num_layers": config.num_layers, "dim": config.dim, "num_heads": config.num_heads, "rows": config.num_rows}
    for name, size in sizes.items():
        if about[name] != size:
            raise UserError(f"the recording has {name} {about[name]}, the model {size}: not the same checkpoint")
    batch, valid = batch_of(arrays, zeros=about["zeros"])
    batch = batch.to(device)
    network = network.to(device=device, dtype=dtype).eval()
    with torch.no_grad():
        layers, prediction = run(network, batch)
    sides = (about["device"], about["dtype"]), (DEVICES[torch.device(device).type], str(dtype).removeprefix("torch."))
    tolerance = tolerance_between(*sides, activations=layers["0"].numel())
    report = Report(about, f"torch {torch.__version__}, {device}, {sides[1][1]}", tolerance)
    num_prefix = arrays["layer.0"].shape[1] - arrays["gene"].shape[1]
    mask = valid.numpy()

    def add(stage: str, ours: Tensor, theirs: np.ndarray, allowed: float) -> None:
        expected = torch.from_numpy(theirs).double()
        if not expected.isfinite().all():
            report.notes.append(f"{stage}: the recording itself is not finite")
        error = (ours.double().cpu() - expected).abs().max().item()
        report.stages.append(Stage(stage, error, error / expected.abs().mean().item(), allowed))

    for number, (stage, x) in enumerate(layers.items()):
        theirs = arrays[f"layer.{stage}"]
        kept = np.concatenate([theirs[:, :num_prefix].reshape(-1, config.dim), theirs[:, num_prefix:][mask]])
        label = f"layer {stage}" if number else "tokens"
        add(label, prefixes_first(x, batch, num_prefix), kept, tolerance.after(number))
    end = tolerance.after(config.num_layers)
    for key, output in HEADS.items():
        if key in arrays:
            factor = cancellation(network, prediction, batch) if output == "by_cell" else 1.0
            add(output.replace("_", " "), getattr(prediction, output), arrays[key][mask], end * factor)
    if "label" in arrays:
        report.notes.append("cell-type heads, and the loss with them, are not compared: they belong to a task")
    elif "loss" in arrays:
        compare_gradients(report, network, batch, arrays)
    return report


def cancellation(network: CellFM, prediction: Any, batch: CellBatch) -> float:
    """Return how much larger a relative error of the cell's encoding becomes in the prediction by cell.

    That is a sum of D terms of both signs; independent errors of the terms add up to
    ``sqrt(sum terms^2)`` while the sum itself is much smaller than that where signs are mixed (30 times at D 1536).
    """
    with torch.no_grad():
        factors = network.cell_decoder.map(prediction.encoding.gene_embedding).sigmoid()
        terms = (factors * prediction.encoding.cell[batch.cell_of_gene]).double()
        return max(1.0, float(terms.square().sum(-1).sqrt().mean() / terms.sum(-1).abs().mean()))


def run(network: CellFM, batch: CellBatch) -> tuple[dict[str, Tensor], Any]:
    """Run our network, keeping the input of the first layer and the output of each."""
    kept: dict[str, Tensor] = {}
    hooks = [network.encoder[0].register_forward_pre_hook(lambda _, inputs: kept.update(input=inputs[0]))]
    for index, layer in enumerate(network.encoder):
        hooks.append(layer.register_forward_hook(lambda *call, index=index: kept.update({str(index): call[-1]})))
    try:
        prediction = network(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return kept, prediction


def prefixes_first(x: Tensor, batch: CellBatch, num_prefix: int) -> Tensor:
    """Sort tokens (T, D), which lie cell by cell, into all prefix tokens and then all genes."""
    starts = batch.offsets[:-1] + num_prefix * torch.arange(batch.num_cells, device=x.device)
    is_prefix = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    is_prefix[(starts[:, None] + torch.arange(num_prefix, device=x.device)).flatten()] = True
    return torch.cat([x[is_prefix], x[~is_prefix]])


def compare_gradients(report: Report, network: CellFM, batch: CellBatch, arrays: Arrays) -> None:
    """Add the loss, and the worst gradient of each part of the network."""
    network.zero_grad()
    loss = official_loss(network, batch, ecs=report.about["ecs"])
    loss.backward()
    expected = float(arrays["loss"])
    error = abs(float(loss.detach()) - expected)
    report.stages.append(Stage("loss", error, error / abs(expected), report.tolerance.loss))
    ours = dict(network.named_parameters())
    worst: dict[str, Stage] = {}
    left = []
    for key in (key for key in arrays if key.startswith("grad.")):
        theirs = torch.from_numpy(arrays[key]).double()
        parameter = ours.get(target_name(key[5:]) or "")
        if parameter is None or parameter.grad is None:
            if theirs.any():  # zero_emb is recorded even where nothing uses it
                left.append(key[5:])
            continue
        difference = parameter.grad.double().cpu().reshape(theirs.shape) - theirs
        norm = theirs.norm().item()
        relative = difference.norm().item() / norm if norm else math.inf
        layer = re.match(r"encoder\.(\d+)\.", key[5:])
        part = f"layer {layer[1]}" if layer else key[5:].split(".")[0]
        stage = Stage(f"gradient, {part}", difference.abs().max().item(), relative, report.tolerance.gradients)
        if part not in worst or not relative <= worst[part].relative:
            worst[part] = stage
    report.stages.extend(worst.values())
    if left:
        report.notes.append(f"{len(left)} gradients have no parameter here, e.g. {left[0]}")
