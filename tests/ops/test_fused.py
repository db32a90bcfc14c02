"""A dense layer in one pass gives what its parts give, with and without oneDNN."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cellfm_torch.ops import fused
from cellfm_torch.ops.linear import Dense


@pytest.mark.parametrize("affine", [fused.affine, fused.Packed()], ids=["plain", "packed"])
@pytest.mark.parametrize("path", ["onednn", "torch", "learns"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 50])
def test_is_the_sum_of_its_parts(
    path: str, bias: bool, rows: int, affine: fused.Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path == "torch":
        monkeypatch.setattr(fused, "_takes_onednn", lambda _: False)
    torch.manual_seed(0)
    layer, x, add = Dense(24, 16, bias=bias), torch.randn(rows, 24), torch.randn(rows, 16)
    plain = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    with torch.set_grad_enabled(path == "learns"):
        found = affine(layer, x), affine(layer, x, relu=True), affine(layer, x, add=add)
    assert all(y.requires_grad == (path == "learns") for y in found)
    for ours, exact in zip(found, (plain, plain.relu(), plain + add), strict=True):
        torch.testing.assert_close(ours.double(), exact, atol=1e-5, rtol=1e-5)  # float32 sums of 24 terms


def test_gradients_reach_inputs_of_frozen_layers() -> None:
    layer, x = Dense(4, 3).requires_grad_(False), torch.randn(2, 4, requires_grad=True)
    fused.affine(layer, x, relu=True).sum().backward()
    assert x.grad is not None and layer.weight.grad is None


@torch.no_grad()
def test_packed_weights_follow_changes() -> None:
    layer, x, packed = Dense(40, 30), torch.randn(5, 40), fused.Packed()
    before = packed(layer, x)
    layer.weight.mul_(2)
    layer.bias.add_(1)
    after = packed(layer, x)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, F.linear(x, layer.weight, layer.bias), atol=1e-5, rtol=1e-5)
    layer.load_state_dict({"weight": torch.ones(30, 40), "bias": torch.zeros(30)}, assign=True)
    torch.testing.assert_close(packed(layer, x)[:, :1], x.sum(1, keepdim=True), atol=1e-5, rtol=1e-5)
