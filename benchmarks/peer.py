"""A checkout of biomed-AI/CellFM-torch as the other side; it is run where it lies, nothing of it is copied.

Shapes: B cells, L = 2,048 gene tokens of a padded cell, D width.

It differs from the published network in LeakyReLU's slope (0.01 for 0.2), LayerNorm's epsilon (1e-5 for 1e-7) and in
that evaluation leaves the read depths out. For the comparison of numbers (only) the first two are set from outside,
and the path that reads the depths is taken; the timed calls are those it ships.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cellfm_torch import CellBatch, CellFM
from cellfm_torch.convert.names import source_name
from cellfm_torch.errors import UserError
from cellfm_torch.model.layers import LEAKY_SLOPE, NORM_EPS

PADDED = 2048


@dataclass
class Padded:
    """A batch in the peer's layout, (B, L) each, valid first."""

    expression: Tensor  # (B, L, 2): 1 where it is visible, and the value
    genes: Tensor
    depths: Tensor  # (B, 2), log1p(read depth / 1000)
    valid: Tensor
    target: Tensor
    target_values: Tensor


def padded(batch: CellBatch, length: int = PADDED) -> Padded:
    """Lay a batch out in the peer's layout."""

    def lay(x: Tensor) -> Tensor:
        out = x.new_zeros(batch.num_cells, length, *x.shape[1:])
        out[:, : int(batch.lengths.max())] = batch.to_padded(x)
        return out

    if batch.read_depth is None:
        raise UserError("--peer is the 80M layout, which reads depths: give --model 80m")
    seen = (~batch.hidden).float()
    unmask = torch.ones(batch.num_cells, length, device=seen.device)
    unmask[:, : int(batch.lengths.max())] -= batch.to_padded(batch.hidden.float())
    value = lay(batch.values * seen)
    nothing = torch.zeros_like(batch.values)
    return Padded(
        expression=torch.stack([unmask, value], -1),
        genes=lay(batch.gene_ids),
        depths=torch.log1p(batch.read_depth / 1000),
        valid=lay(torch.ones_like(batch.values)),
        target=lay(nothing if batch.target is None else batch.target.float()),
        target_values=lay(nothing if batch.target_values is None else batch.target_values),
    )


def peer_name(ours: str) -> str:
    """Name a tensor of ours as the peer does: officially, but for the norms."""
    official = source_name(ours)
    assert official is not None, ours
    return official.replace(".gamma", ".weight").replace(".beta", ".bias")


class Peer:
    """The peer's network with our weights.

    Parameters
    ----------
    checkout
        Folder that holds ``layers/torch_finetune.py``.
    network
        Whose weights it gets; of the 80M layout.

    Raises
    ------
    UserError
        If the folder is no such checkout, or its network has other tensors.
    """

    def __init__(self, checkout: Path, network: CellFM) -> None:
        config = network.config
        if not (checkout / "layers" / "torch_finetune.py").is_file():
            raise UserError(f"--peer {checkout}: no checkout of CellFM-torch (it has no layers/torch_finetune.py)")
        if not config.read_depth or config.zeros:
            raise UserError("--peer is the 80M layout, which reads depths: give --model 80m")
        options = types.SimpleNamespace(
            enc_nlayers=config.num_layers,
            enc_dims=config.dim,
            enc_num_heads=config.num_heads,
            enc_dropout=config.dropout,
            dropout=config.dropout,
            lora=0,
            recompute=False,
            add_zero=True,
            pad_zero=True,
            ecs=False,
            ecs_threshold=0.8,
        )
        sys.path.insert(0, str(checkout))
        try:
            self.network: Any = importlib.import_module("layers.torch_finetune").FinetuneModel(
                config.num_genes, options
            )
        finally:
            sys.path.remove(str(checkout))
        weights = {peer_name(name): x for name, x in network.state_dict().items()}
        try:
            self.network.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise UserError(f"--peer {checkout}: other tensors than ours: {' '.join(str(error).split())}") from error
        self.network.to(next(network.parameters()).device)

    def embed(self, x: Padded) -> Tensor:
        """Return the cls embeddings (B, D) as it ships them."""
        self.network.eval()
        with torch.no_grad():
            return self._encode(x)

    def loss(self, x: Padded) -> Tensor:
        """Return the training loss as it ships it."""
        self.network.train()
        return self._loss(x)

    def _encode(self, x: Padded) -> Tensor:
        made: tuple[Tensor, Tensor] = self.network.encode(x.expression, x.genes, x.depths, x.valid)
        return made[0][:, 0]

    def _loss(self, x: Padded) -> Tensor:
        return self.network(x.target_values, x.expression, x.depths, x.genes, x.target, x.valid)

    @contextlib.contextmanager
    def corrected(self) -> Iterator[None]:
        """Give it the published slope and epsilon, no dropout, and the path that reads depths."""
        changed = []
        for module in self.network.modules():
            name, value = ("negative_slope", LEAKY_SLOPE) if isinstance(module, nn.LeakyReLU) else ("eps", NORM_EPS)
            if isinstance(module, nn.LeakyReLU | nn.LayerNorm):
                changed.append((module, name, getattr(module, name)))
                setattr(module, name, value)
        self.network.eval()
        self.network.training = True  # of the outermost module alone: it chooses the path, dropout lies below
        try:
            yield
        finally:
            for module, name, value in changed:
                setattr(module, name, value)
            self.network.eval()

    def corrected_embedding(self, x: Padded) -> Tensor:
        """Return the cls embeddings (B, D), corrected."""
        with self.corrected(), torch.no_grad():
            return self._encode(x)

    def corrected_gradients(self, x: Padded) -> tuple[float, dict[str, Tensor]]:
        """Return the corrected loss and its gradients, by its own names."""
        with self.corrected():
            self.network.zero_grad(set_to_none=True)
            loss = self._loss(x)
            loss.backward()
        grads = {name: p.grad for name, p in self.network.named_parameters() if p.grad is not None}
        self.network.zero_grad(set_to_none=True)
        return float(loss.detach()), grads
