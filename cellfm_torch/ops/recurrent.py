"""Retention one token at a time, all cells at once: the form for tokens that arrive one after another.

Shapes: B cells, N tokens of all cells together, M queries, H heads, K head dim of q and k, V head dim of v; A cells
that still have tokens at a step.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cellfm_torch.ops.layout import Layout
from cellfm_torch.ops.segments import accumulator


def _order(layout: Layout) -> list[int]:
    """Return the cells, longest first: those that still have tokens are then always the first A."""
    lengths = [last - first for first, last in layout.cells()]
    return sorted(range(layout.num_cells), key=lambda cell: -lengths[cell])


def _steps(layout: Layout, order: list[int]) -> Iterator[Tensor]:
    """Yield the rows (A,) of the t-th token of each cell that has one, in `order`."""
    lengths = [layout.bounds[cell + 1] - layout.bounds[cell] for cell in order]
    first = layout.offsets[:-1][torch.tensor(order, dtype=torch.int64, device=layout.offsets.device)]
    active = len(order)
    for t in range(layout.longest):
        while lengths[active - 1] <= t:
            active -= 1
        yield first[:active] + t


def _see(state: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Add a token to each state: (A, H, K, V), (A, H, K), (A, H, V). Autocast leaves products by element alone."""
    return torch.addcmul(state, k.to(state.dtype)[..., :, None], v.to(state.dtype)[..., None, :])


def _read(state: Tensor, q: Tensor) -> Tensor:
    """Read each state once: (A, H, K, V), (A, H, K) -> (A, H, V)."""
    return (q.to(state.dtype)[..., None] * state).sum(-2)


def _in_rows(steps: Iterator[tuple[Tensor, Tensor]], q: Tensor, width: int) -> Tensor:
    """Put rows (A,) and outputs (A, H, V) of the steps where their tokens lie: (M, H, V), in the dtype of q."""
    if torch.is_grad_enabled():
        rows, outs = zip(*steps, strict=True)
        return torch.cat(outs)[torch.cat(rows).argsort()].to(q.dtype)
    # One by one: what is kept for each step would grow with the cell.
    made = q.new_empty(*q.shape[:2], width)
    for step, out in steps:
        made[step] = out.to(q.dtype)
    return made


def recurrent_retention(
    q: Tensor, k: Tensor, v: Tensor, before: Tensor | None, layouts: tuple[Layout, Layout], decay: Tensor | None
) -> Tensor:
    """Update and read a state per cell and head, token by token.

    Arguments are those of :func:`cellfm_torch.ops.pairwise.parallel_retention`.

    Without gradients only one state per cell is kept. With gradients and a decay, one per token is, as in any recurrent
    network; the chunked form needs none of them.

    Returns
    -------
    (M, H, V), in the dtype of q.
    """
    q_layout, layout = layouts
    order, dtype = _order(layout), accumulator(q.dtype, k.dtype, v.dtype)
    if before is None:
        before = v.new_zeros(layout.num_cells, v.shape[1], k.shape[2], v.shape[2], dtype=dtype)
    state = before.to(dtype)[order]
    if decay is not None:
        fade = decay.to(dtype)[:, None, None]

        def faded() -> Iterator[tuple[Tensor, Tensor]]:
            now = state
            for step in _steps(layout, order):
                now = _see(now[: len(step)] * fade, k[step], v[step])
                yield step, _read(now, q[step])

        return _in_rows(faded(), q, state.shape[3])
    finished = []
    for step in _steps(layout, order):
        if len(step) < len(state):
            finished.append(state[len(step) :].clone())
        state = _see(state[: len(step)], k[step], v[step])
    by_length = torch.cat([state, *reversed(finished)])
    place = {cell: i for i, cell in enumerate(order)}
    q_order = _order(q_layout)
    whole = by_length[[place[cell] for cell in q_order]]
    read = ((step, _read(whole[: len(step)], q[step])) for step in _steps(q_layout, q_order))
    return _in_rows(read, q, whole.shape[3])
