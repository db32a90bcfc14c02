"""Cell embeddings beside cls: the mean and the maximum over a cell's genes, and cls after each layer.

Shapes: B cells, N gene tokens and T tokens of all cells together, P prefix tokens per cell, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from cellfm_torch.batch import CellBatch
    from cellfm_torch.model.cellfm import CellFM


class Pooled:
    """Embeddings that need all tokens of the last layer, or layers before it; one pass over a batch for all of them."""

    def __init__(self, network: CellFM) -> None:
        self.network = network
        self._last: tuple[CellBatch, dict[str, Tensor]] | None = None

    def outputs(self) -> dict[str, Callable[[CellBatch], Tensor]]:
        """Return functions from batches to embeddings (B, D): ``"mean"``, ``"max"``, ``"layer1"``, ``"layer2"`` ...

        The mean and the maximum are over the encodings of a cell's genes, without prefix tokens; ``"layer<i>"`` is cls
        after layer i, counted from 1. No gradients, dropout off.
        """
        names = ["mean", "max", *(f"layer{i + 1}" for i in range(len(self.network.encoder)))]
        return {name: lambda batch, name=name: self._run(batch)[name] for name in names}  # type: ignore[misc]

    @torch.inference_mode()
    def _run(self, batch: CellBatch) -> dict[str, Tensor]:
        if self._last is not None and self._last[0] is batch:
            return self._last[1]
        self._last = None  # its memory may be needed
        layers: list[Tensor] = []

        def keep_cls(module: Any, given: Any, x: Tensor) -> None:
            prefix = (len(x) - batch.num_genes) // max(batch.num_cells, 1)
            cls = batch.offsets[:-1] + prefix * torch.arange(batch.num_cells, device=x.device)
            layers.append(x.index_select(0, cls))

        training = self.network.training
        with ExitStack() as hooks:
            for layer in self.network.encoder:
                hooks.callback(layer.register_forward_hook(keep_cls).remove)
            try:
                genes = self.network.eval().encode(batch).genes
            finally:
                self.network.train(training)
        found = {f"layer{i + 1}": x for i, x in enumerate(layers)}
        for kind in ("mean", "max"):
            found[kind] = torch.segment_reduce(genes, kind, offsets=batch.offsets, axis=0)
        self._last = batch, found
        return found
