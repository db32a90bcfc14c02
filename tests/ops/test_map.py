"""The map of retention: what each gene takes from each other, per cell."""

from __future__ import annotations

import pytest
import torch
from oracle import BOUNDS, draw, error_ratio, offsets_of

from cellfm_torch.ops import retention, retention_map

LENGTHS, Q_LENGTHS = [6, 0, 1, 9], [2, 3, 0, 1]


def test_shapes_and_entries() -> None:
    q, k = draw(6, 4), draw(16, 4, seed=1)
    maps = retention_map(q, k, offsets=offsets_of(LENGTHS), q_offsets=offsets_of(Q_LENGTHS))
    assert [tuple(m.shape) for m in maps] == [(2, 2, 6), (2, 3, 0), (2, 0, 1), (2, 1, 9)]
    # Four products of one number each: a few roundings.
    torch.testing.assert_close(maps[0][1, 0, 5], q[0, 1] @ k[5, 1], rtol=1e-14, atol=1e-16)
    torch.testing.assert_close(maps[3][0, 0, 2], q[5, 0] @ k[9, 0], rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("decay", [None, torch.tensor([0.5, 0.9])])
def test_map_times_values_is_retention(decay: torch.Tensor | None) -> None:
    q, k, v = (draw(16, 4, seed=i) for i in range(3))
    options = {"offsets": offsets_of(LENGTHS), "causal": decay is not None, "decay": decay}
    maps = retention_map(q, k, **options)
    out = torch.cat([torch.einsum("hmn,nhv->mhv", m, x) for m, x in zip(maps, v.split(LENGTHS), strict=True)])
    assert error_ratio(out, retention(q, k, v, **options)) < 10 * BOUNDS[torch.float64]


@pytest.mark.parametrize("decay", [None, torch.tensor([0.5, 0.9])])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_reduced_over_heads(dtype: torch.dtype, decay: torch.Tensor | None) -> None:
    q, k = draw(16, 4, dtype=dtype).abs(), draw(16, 4, seed=1, dtype=dtype).abs()  # positive: nothing cancels
    options = {"offsets": offsets_of(LENGTHS), "causal": decay is not None, "decay": decay}
    exact = retention_map(q.double(), k.double(), **options)
    for reduce in ("sum", "mean"):
        for ours, heads in zip(retention_map(q, k, reduce=reduce, **options), exact, strict=True):
            assert ours.dtype == dtype and ours.shape == heads.shape[1:]
            right = getattr(heads, reduce)(0)
            # Entries reach a few times their mean.
            assert error_ratio(ours, right) < 10 * BOUNDS[dtype]


def test_a_head_less_map_is_never_stored(peak_bytes) -> None:  # type: ignore[no-untyped-def]
    q = draw(512, 4, heads=16, dtype=torch.float32)
    square = 512 * 512 * 4
    peak = peak_bytes(lambda: retention_map(q, q, offsets=torch.tensor([0, 512]), reduce="mean"))
    assert square <= peak < 4 * square  # the sum and its mean, not one map per head


def test_gradients() -> None:
    q, k = draw(6, 3).requires_grad_(), draw(6, 3, seed=1).requires_grad_()
    for options in ({}, {"reduce": "mean"}, {"causal": True, "decay": torch.tensor([0.5, 0.9]), "reduce": "sum"}):
        assert torch.autograd.gradcheck(
            lambda q, k, options=options: tuple(retention_map(q, k, offsets=torch.tensor([0, 4, 6]), **options)), (q, k)
        )
