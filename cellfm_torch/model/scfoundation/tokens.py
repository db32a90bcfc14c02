"""The tokens that scFoundation's encoder reads, and what is left of a cell's when they are pooled.

Shapes: B cells, N genes of all cells together, T tokens of all cells (S, T, then the visible genes of each), D width.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor


class Tokens(NamedTuple):
    """What the encoder reads, and where in it everything is."""

    x: Tensor  # (T, D)
    lengths: list[int]  # B, tokens of each cell: S, T, then its visible genes
    gene_rows: Tensor  # (V,) rows of the visible genes among the T
    prefix_rows: Tensor  # (2 B,) of S and T
    shown: Tensor  # (V,) rows of the visible genes among the N
    gene_embedding: Tensor  # (N, D)


def warn_of_empty(lengths: list[int]) -> None:
    """Warn of cells that have S and T alone."""
    empty = [i for i, length in enumerate(lengths) if length == 2]
    if empty:
        cells = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
        message = f"{len(empty)} of {len(lengths)} cells have no visible expressed gene (in this batch: {cells})"
        warnings.warn(f"{message}; their embeddings say nothing", stacklevel=4)


def pool(x: Tensor, lengths: list[int], kind: str) -> Tensor:
    """Return cell embeddings (B, C) from encoded tokens (T, D).

    Parameters
    ----------
    kind
        ``"all"`` or ``"max"``, see :class:`ScFoundationConfig`.
    """
    cells = x.split(lengths) if lengths else ()
    if kind == "max":
        pooled = [cell.amax(0) for cell in cells]
        return torch.stack(pooled) if pooled else x.new_zeros(0, x.shape[1])
    none = x.new_zeros(2 * x.shape[1])
    parts = [(cell[:2].flatten(), cell[2:]) for cell in cells]
    pooled = [torch.cat([a, *((b.amax(0), b.mean(0)) if len(b) else (none,))]) for a, b in parts]
    return torch.stack(pooled) if pooled else x.new_zeros(0, 4 * x.shape[1])
