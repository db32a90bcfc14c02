"""A dense layer with its bias, a ReLU and a residual in one pass over memory, where no gradient is asked for.

Shapes: N tokens, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cellfm_torch.ops.linear import _ONEDNN, _takes_onednn

ROWS = 1024
"""Rows of x that weights are packed for; other numbers are served as well."""


def learns(layer: nn.Linear, x: Tensor) -> bool:
    """Whether a gradient will be asked for."""
    return torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in layer.parameters()))


def affine(layer: nn.Linear, x: Tensor, *, relu: bool = False, add: Tensor | None = None) -> Tensor:
    """Return ``layer(x)``, with `relu` its ReLU, plus `add`.

    Parameters
    ----------
    layer
        With or without bias.
    x : (N, I)
    relu
        Not together with `add`.
    add : (N, O), optional
    """
    if learns(layer, x) or not _takes_onednn(x) or 0 in x.shape:  # oneDNN refuses empty tensors
        out = layer(x)
        out = F.relu(out) if relu else out
        return out if add is None else out + add
    return _one_pass(layer, layer.weight, x, relu, add)


def _one_pass(layer: nn.Linear, weight: Tensor, x: Tensor, relu: bool, add: Tensor | None) -> Tensor:
    assert not (relu and add is not None)
    if add is not None:
        return torch.ops.mkldnn._linear_pointwise.binary(x, add, weight, layer.bias, "add")
    return _ONEDNN(x, weight, layer.bias, "relu" if relu else "none", [], "")  # type: ignore[misc]


class Packed:
    """:func:`affine` with weights kept in the order that oneDNN works on: a copy of each, for 4 % of the time.

    Without gradients; a weight that has changed is packed again.
    """

    def __init__(self) -> None:
        self._packed: dict[nn.Linear, tuple[tuple[int, int], Tensor]] = {}

    def __call__(self, layer: nn.Linear, x: Tensor, *, relu: bool = False, add: Tensor | None = None) -> Tensor:
        """Apply a layer; see :func:`affine`."""
        if learns(layer, x) or not _takes_onednn(x) or 0 in x.shape:
            return affine(layer, x, relu=relu, add=add)
        made_of = (layer.weight.data_ptr(), layer.weight._version)
        if self._packed.get(layer, (None,))[0] != made_of:
            self._packed[layer] = made_of, torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
        return _one_pass(layer, self._packed[layer][1], x, relu, add)
