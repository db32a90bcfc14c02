"""Triton kernels against float64: the two sums of retention, and the norm with its gate."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import DEVICE, triton_kernels
from oracle import answers, draw_all, exactly, oracle
from oracle import assert_close as assert_all_close
from torch import Tensor

from cellfm_torch.ops import RetentionState, retention
from cellfm_torch.ops.backend import use_backend
from cellfm_torch.ops.gate import norm_gate, srms_norm
from cellfm_torch.ops.layout import Layout

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# In units of the largest magnitude: float32 sums of up to 1,000 terms, about twenty roundings of 6e-8 (6e-7 seen).
SUMS = 2e-6


def rounding(dtype: torch.dtype) -> float:
    """One rounding of the result: half a unit in the last place of half precision, the float32 sums beside it."""
    if dtype == torch.float32:
        return SUMS
    # The interpreter cuts bfloat16 off rather than rounding it: a whole unit.
    cut = DEVICE.type == "cpu" and dtype == torch.bfloat16
    return torch.finfo(dtype).eps / (1 if cut else 2) + SUMS


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)


def layout_of(lengths: list[int]) -> Layout:
    return Layout.of(torch.tensor([0, *lengths], device=DEVICE).cumsum(0))


def exact_outer(a: Tensor, b: Tensor, layout: Layout) -> Tensor:
    cells = [torch.einsum("nhk,nhv->hkv", a[i:j].double(), b[i:j].double()) for i, j in layout.cells()]
    return torch.stack(cells)


def exact_apply(x: Tensor, state: Tensor, layout: Layout) -> Tensor:
    cells = zip(layout.cells(), state.double(), strict=True)
    return torch.cat([torch.einsum("nhk,hkv->nhv", x[i:j].double(), matrix) for (i, j), matrix in cells])


def assert_close(ours: Tensor, exact: Tensor, bound: float, label: str) -> None:
    """Allow `bound` of the largest magnitude; the message has the error ratio, largest error over mean magnitude."""
    assert ours.shape == exact.shape, label
    if not exact.numel():
        return
    error, peak, mean = (float(x) for x in ((ours.double() - exact).abs().max(), exact.abs().max(), exact.abs().mean()))
    # A NaN is wrong: it is not <= anything.
    assert error <= bound * peak, f"{label}: error ratio {error / mean:.1e}, allowed {bound * peak / mean:.1e}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("widths", [(8, 5), (32, 32), (20, 70)])  # in one tile, of the network, over two tiles
def test_sums_of_ragged_cells(widths: tuple[int, int], dtype: torch.dtype) -> None:
    layout = layout_of([0, 1, 700, 0, 65, 2, 64, 0])
    a, b = (draw(layout.num_tokens, 2, width, seed=width + i, dtype=dtype) for i, width in enumerate(widths))
    state, exact = triton_kernels.outer(a, b, layout), exact_outer(a, b, layout)
    assert state.dtype == torch.float32
    assert_close(state, exact, SUMS, "outer")
    assert not state[[0, 3, 7]].any()
    # Rows of a state that is transposed, as in the backward pass.
    state = state.mT.contiguous().mT
    assert_close(triton_kernels.apply(a, state, layout, dtype), exact_apply(a, state, layout), rounding(dtype), "apply")
    read = triton_kernels.apply(b, state.mT, layout, torch.float32)
    assert_close(read, exact_apply(b, state.mT, layout), SUMS, "apply of the transposed")


def test_long_cells_are_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernels, "WHOLE", 100)
    layout = layout_of([0, 1, 250, 0, 100, 101])  # a cell without parts, of one, of three, of exactly one, of two
    a, b = draw(layout.num_tokens, 3, 4, seed=1), draw(layout.num_tokens, 3, 4, seed=2)
    assert_close(triton_kernels.outer(a, b, layout), exact_outer(a, b, layout), SUMS, "outer")


def test_slices_need_no_copy() -> None:
    layout = layout_of([30, 100])
    fused = draw(130, 3 * 2 * 16, seed=0).unflatten(1, (3, 2, 16))
    a, b = fused[:, 0], fused[:, 2].flip(2).transpose(1, 2).contiguous().transpose(1, 2)
    assert not a.is_contiguous() and b.stride(2) != 1
    assert_close(triton_kernels.outer(a, b, layout), exact_outer(a, b, layout), SUMS, "outer")


def test_mixed_dtypes() -> None:
    """The gradient of a float32 read-out meets half-precision queries."""
    layout = layout_of([90])
    a, b = draw(90, 2, 16, seed=0, dtype=torch.bfloat16), draw(90, 2, 16, seed=1)
    assert_close(triton_kernels.outer(a, b, layout), exact_outer(a, b, layout), SUMS, "outer")


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 130), min_size=1, max_size=5),
    heads=st.integers(1, 3),
    widths=st.tuples(st.integers(1, 40), st.integers(1, 70)),
    dtype=st.sampled_from(DTYPES),
    parts=st.sampled_from([50, 4096]),
    seed=st.integers(0, 99),
)
def test_any_layout(
    lengths: list[int], heads: int, widths: tuple[int, int], dtype: torch.dtype, parts: int, seed: int
) -> None:
    layout = layout_of(lengths)
    a, b = (draw(layout.num_tokens, heads, width, seed=seed + i, dtype=dtype) for i, width in enumerate(widths))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_kernels, "WHOLE", parts)
        state = triton_kernels.outer(a, b, layout)
    assert_close(state, exact_outer(a, b, layout), SUMS, "outer")
    assert_close(triton_kernels.apply(a, state, layout, dtype), exact_apply(a, state, layout), rounding(dtype), "apply")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("q_lengths", [None, [2, 3, 0, 70]])
def test_retention_and_its_gradients(q_lengths: list[int] | None, dtype: torch.dtype) -> None:
    """The operator on these kernels, and that it is they who run."""
    lengths = [5, 0, 90, 300]
    inputs = draw_all(lengths, q_lengths, dtype=dtype, with_state=True)
    offsets, q_offsets = (None if n is None else layout_of(n) for n in (lengths, q_lengths))
    assert offsets is not None
    right = exactly(lambda **x: oracle(**x, lengths=lengths, q_lengths=q_lengths), inputs)
    calls = []

    def run(q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> Tensor:
        return retention(q, k, v, offsets=offsets, q_offsets=q_offsets, state=RetentionState(state))

    with pytest.MonkeyPatch.context() as patch, use_backend("triton"):
        for name in ("outer", "apply"):
            kernel = getattr(triton_kernels, name)
            patch.setattr(triton_kernels, name, lambda *x, kernel=kernel, name=name: calls.append(name) or kernel(*x))
        ours = answers(run, {name: x.to(DEVICE) for name, x in inputs.items()})
    assert sorted(calls) == ["apply"] * 4 + ["outer"] * 2
    ours = {name: x.cpu() for name, x in ours.items()}
    assert_all_close(ours, right, "triton", bound=rounding(dtype) + SUMS)


def test_no_cells_no_tokens_no_heads() -> None:
    for tokens, heads, offsets in ((0, 2, [0]), (0, 2, [0, 0, 0]), (3, 0, [0, 3])):
        layout, x = Layout.of(torch.tensor(offsets, device=DEVICE)), draw(tokens, heads, 4, seed=0)
        state = triton_kernels.outer(x, x, layout)
        assert state.shape == (len(offsets) - 1, heads, 4, 4) and not state.any()
        assert triton_kernels.apply(x, state, layout, x.dtype).shape == x.shape


def norm_and_gate(o: Tensor, u: Tensor) -> Tensor:
    """In float64, written another way than the eager path: a mean of squares, a sigmoid."""
    rows = o.double()
    norm = (rows**2).mean(-1, keepdim=True).sqrt().clamp_min(1e-12)
    return (rows / norm).flatten(1) * u.double() * u.double().sigmoid()


@pytest.mark.parametrize(
    ("backend", "o_dtype", "u_dtype"),
    [
        # Compiled once only, which takes seconds: what it compiles is the eager path.
        ("compiled", torch.float32, torch.bfloat16),
        *((name, torch.float32, torch.float32) for name in ("eager", "triton")),
        *((name, torch.float32, torch.bfloat16) for name in ("eager", "triton")),
        *((name, torch.float16, torch.float16) for name in ("eager", "triton")),
    ],
)
def test_norm_and_gate(backend: str, o_dtype: torch.dtype, u_dtype: torch.dtype) -> None:
    # 41 rows of 5: no block is full; u is a slice of a wider projection.
    o, fused = draw(41, 3, 5, seed=0, dtype=o_dtype), draw(41, 30, seed=1, dtype=u_dtype)
    weight = draw(41, 15, seed=2, dtype=u_dtype)
    ours, exact = (o.clone().requires_grad_(), fused[:, 7:22].detach().requires_grad_()), (o.double(), fused.double())
    exact = (exact[0].requires_grad_(), exact[1][:, 7:22].detach().requires_grad_())
    assert not ours[1].is_contiguous()
    with use_backend(backend):
        out = norm_gate(*ours)
        out.backward(weight)
    expected = norm_and_gate(*exact)
    expected.backward(weight.double())
    assert out.dtype == u_dtype
    for label, got, right in zip(
        ("out", "do", "du"), (out, ours[0].grad, ours[1].grad), (expected, exact[0].grad, exact[1].grad), strict=True
    ):
        assert got is not None and right is not None
        # exp and the division of float32 are right to a few units, more than a sum of five terms.
        assert_close(got.detach(), right.detach(), rounding(got.dtype) + SUMS, f"{backend} {label}")


@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_rows_of_zeros(backend: str) -> None:
    """A token that reads nothing gives 0; below eps the norm is a constant, and so is its gradient."""
    o = torch.zeros(3, 2, 4, device=DEVICE, requires_grad=True)
    u = torch.ones(3, 8, device=DEVICE, requires_grad=True)
    with use_backend(backend):
        out = norm_gate(o, u)
        out.backward(torch.full_like(out, 1e-12))
    assert o.grad is not None and u.grad is not None and not out.any() and not u.grad.any()
    # silu(1) = 0.731; float32 divides 1e-12 by 1e-12 to a unit or two.
    torch.testing.assert_close(o.grad, torch.full_like(o, 0.7310586), rtol=1e-6, atol=0)


def test_norm_does_not_see_the_scale() -> None:
    x = draw(4, 2, 8, seed=3)
    torch.testing.assert_close(srms_norm(x * 2.0**20), srms_norm(x), rtol=0, atol=0)


@pytest.mark.parametrize("u_shape", [(3, 8, 1), (3, 7), (2, 8)])
def test_shapes_that_do_not_belong_together(u_shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"o has shape \(3, 2, 4\), u"):
        norm_gate(torch.zeros(3, 2, 4), torch.zeros(u_shape))
