"""A dense layer with its bias, a ReLU and a residual in one pass over memory, where no gradient is asked for.

Shapes: N tokens, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cellfm_torch.ops.linear import _ONEDNN, _takes_onednn


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
    assert not (relu and add is not None)
    learns = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in layer.parameters()))
    if learns or not _takes_onednn(x) or 0 in x.shape:  # oneDNN refuses empty tensors
        out = layer(x)
        out = F.relu(out) if relu else out
        return out if add is None else out + add
    if add is not None:
        out = torch.ops.mkldnn._linear_pointwise.binary(x, add, layer.weight, layer.bias, "add")
    else:
        out = _ONEDNN(x, layer.weight, layer.bias, "relu" if relu else "none", [], "")  # type: ignore[misc]
    return out
