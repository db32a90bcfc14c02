"""Attention within cells of a ragged batch, against the formula in float64.

Shapes: T tokens of all cells together, H heads, K head dim.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cellfm_torch.ops.attention import ragged_attention

LENGTHS = [5, 1, 17, 2, 64]
# Rounding of sums of 64 terms in another order.
CLOSE = {torch.float64: 1e-13, torch.float32: 2e-6}


def naive(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    out = []
    for a, b, c in zip(*(x.split(lengths) for x in (q, k, v)), strict=True):
        weights = torch.einsum("qhk,shk->hqs", a, b) / a.shape[-1] ** 0.5
        out.append(torch.einsum("hqs,shk->qhk", weights.softmax(-1), c))
    return torch.cat(out)


def drawn(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (sum(LENGTHS), 3, 8)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_and_gradients(dtype: torch.dtype, nested: bool) -> None:
    given = [x.requires_grad_() for x in drawn(dtype)]
    exact = [x.detach().double().requires_grad_() for x in given]
    found, expected = ragged_attention(*given, lengths=LENGTHS, nested=nested), naive(*exact, LENGTHS)
    assert (found - expected).abs().max() < CLOSE[dtype]
    weight = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
    grads = torch.autograd.grad((found * weight).sum(), given)
    for ours, theirs in zip(grads, torch.autograd.grad((expected * weight).sum(), exact), strict=True):
        assert (ours - theirs).abs().max() < 10 * CLOSE[dtype]  # a backward pass adds up more terms


def test_a_strided_view_is_taken() -> None:
    qkv = torch.stack(drawn(torch.float64), dim=1)  # (T, 3, H, K)
    assert torch.equal(
        ragged_attention(*qkv.unbind(1), lengths=LENGTHS),
        ragged_attention(*(x.contiguous() for x in qkv.unbind(1)), lengths=LENGTHS),
    )


def test_dropout_drops_weights() -> None:
    q, k, _ = drawn(torch.float64)
    torch.manual_seed(0)
    rows = ragged_attention(q, k, torch.ones_like(q), lengths=LENGTHS, dropout=0.5)[..., 0]
    assert (rows == 0).any() and rows.max() > 1.5  # kept weights are doubled; without dropout every row sums to 1


def test_no_cells() -> None:
    empty = torch.zeros(0, 3, 8)
    assert ragged_attention(empty, empty, empty, lengths=[]).shape == (0, 3, 8)
