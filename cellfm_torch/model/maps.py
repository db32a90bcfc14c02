"""What each layer of ERetNet asks and answers with: q and k of all tokens, as a batch passes through.

Shapes: T tokens of all cells (P prefix tokens before the genes of each), H heads, K head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from cellfm_torch.batch import CellBatch
from cellfm_torch.model.cellfm import CellFM
from cellfm_torch.model.layers import Retention, RetentionLayer, project
from cellfm_torch.model.outputs import Encoding
from cellfm_torch.ops.layout import Layout

See = Callable[[int, Tensor, Tensor, Layout], None]
"""Layer (from 0), q (T, H, K), k (T, H, K) and where the tokens of each cell are, prefix tokens first."""


@torch.inference_mode()
def read_layers(network: CellFM, batch: CellBatch, see: See, *, layers: Collection[int] | None = None) -> Encoding:
    """Encode a batch and show q and k of its layers, one layer at a time.

    Parameters
    ----------
    network
        In evaluation mode.
    batch
        Nothing hidden.
    see
        Called for each layer, first to last; keeps nothing it does not need.
    layers
        Which, from 0; None: all.

    Returns
    -------
    Encoding
        What the encoder makes of the batch.

    Raises
    ------
    ValueError
        If a value is hidden: such a token enters no state in half of the layers.
    """
    if bool(batch.hidden.any()):
        raise ValueError("read_layers is for batches in which nothing is hidden")
    wanted = range(len(network.encoder)) if layers is None else layers
    with ExitStack() as hooks:
        for i in wanted:
            retention = cast(RetentionLayer, network.encoder[i]).retention

            def shown(module: Retention, given: tuple[Any, ...], options: dict[str, Any], i: int = i) -> None:
                q, k = (
                    rearrange(F.relu(y), "t (h k) -> t h k", h=module.num_heads)
                    for y in project(given[0], module.q_proj, module.k_proj)
                )
                see(i, q, k, Layout.of(options["offsets"]))

            hooks.callback(retention.register_forward_pre_hook(shown, with_kwargs=True).remove)
        return network.encode(batch)
