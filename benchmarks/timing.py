"""Sides that take turns, the matmul among them, and what follows from their times.

A slow moment of the machine hits all sides of a turn; the figures are medians of ratios within a turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

MATMUL = (4096, 1536, 6144)
"""(N, I, O) of the product that U is measured against."""

Work = tuple[int, int]
"""Cells and real tokens (genes and prefix) that a call worked through."""


def seconds_of(call: Callable[[], object], device: str) -> float:
    """Time one call; on a GPU by events on its stream."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


@dataclass
class Side:
    """One way of doing the work; `call` is given the number of the turn and returns what it worked through."""

    name: str
    call: Callable[[int], Work]
    seconds: list[float] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)

    def run(self, turn: int, device: str) -> None:
        """Time one call."""
        done: list[Work] = []
        self.seconds.append(seconds_of(lambda: done.append(self.call(turn)), device))
        self.work.append(done[0])

    def rate(self, turn: int, kind: int = 0) -> float:
        """Cells (kind 0) or tokens (1) per second of one turn."""
        return self.work[turn][kind] / self.seconds[turn]

    def steady(self, kind: int = 0) -> float:
        """Cells (kind 0) or tokens (1) per second over all turns."""
        return sum(work[kind] for work in self.work) / sum(self.seconds)

    def ratio_to(self, other: Side) -> float:
        """Median over the turns of cells/s of this side over the other's."""
        return statistics.median(self.rate(i) / other.rate(i) for i in range(len(self.seconds)))

    def spread_to(self, other: Side) -> tuple[float, float]:
        """Least and largest ratio of a turn."""
        ratios = [self.rate(i) / other.rate(i) for i in range(len(self.seconds))]
        return min(ratios), max(ratios)


def matmul_side(device: str, dtype: torch.dtype, *, onednn: bool = False) -> Side:
    """Return the machine's own rate as a side; its "tokens" are operations.

    Parameters
    ----------
    onednn
        By the product this project uses on a CPU, instead of plain torch.
    """
    from cellfm_torch.ops.linear import product

    rows, inputs, outputs = MATMUL
    x = torch.randn(rows, inputs, device=device, dtype=dtype)
    w = torch.randn(inputs, outputs, device=device, dtype=dtype)
    weight = w.T.contiguous()
    number = 50 if device == "cuda" else 1

    def call(turn: int) -> Work:
        with torch.inference_mode():
            for _ in range(number):
                _ = product(x, weight) if onednn else x @ w
        return 0, number * 2 * rows * inputs * outputs

    return Side("matmul, oneDNN" if onednn else "matmul", call)


def take_turns(sides: list[Side], turns: Iterable[int], *, device: str) -> None:
    """Run all sides in each turn, first to last and last to first by turns."""
    for side in sides:
        if side.name.startswith("matmul"):
            side.call(0)  # the first call makes threads and picks a kernel
    for turn in turns:
        for side in sides if turn % 2 == 0 else sides[::-1]:
            side.run(turn, device)


def utilisation(side: Side, matmul: Side, operations_per_token: float) -> float:
    """U: median over the turns of (arithmetic of real tokens / time) over the matmul's rate."""
    return statistics.median(
        side.rate(i, 1) * operations_per_token / matmul.rate(i, 1) for i in range(len(side.seconds))
    )
