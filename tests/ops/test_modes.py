"""The three modes of retention against a float64 quadratic oracle: outputs and every gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import LENGTHS, LONG, answers, assert_close, draw_all, exactly, offsets_of, oracle
from torch import Tensor

from cellfm_torch.ops import RetentionState, retention

MODES = ["chunked", "parallel", "recurrent"]
HALF = [torch.float16, torch.bfloat16]
DECAY = torch.tensor([0.5, 0.97])


def both(
    lengths: list[int],
    q_lengths: list[int] | None = None,
    *,
    decay: Tensor | None = None,
    causal: bool = False,
    **how: object,
) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Our way and the oracle's for one layout; `state` comes as a tensor."""

    def run(q: Tensor, k: Tensor, v: Tensor, state: Tensor | None = None) -> Tensor:
        before = None if state is None else RetentionState(state, decay=decay)
        q_offsets = None if q_lengths is None else offsets_of(q_lengths)
        options = {"offsets": offsets_of(lengths), "q_offsets": q_offsets, "state": before}
        return retention(q, k, v, **options, causal=causal, decay=decay, **how)

    rate = torch.ones(9) if causal and decay is None else decay
    return run, lambda **inputs: oracle(**inputs, lengths=lengths, q_lengths=q_lengths, decay=rate)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALF])
@pytest.mark.parametrize("causal", [False, True])
def test_against_the_oracle(causal: bool, dtype: torch.dtype) -> None:
    inputs = draw_all(LENGTHS, dtype=dtype, with_state=True)
    decay = DECAY if causal else None
    right = exactly(both(LENGTHS, causal=causal, decay=decay)[1], inputs)
    for mode in MODES:
        run, _ = both(LENGTHS, mode=mode, causal=causal, decay=decay, chunk_size=97)
        assert_close(answers(run, inputs), right, mode)


@pytest.mark.parametrize("rate", [None, 1.0, 0.97, 0.5])
def test_long_cells_neither_overflow_nor_underflow(rate: float | None) -> None:
    inputs = draw_all(LONG, heads=1, dtype=torch.float32)
    decay = None if rate is None else torch.tensor([rate])
    right = exactly(both(LONG, causal=decay is not None, decay=decay)[1], inputs)
    for mode in MODES:
        run, _ = both(LONG, mode=mode, causal=decay is not None, decay=decay)
        assert_close(answers(run, inputs), right, mode)


@pytest.mark.parametrize("dtype", HALF)
def test_long_decay_in_half_precision(dtype: torch.dtype) -> None:
    inputs = draw_all([5000], dtype=dtype, with_state=True)
    run, exact = both([5000], causal=True, decay=torch.tensor([0.5, 0.999]))
    assert_close(answers(run, inputs), exactly(exact, inputs))


@pytest.mark.parametrize("mode", MODES)
def test_queries_of_other_tokens(mode: str) -> None:
    lengths, q_lengths = [5, 0, 40, 3], [2, 3, 0, 1]  # a cell without keys is read as zero, one without queries is not
    run, exact = both(lengths, q_lengths, mode=mode, chunk_size=16)
    inputs = draw_all(lengths, q_lengths)
    assert_close(answers(run, inputs), exactly(exact, inputs))
    assert not run(**inputs)[2:5].any()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_autocast_leaves_the_operator_alone(mode: str, causal: bool) -> None:
    inputs = draw_all([0, 40, 7], dtype=torch.float32, with_state=True)
    run, exact = both([0, 40, 7], mode=mode, causal=causal, decay=DECAY if causal else None)
    with torch.autocast("cpu", torch.bfloat16):  # around backward too: its products are ours as well
        ours = answers(run, inputs)
    assert_close(ours, exactly(exact, inputs))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    cells=st.lists(
        st.tuples(st.one_of(st.integers(0, 3), st.integers(0, 40)), st.integers(0, 4)), min_size=1, max_size=6
    ),
    heads=st.integers(1, 3),
    widths=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    chunk_size=st.integers(1, 50),
    form=st.sampled_from(["plain", "other queries", "causal", "decay"]),
    mode=st.sampled_from(MODES),
    with_state=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32, *HALF]),
    seed=st.integers(0, 99),
)
def test_any_layout(
    cells: list[tuple[int, int]],
    heads: int,
    widths: tuple[int, int],
    chunk_size: int,
    form: str,
    mode: str,
    with_state: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    lengths = [n for n, _ in cells]
    q_lengths = [m for _, m in cells] if form == "other queries" else None
    decay = torch.linspace(0.3, 1, heads) if form == "decay" else None
    options = {"causal": form in ("causal", "decay"), "decay": decay, "mode": mode, "chunk_size": chunk_size}
    inputs = draw_all(lengths, q_lengths, heads=heads, widths=widths, with_state=with_state, dtype=dtype, seed=seed)
    # All positive: nothing cancels, so that errors have the magnitude of what is right to be measured by.
    inputs = {name: x.abs() for name, x in inputs.items()}
    run, exact = both(lengths, q_lengths, **options)
    assert_close(answers(run, inputs, positive=True), exactly(exact, inputs, positive=True))


@pytest.mark.parametrize("form", ["plain", "causal", "decay"])
@pytest.mark.parametrize("mode", MODES)
def test_gradcheck_and_gradgradcheck(mode: str, form: str) -> None:
    q_lengths = [1, 2, 1] if form == "plain" else None
    decay = DECAY if form == "decay" else None
    inputs = draw_all([5, 0, 1], q_lengths, widths=(3, 2), with_state=True)
    run, _ = both([5, 0, 1], q_lengths, mode=mode, causal=form != "plain", decay=decay, chunk_size=2)
    tensors = tuple(x.requires_grad_() for x in inputs.values())
    # Their default tolerances: central differences of 1e-6 in float64.
    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_no_cells_and_no_tokens(mode: str, causal: bool) -> None:
    nothing = torch.zeros(0, 2, 4, requires_grad=True)
    for offsets in (torch.tensor([0]), torch.tensor([0, 0, 0])):
        out = retention(nothing, nothing, nothing, offsets=offsets, mode=mode, causal=causal)
        out.sum().backward()
        assert out.shape == (0, 2, 4)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_cells_do_not_touch_each_other(mode: str, causal: bool) -> None:
    """A NaN, and an infinite gradient, stay in their own cell."""
    lengths = [4, 6, 5]
    inputs = draw_all(lengths)
    run, _ = both(lengths, mode=mode, causal=causal)
    clean = run(**inputs)
    inputs["v"][4] = float("nan")
    for x in inputs.values():
        x.requires_grad_()
    dirty = run(**inputs)
    others = torch.tensor([True] * 4 + [False] * 6 + [True] * 5)
    # Cells of the same step share one product in recurrent mode; nothing is rounded differently for that.
    assert torch.equal(dirty[others], clean[others]) and dirty[~others].isnan().all()
    dirty.sum().backward()
    for name, x in inputs.items():
        assert x.grad is not None and x.grad[others].isfinite().all(), name
