"""Retention of cells whose tokens are spread over processes: each sums its own, and the sums are added up.

A state is a sum, so that of all tokens is the sum of the processes' states: K x V numbers per cell and head travel,
however many tokens a cell has. Backward the gradient of a state is the sum of what the processes' queries ask of it.

Shapes: B cells, N tokens of this process, M queries of this process, H heads, K and V head dims.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cellfm_torch.ops.layout import Layout
from cellfm_torch.ops.segments import DEFAULT_CHUNK
from cellfm_torch.ops.state import RetentionState, retention_state


class _SumOverProcesses(torch.autograd.Function):
    """The sum of what each process gives, in every process; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _SumOverProcesses.apply(grad, ctx.group), None


def merge_over_processes(state: RetentionState, *, group: dist.ProcessGroup | None = None) -> RetentionState:
    """Return the state of all tokens of the same cells, whichever process of the group has seen them.

    Parameters
    ----------
    state
        Of the tokens of this process; every process of the group calls this, with states of the same shape.
    group
        None: all processes.

    Raises
    ------
    ValueError
        If the state has a decay: then its tokens have an order, which processes do not know.
    """
    if state.decay is not None:
        raise ValueError("states with a decay have an order: merge them one after the other, with RetentionState.merge")
    tokens = state.tokens
    if tokens is not None:
        tokens = tokens.clone()
        dist.all_reduce(tokens, group=group)
    return RetentionState(_SumOverProcesses.apply(state.tensor, group), tokens=tokens)


def split_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    offsets: Tensor | Layout,
    q_offsets: Tensor | Layout | None = None,
    group: dist.ProcessGroup | None = None,
    chunk_size: int = DEFAULT_CHUNK,
) -> Tensor:
    r"""Compute :func:`cellfm_torch.retention` of cells whose tokens are spread over the processes of a group.

    Parameters
    ----------
    q : (M, H, K)
        Queries of this process; M = N unless `q_offsets` says that they belong to other tokens.
    k : (N, H, K)
    v : (N, H, V)
        Tokens of this process. A cell may have none here.
    offsets : (B + 1,) int64
        Where the tokens of each cell are within those of this process. Every process names the same B cells.
    q_offsets : (B + 1,) int64, optional
        The same of q where it differs.
    group
        None: all processes.
    chunk_size
        Most tokens handled at once.

    Returns
    -------
    (M, H, V), in the dtype of q: what one process with all tokens gives for these queries.

    Notes
    -----
    The gradients of q, k and v are those of the sum of the processes' losses. Where DDP or FSDP takes the mean over
    processes, scale the loss by their number.

    Raises
    ------
    ValueError
        For offsets that do not cover the tokens, or tensors that do not belong together.
    """
    state = merge_over_processes(retention_state(k, v, offsets=offsets, chunk_size=chunk_size), group=group)
    out = state.read(q, offsets=offsets if q_offsets is None else q_offsets, chunk_size=chunk_size)
    return out.to(q.dtype)
