"""The state of a cell: tokens in any portions, of any origin, give what they give at once."""

from __future__ import annotations

import pytest
import torch
from oracle import BOUNDS, draw, draw_all, error_ratio, offsets_of, oracle

from cellfm_torch.ops import Layout, RetentionState, retention, retention_state

DECAY = torch.tensor([0.5, 0.97])


def test_it_is_the_sum_of_outer_products() -> None:
    k, v = draw(3, 4), draw(3, 5, seed=1)
    state = retention_state(k, v, offsets=torch.tensor([0, 1, 1, 3]))
    assert state.tensor.shape == (3, 2, 4, 5) and not state.tensor[1].any()
    assert state.tokens is not None and state.tokens.tolist() == [1, 0, 2]
    for cell, tokens in enumerate([[0], [], [1, 2]]):
        for head in range(2):
            expected = sum((torch.outer(k[n, head], v[n, head]) for n in tokens), torch.zeros(4, 5, dtype=k.dtype))
            # Two terms: one rounding.
            torch.testing.assert_close(state.tensor[cell, head], expected, rtol=0, atol=1e-15)
    one = RetentionState(state.tensor).read(k[:1], offsets=torch.tensor([0, 1, 1, 1]))
    torch.testing.assert_close(one[0, 0], k[0, 0] @ state.tensor[0, 0], rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    k, v = draw(9, 4, dtype=dtype), draw(9, 4, seed=1, dtype=dtype)
    state = retention_state(k, v, offsets=torch.tensor([0, 9]))
    assert state.tensor.dtype == torch.float32
    one_by_one = RetentionState.empty(1, 2, 4, dtype=dtype)
    for i in range(9):
        one_by_one.update(k[i : i + 1], v[i : i + 1])
    assert one_by_one.tensor.dtype == torch.float32
    assert error_ratio(one_by_one.tensor, state.tensor.double()) < 10 * BOUNDS[torch.float32]


@pytest.mark.parametrize("decay", [None, DECAY])
def test_one_token_at_a_time(decay: torch.Tensor | None) -> None:
    """Six tokens of each of three cells, one of each per step; every read is the causal output of that token."""
    q, k, v = draw_all([6, 6, 6]).values()
    causal = oracle(q, k, v, lengths=[6, 6, 6], decay=torch.ones(2) if decay is None else decay).reshape(3, 6, 2, 5)
    state = RetentionState.empty(3, 2, 8, 5, decay=decay, dtype=torch.float64)
    for t in range(6):
        q_t, k_t, v_t = (x.reshape(3, 6, 2, -1)[:, t] for x in (q, k, v))
        out = state.update(k_t, v_t).read(q_t)
        assert error_ratio(out, causal[:, t]) < 10 * BOUNDS[torch.float64]
    at_once = retention_state(k, v, offsets=offsets_of([6, 6, 6]), decay=decay)
    assert error_ratio(state.tensor, at_once.tensor) < 10 * BOUNDS[torch.float64]
    assert state.tokens is not None and state.tokens.tolist() == [6, 6, 6]


@pytest.mark.parametrize("decay", [None, DECAY])
def test_parts_of_cells_merge_exactly(decay: torch.Tensor | None) -> None:
    """Three ranks, each with a part of every cell; with a decay the parts are in order."""
    parts = [[5, 0, 40], [0, 7, 33], [2, 9, 0]]
    pieces = [draw_all(lengths, seed=10 * i) for i, lengths in enumerate(parts)]
    states = [
        retention_state(x["k"], x["v"], offsets=offsets_of(n), decay=decay) for x, n in zip(pieces, parts, strict=True)
    ]
    whole = {}
    for name in "kv":
        cells = zip(*(x[name].split(n) for x, n in zip(pieces, parts, strict=True)), strict=True)
        whole[name] = torch.cat([part for cell in cells for part in cell])
    lengths = [sum(n) for n in zip(*parts, strict=True)]
    expected = retention_state(whole["k"], whole["v"], offsets=offsets_of(lengths), decay=decay)
    left = states[0].merge(states[1]).merge(states[2])
    right = states[0].merge(states[1].merge(states[2]))
    for merged in (left, right):
        assert error_ratio(merged.tensor, expected.tensor) < 10 * BOUNDS[torch.float64]
        assert merged.tokens is not None and merged.tokens.tolist() == lengths
    assert states[0].tokens is not None and states[0].tokens.tolist() == parts[0]  # merging is not in place
    if decay is None:
        assert torch.equal(states[0].merge(states[1]).tensor, states[1].merge(states[0]).tensor)


@pytest.mark.parametrize("mode", ["chunked", "parallel", "recurrent"])
@pytest.mark.parametrize("decay", [None, DECAY])
def test_a_sequence_is_continued(decay: torch.Tensor | None, mode: str) -> None:
    """What a cell's first half left behind makes the outputs of its second half those of the whole."""
    lengths, halves = [12, 4, 0, 30], ([7, 0, 0, 11], [5, 4, 0, 19])
    q, k, v = draw_all(lengths).values()
    whole = oracle(q, k, v, lengths=lengths, decay=torch.ones(2) if decay is None else decay)
    later = torch.cat([torch.arange(n) >= first for n, first in zip(lengths, halves[0], strict=True)])
    before = retention_state(k[~later], v[~later], offsets=offsets_of(halves[0]), decay=decay)
    untouched = before.tensor.clone()
    options = {"offsets": offsets_of(halves[1]), "state": before, "mode": mode, "chunk_size": 3}
    out = retention(q[later], k[later], v[later], causal=True, decay=decay, **options)
    assert error_ratio(out, whole[later]) < 10 * BOUNDS[torch.float64]
    assert torch.equal(before.tensor, untouched)


def test_gradients_flow_through_updates() -> None:
    k, v, q = draw(4, 3).requires_grad_(), draw(4, 2, seed=1).requires_grad_(), draw(2, 3, seed=2).requires_grad_()

    def run(k: torch.Tensor, v: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        state = RetentionState.empty(2, 2, 3, 2, decay=DECAY, dtype=torch.float64)
        state.update(k[:2], v[:2])
        state.update(k[2:], v[2:], offsets=torch.tensor([0, 2, 2]))
        return state.read(q)

    assert torch.autograd.gradcheck(run, (k, v, q))


def test_order_inside_a_cell_does_not_matter() -> None:
    lengths = [50, 1, 70]
    q, k, v = draw_all(lengths).values()
    order = torch.cat([torch.randperm(n) + start for n, start in zip(lengths, (0, 50, 51), strict=True)])
    layout = Layout.of(offsets_of(lengths))
    shuffled = retention(q[order], k[order], v[order], offsets=layout)
    assert error_ratio(shuffled, retention(q, k, v, offsets=layout)[order]) < 10 * BOUNDS[torch.float64]
