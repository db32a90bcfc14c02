"""Random-feature attention against the formula in float64, and what a result may depend on.

Shapes: B cells, H heads, P positions, K head dim, M features.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cellfm_torch.ops.favor import FLOOR, draw_projection, favor_attention

B, H, P, K, M = 3, 2, 40, 8, 16


def naive(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """The formula as published, cell by cell, the factor M^(-1/2) included; no gradient through the maxima."""

    def features(x: Tensor, over: tuple[int, ...]) -> Tensor:
        logits = torch.einsum("hpk,mk->hpm", x * K**-0.25, w)
        length = x.square().sum(-1, keepdim=True) / (2 * math.sqrt(K))
        return M**-0.5 * (torch.exp(logits - length - logits.detach().amax(over, keepdim=True)) + FLOOR)

    out = []
    for a, b, c in zip(q, k, v, strict=True):
        queries, keys = features(a, (2,)), features(b, (0, 1, 2))
        weights = torch.einsum("hpm,hsm->hps", queries, keys)
        out.append(weights / weights.sum(-1, keepdim=True) @ c)
    return torch.stack(out)


def drawn(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (2 * torch.randn(B, H, P, K, generator=generator, dtype=torch.float64) for _ in range(3))
    return [q, k, v, torch.randn(M, K, generator=generator, dtype=torch.float64) * 1.5]


@pytest.mark.parametrize("learns", [True, False])
def test_against_the_formula(learns: bool) -> None:
    *given, w = drawn()
    given = [x.requires_grad_(learns) for x in given]
    found, expected = favor_attention(*given, w), naive(*given, w)
    assert (found - expected).abs().max() < 1e-13  # float64 rounding of sums of 40 terms
    single = favor_attention(*(x.detach().float() for x in given), w.float())
    # Features span e^20 here: float32 exponents of size 20 are off by 2e-6, and so are their exponentials.
    assert (single - expected).abs().max() < 2e-5
    if learns:
        grads = [torch.autograd.grad(x.square().sum(), given) for x in (found, expected)]
        for ours, theirs in zip(*grads, strict=True):
            assert (ours - theirs).norm() < 1e-12 * theirs.norm()


def test_a_cell_depends_on_itself_alone() -> None:
    *given, w = drawn()
    whole = favor_attention(*given, w)
    given[1][1:] *= 3  # mates with larger keys: one maximum for the whole batch would change cell 0
    assert (favor_attention(*given, w)[0] - whole[0]).abs().max() < 1e-14
    assert (favor_attention(*(x[:1] for x in given), w)[0] - whole[0]).abs().max() < 1e-14


def test_large_inputs_stay_finite() -> None:
    *given, w = drawn()
    for dtype in (torch.float32, torch.bfloat16):
        out = favor_attention(*(100 * x.to(dtype) for x in given), w.to(dtype))
        assert out.dtype == dtype and out.isfinite().all()


def test_projection_is_orthogonal_in_blocks() -> None:
    torch.manual_seed(0)
    w = draw_projection(266, 64)
    assert w.shape == (266, 64)
    unit = w / w.norm(dim=1, keepdim=True)
    for block in unit.split(64):
        assert (block @ block.T - torch.eye(len(block))).abs().max() < 1e-5  # float32 QR
    # Lengths are those of Gaussian rows: mean near 8, standard deviation near 0.71; a mean over 266 is off by 0.04.
    assert abs(float(w.norm(dim=1).mean()) - 8) < 0.2 and 0.5 < float(w.norm(dim=1).std()) < 0.9


def test_approximates_softmax() -> None:
    """With many features the attention is that of softmax: the kernel is the right one."""
    torch.manual_seed(0)
    q, k, v = (0.5 * torch.randn(1, 1, 20, K, dtype=torch.float64) for _ in range(3))
    w = draw_projection(20_000, K).double()
    exact = (q @ k.mT / math.sqrt(K)).softmax(-1) @ v
    # 20,000 features: errors of a per cent or so of the values' size (0.5).
    assert (favor_attention(q, k, v, w) - exact).abs().max() < 0.02


def test_no_features_are_refused() -> None:
    with pytest.raises(ValueError, match="num_features=0"):
        draw_projection(0, 4)
