"""What embedding will take, tried on the first cells: memory and time.

Shapes: n cells.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn

from cellfm_torch.batch import CellBatch
from cellfm_torch.callbacks.progress import clock
from cellfm_torch.data.loader import part
from cellfm_torch.data.module import CellDataModule
from cellfm_torch.embedding.compute import Functions
from cellfm_torch.memory.device import available_memory
from cellfm_torch.memory.ledger import Ledger

TRIAL_TOKENS = 2048
"""Gene tokens of the cells that are tried."""


def estimate(network: nn.Module, functions: Functions, data: CellDataModule, *, device: torch.device) -> str:
    """Return a line that says how much memory and time the cells will take.

    Parameters
    ----------
    network
        Is moved to the device.
    functions
        What is computed, each from a batch.
    data
        The cells, of which the first few are tried.
    device
        Where.
    """
    network.to(device)
    lengths = data.table.lengths if data.predict_rows is None else data.table.lengths[data.predict_rows]
    tokens = int(lengths.sum(dtype=np.int64))
    batch = next(iter(data.predict_dataloader()))
    number = max(1, int((batch.offsets[1:] <= TRIAL_TOKENS).sum()))
    trial = part(batch, 0, number).to(device)
    with Ledger() as ledger:
        _run(functions, trial)
    began = time.perf_counter()
    _run(functions, trial)
    seconds = (time.perf_counter() - began) * tokens / trial.num_genes
    # An upper bound: the fast path works on so many tokens at a time as were tried, whatever the budget.
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    memory = weights + ledger.peak * max(1.0, min(data.token_budget or tokens, tokens) / trial.num_genes)
    return (
        f"{len(lengths):,} cells with {tokens:,} gene tokens: about {clock(seconds)} on {device.type}, at most "
        f"{memory / 1e9:.1f} GB of memory ({available_memory(device) / 1e9:.1f} GB free)"
    )


def _run(functions: Functions, batch: CellBatch) -> None:
    for function in functions.values():
        found = function(batch)
        if found.is_cuda:
            torch.cuda.synchronize(found.device)
