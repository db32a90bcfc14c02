"""Memory of a network's activations: counted on a few tokens of a small network of the same kind, then scaled up.

Counted rather than written down as a formula, so that it is what the code at hand keeps, on this device and in this
precision. Scaling up is exact where bytes are what they are: linear in tokens, cells and layers, and at most quadratic
in the width at a given head dim.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cellfm_torch.batch import CellBatch
from cellfm_torch.memory.checkpointing import checkpoint_layers
from cellfm_torch.memory.ledger import Ledger
from cellfm_torch.model import CellFM, CellFMConfig
from cellfm_torch.tasks.losses import pretraining_loss

PROBE_DEPTHS = (2, 4)
"""Layers of the networks that are tried for a deeper one: one layer in each half, and one more in each."""

PROBE_HEADS = (2, 4, 6)
"""Heads of the networks that are tried for a wider one."""

PROBE_GENES = 67
"""Gene tokens per cell of the batches that are tried. Prime: no batch is as long as a weight is wide."""

Array = NDArray[np.float64]
Step = Callable[[CellFM, CellBatch, Ledger], None]


@dataclasses.dataclass(frozen=True)
class Activations:
    """Bytes of a batch as a linear function of its size, one for the peak of each phase.

    Attributes
    ----------
    fixed, per_cell, per_token : (2,) float
        Bytes of the forward and of the backward pass; tokens are gene tokens.
    """

    fixed: Array
    per_cell: Array
    per_token: Array

    def of(self, *, cells: float, tokens: float) -> int:
        """Bytes of a batch."""
        return max(0, round(float((self.fixed + self.per_cell * cells + self.per_token * tokens).max())))


def training_activations(
    config: CellFMConfig, *, dtype: torch.dtype, device: torch.device, checkpointed: bool
) -> Activations:
    """Bytes at the peak of a training step, beside weights, gradients and optimiser.

    Parameters
    ----------
    config
        Network.
    dtype
        Of the products.
    device
        Where to try.
    checkpointed
        Every layer keeps its input only.
    """

    def step(network: CellFM, batch: CellBatch, ledger: Ledger) -> None:
        checkpoint_layers(network.encoder, "all" if checkpointed else "none")
        with _autocast(device, dtype):
            loss = pretraining_loss(network(batch), batch)
        ledger.backward(loss, network.parameters())

    return _linear(_polynomial(PROBE_DEPTHS, config.num_layers, lambda depth: _by_heads(config, depth, step, device)))


def embedding_activations(config: CellFMConfig, *, dtype: torch.dtype, device: torch.device) -> Activations:
    """Bytes at the peak of computing embeddings, beside the weights; see :func:`training_activations`."""

    def step(network: CellFM, batch: CellBatch, ledger: Ledger) -> None:
        with torch.no_grad(), _autocast(device, dtype):
            network.eval().encode(batch)

    # At its own width: which part of the network has the peak depends on it.
    peaks = lambda depth: _peaks(dataclasses.replace(config, num_layers=depth), step, device)  # noqa: E731
    return _linear(_polynomial(PROBE_DEPTHS, config.num_layers, peaks))


class Checkpointed(NamedTuple):
    """Bytes of a training batch with no layer checkpointed, with all of them, and with as many as are asked for."""

    none: int
    every: int
    chosen: int


def checkpointed_activations(
    config: CellFMConfig, *, dtype: torch.dtype, device: torch.device, cells: float, tokens: float, layers: int
) -> Checkpointed:
    """Bytes of a batch at the peak of a training step with so many layers checkpointed.

    Linear in the layers but for the last one: at the peak one layer holds everything, whether it kept it or has just
    computed it again.
    """
    none, every = (
        training_activations(config, dtype=dtype, device=device, checkpointed=all_of_them).of(
            cells=cells, tokens=tokens
        )
        for all_of_them in (False, True)
    )
    chosen = round(none + (every - none) * min(1.0, layers / max(1, config.num_layers - 1)))
    return Checkpointed(none, every, chosen)


def _autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def _polynomial(points: Sequence[int], at: int, value: Callable[[int], Array]) -> Array:
    """Value at `at` of the polynomial through ``(x, value(x))`` for x in `points`; itself where `at` is small."""
    if at <= points[-1]:
        return value(at)
    weights = [np.prod([(at - y) / (x - y) for y in points if y != x]) for x in points]
    return np.sum([weight * value(x) for weight, x in zip(weights, points, strict=True)], axis=0)


def _by_heads(config: CellFMConfig, depth: int, step: Step, device: torch.device) -> Array:
    def peaks(heads: int) -> Array:
        narrow = dataclasses.replace(config, num_layers=depth, num_heads=heads, dim=heads * config.head_dim)
        return _peaks(narrow, step, device)

    return _polynomial(PROBE_HEADS, config.num_heads, peaks)


def _linear(peaks: Array) -> Activations:
    short, long, two = peaks
    per_token, per_cell = (long - short) / PROBE_GENES, two - long
    return Activations(short - per_token * PROBE_GENES - per_cell, per_cell, per_token)


def _peaks(config: CellFMConfig, step: Step, device: torch.device) -> Array:
    """Bytes (3, 2) forward and backward of: one cell, one of twice the genes, two cells."""
    with torch.device("meta"):
        network = CellFM(dataclasses.replace(config, num_genes=PROBE_GENES))
    network = network.to_empty(device=device)
    for x in network.state_dict().values():
        nn.init.zeros_(x)  # only sizes matter
    rows = []
    for lengths in ([PROBE_GENES], [2 * PROBE_GENES], [PROBE_GENES] * 2):
        batch = _batch_of(config, lengths, device)
        network.zero_grad(set_to_none=True)
        with Ledger() as ledger:
            step(network, batch, ledger)
        rows.append((ledger.peak, ledger.backward_peak))
    return np.array(rows, dtype=np.float64)


def _batch_of(config: CellFMConfig, lengths: list[int], device: torch.device) -> CellBatch:
    total = sum(lengths)
    target = torch.arange(total) % 5 == 0  # 20 %, as in pretraining
    batch = CellBatch(
        gene_ids=torch.arange(total) % PROBE_GENES + 1,
        values=torch.ones(total),
        hidden=target,
        offsets=torch.tensor([0, *lengths]).cumsum(0),
        cell_index=torch.arange(len(lengths)),
        target=target,
        target_values=torch.ones(total),
        read_depth=torch.full((len(lengths), 2), 1000.0) if config.read_depth else None,
    )
    return batch.to(device)
