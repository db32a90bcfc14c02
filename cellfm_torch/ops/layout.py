"""Where the cells of a ragged batch lie, checked once and read from the device once.

Shapes: B cells, N tokens of all cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class Piece(NamedTuple):
    """Tokens ``start:end`` of one cell, which owns ``first:last``."""

    cell: int
    first: int
    last: int
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Layout:
    """Boundaries of the cells, on the device and in Python: cell b owns tokens ``bounds[b]:bounds[b + 1]``.

    Every operator takes a tensor of offsets or a Layout. A network makes one Layout per batch and hands it to all its
    layers, so that they wait for the device once rather than twice each.
    """

    offsets: Tensor
    """(B + 1,) int64."""
    bounds: tuple[int, ...]
    """The same numbers; use :meth:`of` to have them checked."""
    _tables: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, offsets: Tensor | Layout) -> Layout:
        """Check offsets and read them; a Layout is returned as it is.

        Raises
        ------
        ValueError
            Unless they are whole numbers of shape (B + 1,) that rise from 0.
        """
        if isinstance(offsets, Layout):
            return offsets
        if offsets.ndim != 1 or offsets.is_floating_point() or offsets.is_complex() or offsets.dtype == torch.bool:
            raise ValueError(
                f"offsets must be whole numbers of shape (cells + 1,), got {offsets.dtype} {tuple(offsets.shape)}"
            )
        bounds = tuple(offsets.tolist())
        if not bounds or bounds[0] != 0 or any(a > b for a, b in zip(bounds, bounds[1:], strict=False)):
            raise ValueError(f"offsets must rise from 0 to the number of tokens; got {_shortened(bounds)}")
        return cls(offsets, bounds)

    @classmethod
    def one_each(cls, num_cells: int, device: torch.device) -> Layout:
        """Return the layout of one token per cell."""
        return cls(torch.arange(num_cells + 1, device=device), tuple(range(num_cells + 1)))

    @property
    def num_cells(self) -> int:
        """B."""
        return len(self.bounds) - 1

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.bounds[-1]

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of each cell, (B,) on the device."""
        return self.offsets.diff()

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest cell."""
        return max((last - first for first, last in self.cells()), default=0)

    def cells(self) -> Iterator[tuple[int, int]]:
        """Yield (first token, end token) of each cell."""
        return zip(self.bounds, self.bounds[1:], strict=False)

    def pieces(self, size: int) -> Iterator[Piece]:
        """Yield the cells cut into pieces of at most `size` tokens, in order."""
        for cell, (first, last) in enumerate(self.cells()):
            for start in range(first, last, size):
                yield Piece(cell, first, last, start, min(start + size, last))

    def table(self, size: int) -> Tensor:
        """Return (cell, start, end) of each piece on the device, (pieces, 3) int64; made once per size."""
        if size not in self._tables:
            rows = [(piece.cell, piece.start, piece.end) for piece in self.pieces(size)]
            self._tables[size] = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).to(self.offsets.device)
        return self._tables[size]

    def check(self, name: str, x: Tensor) -> None:
        """Refuse `x` unless it is (N, heads, width) with the tokens of this layout."""
        if x.ndim != 3:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; it must be (tokens, heads, width)")
        if x.shape[0] != self.num_tokens:
            raise ValueError(
                f"offsets must rise from 0 to {x.shape[0]}, the number of tokens of {name}; "
                f"got {_shortened(self.bounds)}"
            )


def _shortened(bounds: tuple[int, ...]) -> str:
    """Show the first and last few numbers."""
    if len(bounds) <= 8:
        return str(list(bounds))
    return f"[{', '.join(map(str, bounds[:4]))}, ..., {', '.join(map(str, bounds[-2:]))}]"
