"""A dense layer in one pass gives what its parts give, with and without oneDNN."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cellfm_torch.ops import fused
from cellfm_torch.ops.linear import Dense


@pytest.mark.parametrize("path", ["onednn", "torch", "learns"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 50])
def test_is_the_sum_of_its_parts(path: str, bias: bool, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "torch":
        monkeypatch.setattr(fused, "_takes_onednn", lambda _: False)
    torch.manual_seed(0)
    layer, x, add = Dense(24, 16, bias=bias), torch.randn(rows, 24), torch.randn(rows, 16)
    plain = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    with torch.set_grad_enabled(path == "learns"):
        found = fused.affine(layer, x), fused.affine(layer, x, relu=True), fused.affine(layer, x, add=add)
    assert all(y.requires_grad == (path == "learns") for y in found)
    for ours, exact in zip(found, (plain, plain.relu(), plain + add), strict=True):
        torch.testing.assert_close(ours.double(), exact, atol=1e-5, rtol=1e-5)  # float32 sums of 24 terms


def test_gradients_reach_inputs_of_frozen_layers() -> None:
    layer, x = Dense(4, 3).requires_grad_(False), torch.randn(2, 4, requires_grad=True)
    fused.affine(layer, x, relu=True).sum().backward()
    assert x.grad is not None and layer.weight.grad is None
