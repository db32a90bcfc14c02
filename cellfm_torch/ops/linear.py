"""Dense layers without bias, on the fastest float32 product that the CPU build of PyTorch carries.

PyTorch takes float32 products on x86 to MKL, which on AMD processors runs at half the rate of the oneDNN that the same
wheel carries (measured: benchmarks/results). oneDNN is reached through the operator that torch.compile itself emits.

Shapes: N tokens, I inputs, O outputs, P projections of the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def _takes_onednn(x: Tensor) -> bool:
    """Whether oneDNN is there, allowed, and of use: half precision and autocast have their own rules."""
    usual = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return _ONEDNN is not None and usual and bool(torch.backends.mkldnn.enabled)


def _onednn(x: Tensor, weight: Tensor) -> Tensor:
    out: Tensor = _ONEDNN(x, weight, None, "none", [], "")  # type: ignore[misc]
    return out


# torch.compile has rules of its own for oneDNN's operator, which do not hold for weights that change.
_opaque = torch.library.custom_op("cellfm_torch::product", _onednn, mutates_args=())
_opaque.register_fake(lambda x, weight: x.new_empty(x.shape[0], weight.shape[0]))


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``x @ weight.T`` for x (N, I) and weight (O, I), without a gradient of its own."""
    if not _takes_onednn(x) or 0 in (*x.shape, *weight.shape):  # oneDNN refuses empty tensors
        return F.linear(x, weight)
    return _opaque(x, weight) if torch.compiler.is_compiling() else _onednn(x, weight)


class _Projections(torch.autograd.Function):
    """(N, I) and P weights (O, I) -> P outputs (N, O). Its backward is made of itself, so it has any derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        return tuple(product(x, weight) for weight in weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        grad_x = None
        if ctx.needs_input_grad[0]:
            for grad, weight in zip(grads, weights, strict=True):
                (part,) = _Projections.apply(grad, weight.mT)
                grad_x = part if grad_x is None else grad_x + part
        grad_weights: list[Tensor | None] = [None] * len(weights)
        if any(ctx.needs_input_grad[1:]):
            x_rows = x.mT.contiguous()  # oneDNN would make this copy once per weight
            for i, grad in enumerate(grads):
                if ctx.needs_input_grad[1 + i]:
                    (grad_weights[i],) = _Projections.apply(grad.mT, x_rows)
        return grad_x, *grad_weights


def projections(x: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Project the same tokens several times.

    Parameters
    ----------
    x : (N, I)
    weights : P tensors (O, I)

    Returns
    -------
    P tensors (N, O): ``x @ weight.T`` each.
    """
    if _takes_onednn(x):
        return tuple(_Projections.apply(x, *weights))
    if x.device.type == "cpu" or len(weights) == 1:
        return tuple(F.linear(x, weight) for weight in weights)
    # One large product instead of several fills a GPU better; on a CPU it was measured to be slower.
    return F.linear(x, torch.cat(list(weights))).split([len(weight) for weight in weights], dim=1)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias``; as :func:`torch.nn.functional.linear`.

    Parameters
    ----------
    x : (..., I)
    weight : (O, I)
    bias : (O,), optional
    """
    if not _takes_onednn(x):
        return F.linear(x, weight, bias)
    (out,) = _Projections.apply(x.reshape(-1, x.shape[-1]), weight)
    out = out.reshape(*x.shape[:-1], len(weight))
    return out if bias is None else out + bias


class Dense(nn.Linear):
    """``torch.nn.Linear`` on :func:`linear`: the same parameters and names."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., I) to (..., O)."""
        return linear(x, self.weight, self.bias)
