"""Dense layers: values and derivatives against float64, and when oneDNN is left alone.

Shapes: N tokens, I inputs, O outputs.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cellfm_torch.ops import linear as ops

SHAPES = [(1, 1, 1), (1, 128, 128), (17, 48, 96), (300, 128, 32), (0, 8, 16)]
# Sums of up to 300 float32 products in an order of the library's choice, against float64.
CLOSE = {"atol": 2e-5, "rtol": 2e-5}


@pytest.fixture(params=["onednn", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(ops, "_ONEDNN", None)
    return str(request.param)


def test_onednn_is_in_use_on_this_build() -> None:
    assert ops._takes_onednn(torch.ones(2, 2)) == torch.backends.mkldnn.is_available()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weights", [1, 4])
def test_projections_and_gradients(backend: str, shape: tuple[int, int, int], weights: int) -> None:
    n, i, o = shape
    x = torch.randn(n, i, requires_grad=True)
    w = [torch.randn(o, i, requires_grad=True) for _ in range(weights)]
    grads = [torch.randn(n, o) for _ in w]
    out = ops.projections(x, w)
    found = torch.autograd.grad(out, [x, *w], grads)
    x64, w64 = x.detach().double().requires_grad_(), [y.detach().double().requires_grad_() for y in w]
    exact = [F.linear(x64, y) for y in w64]
    expected = torch.autograd.grad(exact, [x64, *w64], [g.double() for g in grads])
    for a, b in zip((*out, *found), (*exact, *expected), strict=True):
        torch.testing.assert_close(a.double(), b, **CLOSE)


def test_second_derivative(backend: str) -> None:
    def penalty(x: Tensor, w: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(ops.linear(x, w).square().sum(), x, create_graph=True)
        return slope.square().sum()

    x, w = torch.randn(5, 6, requires_grad=True), torch.randn(7, 6, requires_grad=True)
    (found,) = torch.autograd.grad(penalty(x, w), w)
    x64, w64 = x.detach().double().requires_grad_(), w.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(penalty(x64, w64), w64)
    # A polynomial of degree five: float32 rounding, relative to its largest entry.
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_frozen_weights_get_no_gradient() -> None:
    x, frozen, free = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4), torch.randn(5, 4, requires_grad=True)
    sum(y.sum() for y in ops.projections(x, [frozen, free])).backward()  # type: ignore[union-attr]
    assert frozen.grad is None and free.grad is not None and x.grad is not None


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_linear_keeps_leading_axes_and_adds_the_bias(backend: str, lead: tuple[int, ...]) -> None:
    x, w, b = torch.randn(*lead, 4), torch.randn(5, 4), torch.randn(5)
    torch.testing.assert_close(ops.linear(x, w, b), F.linear(x, w, b), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_go_to_torch(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "_ONEDNN", lambda *_: pytest.fail("oneDNN was asked"))
    x, w = torch.randn(2, 3, dtype=dtype), torch.randn(4, 3, dtype=dtype)
    assert ops.linear(x, w).dtype == dtype


def test_autocast_rounds_as_torch_does() -> None:
    x, w = torch.randn(2, 3), torch.randn(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ops.linear(x, w).dtype == torch.bfloat16
        assert all(y.dtype == torch.bfloat16 for y in ops.projections(x, [w, w]))


def test_the_switch_of_torch_is_obeyed() -> None:
    with torch.backends.mkldnn.flags(enabled=False):
        assert not ops._takes_onednn(torch.ones(1, 1))
