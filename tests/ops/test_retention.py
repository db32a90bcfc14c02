"""Ragged retention against a float64 quadratic oracle, outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cellfm_torch.ops import RetentionState, retention, retention_state

# Largest error over largest magnitude: one rounding (float32 1.2e-7, float64 2.2e-16), about twenty times over for sums
# of 5,000 terms. 1.7e-6 and 5e-15 seen, a factor of three kept. A product rounded to bfloat16 anywhere gives 4e-3.
FLOAT32 = 5e-6
FLOAT64 = 1.5e-14
LONG = [0, 1, 700, 0, 4999, 2, 0]
LENGTHS = [0, 1, 1201, 0, 300, 2, 0]


@pytest.fixture(autouse=True)
def nan_in_fresh_memory() -> Iterator[None]:
    """Fill torch.empty and new_empty with NaN, so that reading what nobody wrote is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.zeros(1).new_empty(3).isnan().all() and torch.empty(3, dtype=torch.float64).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def draw(tokens: int, width: int, *, heads: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random (tokens, heads, width), already rounded to `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    # 1/4: outputs of 5,000 tokens stay below the 65,504 of float16.
    return (torch.randn(tokens, heads, width, generator=generator, dtype=torch.float64) / 4).to(dtype)


def oracle(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], q_lengths: list[int]) -> Tensor:
    """Retention the long way round: per cell and head, all query-key products, then all values. float64."""
    cells = []
    for qc, kc, vc in zip(q.split(q_lengths), k.split(lengths), v.split(lengths), strict=True):
        weights = torch.einsum("mhk,nhk->hmn", qc.double(), kc.double())
        cells.append(torch.einsum("hmn,nhv->mhv", weights, vc.double()))
    return torch.cat(cells)


def error_ratios(
    run: Callable[[Tensor, Tensor, Tensor], Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: list[int],
    q_lengths: list[int] | None = None,
) -> dict[str, float]:
    """Largest error over largest magnitude of the output and of each gradient, by name."""
    ours = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    out, expected = run(*ours), oracle(*exact, lengths, q_lengths or lengths)
    assert out.dtype == q.dtype and out.shape == expected.shape
    weight = draw(out.shape[0], out.shape[2], heads=out.shape[1], seed=9).to(out.dtype)
    out.backward(weight)
    expected.backward(weight.double())
    ratios = {}
    pairs = {"out": (out, expected)} | {n: (a.grad, b.grad) for n, a, b in zip("qkv", ours, exact, strict=True)}
    for name, (a, b) in pairs.items():
        assert a is not None and b is not None and a.dtype == q.dtype, name
        # NaN would pass a comparison the other way round: `not NaN > bound` is true, `NaN < bound` is not.
        ratios[name] = float((a.double() - b).abs().max().detach() / b.abs().max().detach())
    return ratios


@pytest.mark.parametrize(
    ("lengths", "chunk_size", "heads"),
    [(LONG, 1024, 1), (LENGTHS, 333, 2), (LENGTHS, 5000, 2)],  # dividing no length; larger than all
)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, FLOAT32), (torch.float64, FLOAT64)])
def test_outputs_and_gradients(
    dtype: torch.dtype, bound: float, lengths: list[int], chunk_size: int, heads: int
) -> None:
    offsets = offsets_of(lengths)
    q, k, v = (draw(sum(lengths), width, heads=heads, seed=i, dtype=dtype) for i, width in enumerate((8, 8, 5)))
    ratios = error_ratios(lambda *x: retention(*x, offsets=offsets, chunk_size=chunk_size), q, k, v, lengths)
    assert all(ratio < bound for ratio in ratios.values()), ratios


def test_chunks_of_one_token() -> None:
    lengths = [3, 0, 1, 7]
    q, k, v = (draw(11, 4, seed=i) for i in range(3))
    ratios = error_ratios(lambda *x: retention(*x, offsets=offsets_of(lengths), chunk_size=1), q, k, v, lengths)
    assert all(ratio < FLOAT64 for ratio in ratios.values()), ratios


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_accumulates_in_float32(dtype: torch.dtype) -> None:
    tokens, offsets = sum(LENGTHS), offsets_of(LENGTHS)
    q, k, v = (draw(tokens, width, seed=i, dtype=dtype) for i, width in enumerate((8, 8, 5)))
    assert retention_state(k, v, offsets=offsets).tensor.dtype == torch.float32
    ratios = error_ratios(lambda *x: retention(*x, offsets=offsets), q, k, v, LENGTHS)
    # The result is rounded once, by half a unit in the last place at most; the float32 sums before it are the 1 %.
    bound = torch.finfo(dtype).eps / 2 * 1.01
    assert all(ratio < bound for ratio in ratios.values()), (ratios, bound)


def test_autocast_leaves_the_operator_alone() -> None:
    tokens, offsets = sum(LENGTHS), offsets_of(LENGTHS)
    q, k, v = (draw(tokens, width, seed=i, dtype=torch.float32) for i, width in enumerate((8, 8, 5)))
    with torch.autocast("cpu", torch.bfloat16):  # around backward too: its products are ours as well
        assert retention_state(k, v, offsets=offsets).tensor.dtype == torch.float32
        ratios = error_ratios(lambda *x: retention(*x, offsets=offsets), q, k, v, LENGTHS)
    assert all(ratio < FLOAT32 for ratio in ratios.values()), ratios


def test_queries_of_other_tokens() -> None:
    lengths, q_lengths = [5, 0, 40, 3], [2, 3, 0, 1]  # a cell without keys is read as zero, one without queries is not
    q, k, v = draw(6, 4), draw(48, 4, seed=1), draw(48, 6, seed=2)
    options = {"offsets": offsets_of(lengths), "q_offsets": offsets_of(q_lengths), "chunk_size": 16}
    ratios = error_ratios(lambda *x: retention(*x, **options), q, k, v, lengths, q_lengths)
    assert all(ratio < FLOAT64 for ratio in ratios.values()), ratios
    assert not retention(q, k, v, **options)[2:5].any()


def test_state_seen_before_is_added() -> None:
    first, second = [5, 0, 40], [0, 7, 33]
    k1, v1, k2, v2 = draw(45, 4), draw(45, 6, seed=1), draw(40, 4, seed=2), draw(40, 6, seed=3)
    q = draw(40, 4, seed=4)
    before = retention_state(k1, v1, offsets=offsets_of(first))
    ours = retention(q, k2, v2, offsets=offsets_of(second), state=before)
    joined = [
        torch.cat([x for pair in zip(a.split(first), b.split(second), strict=True) for x in pair])
        for a, b in ((k1, k2), (v1, v2))
    ]
    both = [a + b for a, b in zip(first, second, strict=True)]
    expected = oracle(q, *joined, both, second)
    assert float((ours - expected).abs().max() / expected.abs().max()) < FLOAT64
    assert not before.tensor[1].any()  # left as it was: adding is not in place


def test_state_of_a_cell_is_the_sum_of_outer_products() -> None:
    k, v = draw(3, 4), draw(3, 5, seed=1)
    state = retention_state(k, v, offsets=torch.tensor([0, 1, 1, 3])).tensor
    assert state.shape == (3, 2, 4, 5) and not state[1].any()
    for cell, tokens in enumerate([[0], [], [1, 2]]):
        for head in range(2):
            expected = sum((torch.outer(k[n, head], v[n, head]) for n in tokens), torch.zeros(4, 5, dtype=k.dtype))
            torch.testing.assert_close(state[cell, head], expected, rtol=0, atol=1e-15)  # two terms: one rounding
    one = RetentionState(state).read(k[:1], offsets=torch.tensor([0, 1, 1, 1]))
    torch.testing.assert_close(one[0, 0], k[0, 0] @ state[0, 0], rtol=0, atol=1e-15)


def test_cells_do_not_touch_each_other() -> None:
    """A NaN, and an infinite gradient, stay in their own cell."""
    lengths = [4, 6, 5]
    q, k, v = (draw(15, 4, seed=i) for i in range(3))
    clean = retention(q, k, v, offsets=offsets_of(lengths))
    v[5] = float("nan")
    q.requires_grad_(), k.requires_grad_(), v.requires_grad_()
    dirty = retention(q, k, v, offsets=offsets_of(lengths))
    others = torch.tensor([True] * 4 + [False] * 6 + [True] * 5)
    assert torch.equal(dirty[others], clean[others]) and dirty[~others].isnan().all()
    dirty.sum().backward()
    for x in (q, k, v):
        assert x.grad is not None and x.grad[others].isfinite().all()


def test_no_cells_and_no_tokens() -> None:
    nothing = torch.zeros(0, 2, 4, requires_grad=True)
    for offsets in (torch.tensor([0]), torch.tensor([0, 0, 0])):
        out = retention(nothing, nothing, nothing, offsets=offsets)
        out.sum().backward()
        assert out.shape == (0, 2, 4)


def test_gradcheck_and_gradgradcheck() -> None:
    q, k, v = draw(4, 3), draw(6, 3, seed=1), draw(6, 2, seed=2)
    state = torch.randn(3, 2, 3, 2, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (q, k, v, state)]
    options = {"offsets": torch.tensor([0, 5, 5, 6]), "q_offsets": torch.tensor([0, 1, 3, 4]), "chunk_size": 2}

    def run(q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> Tensor:
        return retention(q, k, v, state=RetentionState(state), **options)

    # Their default tolerances: central differences of 1e-6 in float64.
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    cells=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=6),
    heads=st.integers(1, 3),
    widths=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    chunk_size=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_any_layout(
    cells: list[tuple[int, int]], heads: int, widths: tuple[int, int], chunk_size: int, seed: int
) -> None:
    lengths, q_lengths = [n for n, _ in cells], [m for _, m in cells]
    q = draw(sum(q_lengths), widths[0], heads=heads, seed=seed)
    k, v = (draw(sum(lengths), width, heads=heads, seed=seed + i) for i, width in enumerate(widths, 1))
    out = retention(q, k, v, offsets=offsets_of(lengths), q_offsets=offsets_of(q_lengths), chunk_size=chunk_size)
    # 9 tokens x 5 products, each of magnitude about 1e-1 with roundings of 1e-17.
    torch.testing.assert_close(out, oracle(q, k, v, lengths, q_lengths), rtol=0, atol=1e-14)


def test_order_inside_a_cell_does_not_matter() -> None:
    lengths = [50, 1, 70]
    q, k, v = (draw(121, 4, seed=i) for i in range(3))
    order = torch.cat([torch.randperm(n) + start for n, start in zip(lengths, (0, 50, 51), strict=True)])
    offsets = offsets_of(lengths)
    shuffled = retention(q[order], k[order], v[order], offsets=offsets)
    straight = retention(q, k, v, offsets=offsets)[order]
    assert float((shuffled - straight).abs().max() / straight.abs().max()) < FLOAT64


@pytest.mark.parametrize(
    ("offsets", "part"),
    [
        ([0, 4], "rise from 0 to 5"),
        ([1, 5], "rise from 0 to 5"),
        ([0, 6], "rise from 0 to 5"),
        ([0, 4, 3, 5], "rise from 0 to 5"),
        ([], "rise from 0 to 5"),
        ([[0, 5]], "shape"),
        ([0.0, 5.0], "whole numbers"),
    ],
)
def test_bad_offsets(offsets: list[int], part: str) -> None:
    x, dtype = draw(5, 4), None if offsets else torch.int64
    wrong = torch.tensor(offsets, dtype=dtype)
    with pytest.raises(ValueError, match=part):
        retention(x, x, x, offsets=wrong)
    with pytest.raises(ValueError, match=part):
        retention(x, x, x, offsets=torch.tensor([0, 5]), q_offsets=wrong)


def test_bad_shapes_and_forms() -> None:
    x, offsets = draw(5, 4), torch.tensor([0, 2, 5])
    state = retention_state(x, x, offsets=offsets)
    one_cell = retention_state(x, x, offsets=torch.tensor([0, 5]))
    refused: list[tuple[str, Callable[[], object]]] = [
        ("mode must be one of", lambda: retention(x, x, x, offsets=offsets, mode="fast")),
        ("causal", lambda: retention(x, x, x, offsets=offsets, causal=True)),
        ("decay", lambda: retention(x, x, x, offsets=offsets, decay=torch.ones(2))),
        ("chunk_size", lambda: retention(x, x, x, offsets=offsets, chunk_size=0)),
        ("chunk_size", lambda: retention(x, x, x, offsets=offsets, chunk_size=-1)),  # would leave the output unwritten
        ("tokens and heads", lambda: retention(x, x, x[:4], offsets=offsets)),
        ("tokens and heads", lambda: retention(x, x, x[:, :1], offsets=offsets)),
        ("the state needs", lambda: retention(x[..., :3], x, x, offsets=offsets)),
        ("the state needs", lambda: retention(x[:, :1], x, x, offsets=offsets)),  # one head must not broadcast
        ("must be", lambda: retention(x[:, 0], x, x, offsets=offsets)),
        ("must be|must agree", lambda: retention(x[:, 0], x[:, 0], x[:, 0], offsets=offsets)),
        ("2 cells, the state has 1|state has shape", lambda: retention(x, x, x, offsets=offsets, state=one_cell)),
        ("name 1 cells, the state has 2", lambda: state.read(x, offsets=torch.tensor([0, 5]))),
        ("name 1 cells", lambda: retention(x, x, x, offsets=offsets, q_offsets=torch.tensor([0, 5]))),
    ]
    for part, call in refused:
        with pytest.raises(ValueError, match=part):
            call()
