"""Training steps on PBMC3k: forward, loss and backward beside the peer's, and what each of our choices is worth.

Shapes: B cells, N genes of all cells together.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.cells import batches_of, first_cells, network_of, num_tokens, operations_per_token, padded_cells
from benchmarks.embed import rate_note, shapes
from benchmarks.fresh import peak_of
from benchmarks.machine import full_machine, versions
from benchmarks.peer import PADDED, Peer, padded, peer_name
from benchmarks.report import progress
from benchmarks.settings import Settings
from benchmarks.timing import Side, Work, matmul_side, take_turns, utilisation
from cellfm_torch import CellBatch, CellFM, pretraining_loss
from cellfm_torch.errors import UserError
from cellfm_torch.memory.checkpointing import checkpoint_layers
from cellfm_torch.ops.backend import runs_on, use_backend
from cellfm_torch.optim import MindSporeAdam

ALLOWED = {"loss": 1e-4, "gradient": 1e-2}
"""Largest relative differences from the peer at which a speed is reported (float32).

Of 200,000 activations before a relu about one changes its sign by rounding, which is worth up to 2e-3 in a gradient.
"""

FORWARD_AND_BACKWARD = 3
"""Arithmetic of a training step in units of its forward pass."""


def gradients(network: CellFM, batch: CellBatch, *, targets_only: bool = True) -> tuple[float, dict[str, Tensor]]:
    """Return loss and gradients without dropout, float32."""
    network.eval()
    network.zero_grad(set_to_none=True)
    loss = pretraining_loss(network(batch, targets_only=targets_only), batch)
    loss.backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad(set_to_none=True)
    network.train()
    return float(loss.detach()), found


def worst_gradient(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Return the largest RMS of a difference over the RMS of the peer's gradient, over the tensors."""
    pairs = [(grad, theirs[peer_name(name)].to(grad)) for name, grad in ours.items()]
    errors = [float((grad - other).norm() / other.norm()) for grad, other in pairs if other.any()]
    return max(errors, key=lambda x: (x != x, x))  # NaN is larger than anything


def compare(network: CellFM, peer: Peer, batch: CellBatch) -> dict[str, float]:
    """Return relative differences from the corrected peer: of the loss, and of the gradients in both precisions."""
    loss, ours = gradients(network, batch)
    their_loss, theirs = peer.corrected_gradients(padded(batch))
    double = {name: getattr(batch, name).double() for name in ("values", "target_values", "read_depth")}
    exact = copy.deepcopy(network).double()
    _, exact_grads = gradients(exact, dataclasses.replace(batch, **double))
    return {
        "loss": abs(loss - their_loss) / abs(their_loss),
        "gradient": worst_gradient(ours, theirs),
        "gradient_of_our_float64": worst_gradient(exact_grads, theirs),
    }


@contextlib.contextmanager
def without_onednn() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of TF32 on Intel's GPUs, each time a flag is set
        with torch.backends.mkldnn.flags(enabled=False):
            yield


@contextlib.contextmanager
def checkpointed(network: CellFM) -> Iterator[None]:
    """Keep of every layer its input only, and compute the rest again in the backward pass."""
    checkpoint_layers(network.encoder, "all")
    try:
        yield
    finally:
        checkpoint_layers(network.encoder, "none")


def other_backends(settings: Settings) -> list[str]:
    """Return the backends beside the one that is taken by itself: eager on a CPU, Triton on a GPU that has it."""
    x = torch.empty(1, device=settings.device, dtype=settings.torch_dtype)
    return [name for name in ("eager", "compiled") if name != runs_on(x)]


def warmed(side: Side) -> bool:
    """Run a side once; False where its compiler fails, which leaves the eager path under another name."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        side.call(0)
    return not any("torch.compile failed" in str(warning.message) for warning in said)


class Steps:
    """Training steps on one network, each on the batch of its turn."""

    def __init__(self, network: CellFM, batches: list[CellBatch], settings: Settings) -> None:
        self.network, self.batches, self.settings = network, batches, settings

    def side(
        self,
        name: str,
        *,
        targets_only: bool = True,
        around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
        optimiser: torch.optim.Optimizer | None = None,
        batches: list[CellBatch] | None = None,
        real: list[CellBatch] | None = None,
    ) -> Side:
        """Make a side.

        Parameters
        ----------
        around
            What a step happens in.
        optimiser
            Whose step is part of ours.
        batches
            One per turn, instead of those of this object; `real` are the same cells without padding, which count.
        """
        given, counted = batches or self.batches, real or batches or self.batches

        def call(turn: int) -> Work:
            batch = given[turn % len(given)]
            self.network.zero_grad(set_to_none=True)
            with around():
                with self.settings.autocast():
                    loss = pretraining_loss(self.network(batch, targets_only=targets_only), batch)
                loss.backward()
            if optimiser is not None:
                optimiser.step()
            batch = counted[turn % len(counted)]
            return batch.num_cells, num_tokens(self.network, batch)

        return Side(name, call)


def measure(settings: Settings) -> dict[str, Any]:
    network = network_of(settings).train()
    batches = batches_of(network, settings, training=True)[: settings.repeats]
    few = [first_cells(batch, settings.peer_cells) for batch in batches]
    peer = Peer(settings.peer, network) if settings.peer else None
    error = compare(network, peer, few[0]) if peer else None
    if error is not None and not all(error[name] <= limit for name, limit in ALLOWED.items()):  # NaN is beyond
        raise UserError(f"loss and gradients differ from the peer's by {error}: no speed is reported")
    # The optimisers of the timed rows move the weights by nothing, so that all rows work on the same network.
    published = MindSporeAdam(network.parameters(), lr=0.0)
    fused = torch.optim.AdamW(network.parameters(), lr=0.0, weight_decay=0.0, fused=True)

    steps = Steps(network, batches, settings)
    main = steps.side("ragged, loss on targets")
    sides = [main]
    if settings.device == "cpu" and settings.dtype == "float32" and torch.backends.mkldnn.is_available():
        sides.append(steps.side("without oneDNN", around=without_onednn))
    sides.append(steps.side("all genes decoded", targets_only=False))
    sides.append(
        steps.side(f"padded to {PADDED:,}", batches=[padded_cells(b, PADDED) for b in few], real=few),
    )
    sides.append(steps.side("layers checkpointed", around=functools.partial(checkpointed, network)))
    sides += [steps.side(f"backend {b}", around=functools.partial(use_backend, b)) for b in other_backends(settings)]
    sides.append(steps.side("with MindSpore's Adam", optimiser=published))
    sides.append(steps.side("with fused AdamW", optimiser=fused))
    matmul = matmul_side(settings.device, settings.torch_dtype)
    onednn = matmul_side(settings.device, settings.torch_dtype, onednn=True) if settings.device == "cpu" else None
    theirs = None
    if peer:
        laid = [padded(batch) for batch in few]

        def peer_call(turn: int) -> Work:
            peer.network.zero_grad(set_to_none=True)
            with settings.autocast():
                loss = peer.loss(laid[turn % len(laid)])
            loss.backward()
            batch = few[turn % len(few)]
            return batch.num_cells, num_tokens(network, batch)

        theirs = Side("peer", peer_call)
    failed = [side.name for side in sides if not warmed(side)]
    sides = [side for side in sides if side.name not in failed]
    if theirs:
        theirs.call(0)
    order = [matmul, *([onednn] if onednn else []), *sides, *([theirs] if theirs else [])]
    take_turns(order, progress(settings.repeats, "train"), device=settings.device)

    cost = FORWARD_AND_BACKWARD * operations_per_token(network.config)
    rows: list[dict[str, Any]] = []
    for side in (*sides, *([theirs] if theirs else [])):
        row = {
            "name": "CellFM-torch, padded to 2,048" if side is theirs else side.name,
            "cells": sum(work[0] for work in side.work),
            "cells_per_second": side.steady(),
            "tokens_per_second": side.steady(1),
            "useful_utilisation": utilisation(side, matmul, cost),
            "ratio_to_peer": side.ratio_to(theirs) if theirs else None,
            "ratio_spread": side.spread_to(theirs) if theirs else None,
            "ratio_to_first": side.ratio_to(main),
            "seconds": side.seconds,
        }
        if side is main:
            row |= {"max_error": error["loss"] if error else None, "peak_memory_mb": peak_of("train", settings)}
        if side is theirs:
            row["peak_memory_mb"] = peak_of("peer_train", settings)
        rows.append(row)
    rows += [{"name": name, "cells_per_second": None, "ratio_to_peer": None} for name in failed]
    if settings.device == "cpu":
        rows.append({"name": "on a GPU, bf16", "cells_per_second": None, "ratio_to_peer": None})
    head = rows[0]
    notes = rate_note(matmul, onednn)
    notes.append(
        "A step is forward, loss and backward of a batch by token budget in train mode; the optimiser has rows of its "
        f"own. Padded: {settings.peer_cells} cells, filled up with hidden tokens, for the cost alone."
    )
    if error:
        notes.append(
            f"Against the peer with slope 0.2, epsilon 1e-7 and without dropout: loss {error['loss']:.1e} (max error), "
            f"worst gradient {error['gradient']:.1e}, and {error['gradient_of_our_float64']:.1e} where ours is in "
            "float64 (RMS of the difference over RMS; one activation in 200,000 changes its sign by rounding)."
        )
        notes.append(
            f"The peer is timed as it ships, {settings.peer_cells} cells a step laid out beforehand, recomputation off "
            "(the checkout that was looked at takes that switch and does not use it). "
            "Peak memory is of one such step each: a batch of the token budget for ours, those cells for the peer."
        )
    return {
        "theme": "train",
        "title": f"Training steps on PBMC3k, {settings.model}, {settings.device}, {settings.dtype}",
        **{key: head[key] for key in ("ratio_to_peer", "useful_utilisation", "max_error")},
        **{key: head[key] for key in ("cells_per_second", "tokens_per_second", "peak_memory_mb")},
        "error": error,
        "matmul_rate": matmul.steady(1),
        "matmul_rate_onednn": onednn.steady(1) if onednn else None,
        "matmul_seconds": matmul.seconds,
        "rows": rows,
        "notes": notes,
        "shapes": shapes(network, batches),
        "settings": settings.as_json(),
        "machine": full_machine(settings.device, torch.get_num_threads()),
        "versions": versions(("torch", "numpy")),
    }
