"""The numbers recorded from the official MindSpore model, as batches of ours (see README.md beside this file)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cellfm_torch import CellBatch, CellFM, pretraining_loss
from cellfm_torch.convert.mindspore_ckpt import read_checkpoint
from cellfm_torch.convert.network import BUNDLED_ROWS, Converted, convert_tensors
from cellfm_torch.tasks.integrate import IntegrateTask

FOLDER = Path(__file__).parent


@dataclass
class Case:
    """One recorded case: arrays, the converted network, and the batch it was run on."""

    arrays: dict[str, NDArray[np.float32]]
    converted: Converted
    batch: CellBatch
    valid: torch.Tensor

    @property
    def network(self) -> CellFM:
        """The official weights in our network."""
        return self.converted.network


@cache
def manifest() -> dict[str, dict]:  # type: ignore[type-arg]
    """Config, parameter names and shapes of every case."""
    return json.loads((FOLDER / "manifest.json").read_text())  # type: ignore[no-any-return]


def batch_of(arrays: dict[str, NDArray[np.float32]], *, zeros: bool) -> tuple[CellBatch, torch.Tensor]:
    """Turn recorded arrays into (batch, valid)."""
    gene = torch.from_numpy(arrays["gene"]).long()
    if "masked" in arrays:
        flag, value = torch.from_numpy(arrays["masked"]).unbind(-1)
    else:  # annotation: raw values, nothing hidden
        value = torch.from_numpy(arrays["raw"])
        flag = torch.ones_like(value)
    valid = torch.ones_like(gene, dtype=torch.bool) if zeros else torch.from_numpy(arrays["zero_idx"][:, 1:] > 0)
    hidden = (flag == 0) & valid
    given = {}
    if "mask_gene" in arrays:
        given = {"target": torch.from_numpy(arrays["mask_gene"]) > 0, "target_values": torch.from_numpy(arrays["raw"])}
    if "ST_feat" in arrays:  # recorded as log1p(read depth / 1000)
        given["read_depth"] = torch.from_numpy(np.expm1(arrays["ST_feat"].astype(np.float64)) * 1000).float()
    batch = CellBatch.from_padded(
        gene,
        value.masked_fill(hidden, float("nan")),  # a hidden value must never be read
        valid=valid,
        hidden=hidden,
        **given,
    )
    return batch, valid


def load(name: str) -> Case:
    """Load a recorded case with a fresh network; of `train`, the batch of the first step."""
    arrays = dict(np.load(FOLDER / f"{name}.npz"))
    step = {key.removeprefix("step0."): x for key, x in arrays.items()}
    config = manifest()[name]["config"]
    genes = [f"G{i}" for i in range(1, manifest()[name]["n_genes"] + 1)]
    tensors = read_checkpoint(FOLDER / f"{name}.ckpt")
    converted = convert_tensors(tensors, num_heads=config["enc_num_heads"], genes=genes)
    converted.network.eval()
    return Case(arrays, converted, *batch_of(step, zeros=name == "zeros"))


def network_of(checkpoint: Path, num_heads: int) -> CellFM:
    """Convert a checkpoint; where the vocabulary is not a published one, the genes have no names."""
    tensors = read_checkpoint(checkpoint)
    rows = next(len(x) for name, x in tensors.items() if name.split(".")[-1] == "gene_emb")
    genes = None if rows in BUNDLED_ROWS else [f"G{i}" for i in range(1, rows)]
    return convert_tensors(tensors, num_heads=num_heads, genes=genes).network


def official_loss(network: CellFM, batch: CellBatch, *, ecs: bool) -> torch.Tensor:
    """The loss as the official code takes it: integration fine-tuning adds ECS over rows laid out by position."""
    prediction = network(batch)
    if not ecs:
        return pretraining_loss(prediction, batch)
    task = IntegrateTask(network, similarity="positional")
    return torch.stack(list(task.terms(prediction, batch).values())).sum()


def relative_error(ours: torch.Tensor, recorded: NDArray[np.float32]) -> float:
    """Largest absolute error over mean magnitude."""
    difference = np.abs(ours.detach().numpy() - recorded)
    return float(difference.max() / np.abs(recorded).mean())
