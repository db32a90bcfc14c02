"""Conditional flow matching: a network says how fast a cell moves where it is, and cells are carried along.

Lipman et al. 2023 (arXiv 2210.02747), with couplings by optimal transport within batches, Tong et al. 2024 (arXiv
2302.00482). Time goes from 0, a control cell, to 1, a treated one.

Shapes: n cells, P coordinates, F numbers of a compound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float64]

STEPS = 20
"""Of the integration, by Heun's rule."""


class Velocity(nn.Module):
    """Velocity of cells, (n, P), by where they are, time, compound and dose.

    The last layer starts at zero: an untrained flow leaves cells where they are. At a dose of zero every flow does.

    Parameters
    ----------
    width
        P.
    compound_width
        F.
    hidden
        Units of each of two layers.
    """

    def __init__(self, width: int, compound_width: int, *, hidden: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        self.options = {"width": width, "compound_width": compound_width, "hidden": hidden, "dropout": dropout}
        self.compound = nn.Sequential(nn.Linear(compound_width, 32, bias=False), nn.Dropout(dropout), nn.Tanh())
        self.first = nn.Linear(width + 32 + 4, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, time: Tensor, compound: Tensor, dose: Tensor) -> Tensor:
        """Return velocities.

        Parameters
        ----------
        x : (n, P)
        time : (n, 1)
        compound : (n, F)
        dose : (n, 1)
            In units of a middle dose.
        """
        gate = dose / (1 + dose)
        clock = torch.cat([time, torch.sin(torch.pi * time), gate, dose.clamp_min(1e-6).log10()], 1)
        hidden = torch.nn.functional.silu(self.first(torch.cat([x, self.compound(compound), clock], 1)))
        hidden = hidden + torch.nn.functional.silu(self.second(self.dropout(hidden)))
        return gate * self.last(self.dropout(hidden))


@torch.no_grad()
def displacements(network: nn.Module, start: Floats, compound: NDArray[np.float32], dose: float) -> Floats:
    """Return how far the flow takes cells, (n, P): one compound (F,), one dose."""
    device = next(network.parameters()).device
    x = begin = torch.as_tensor(start, dtype=torch.float32, device=device)
    features = torch.as_tensor(compound, device=device).expand(len(x), -1)
    doses = torch.full((len(x), 1), dose, device=device)
    for step in range(STEPS):
        now, then = (torch.full_like(doses, (step + i) / STEPS) for i in (0, 1))
        first = network(x, now, features, doses)
        second = network(x + first / STEPS, then, features, doses)
        x = x + (first + second) / (2 * STEPS)
    return (x - begin).double().cpu().numpy()


def coupled(start: Floats, end: Floats) -> NDArray[np.int64]:
    """Return which end belongs to each start, as many of both, by optimal transport (squared distance)."""
    from scipy.optimize import linear_sum_assignment

    cost = (start**2).sum(1)[:, None] + (end**2).sum(1)[None] - 2 * start @ end.T
    return np.asarray(linear_sum_assignment(cost)[1], dtype=np.int64)


@dataclass(frozen=True)
class Pairs:
    """Cells of one condition before and after.

    Attributes
    ----------
    control : (n, P)
        Cells of the context; those of one context share their array.
    step : (P,)
        Mean step of the condition, which they have gone before the flow begins.
    end : (m, P)
        Treated cells.
    compound : (F,)
    dose : float
    """

    control: Floats
    step: Floats
    end: Floats
    compound: NDArray[np.float32]
    dose: float


class FlowBatches(pl.LightningDataModule):
    """Coupled cells of some conditions at random times, batch after batch.

    Parameters
    ----------
    conditions
        A condition is drawn as often as it has cells.
    steps
        Batches per epoch.
    together
        Conditions per batch, with `cells` of each.
    seed
        Of everything that is drawn.
    """

    def __init__(
        self, conditions: Sequence[Pairs], *, steps: int = 100, together: int = 8, cells: int = 32, seed: int = 0
    ) -> None:
        super().__init__()
        self.conditions, self.steps, self.together, self.cells = conditions, steps, together, cells
        sizes = np.array([len(pairs.end) for pairs in conditions], dtype=np.float64)
        self.share = sizes / sizes.sum()
        self.rng = np.random.default_rng(seed)

    def train_dataloader(self) -> Any:
        """Return the batches of an epoch, drawn when they are asked for."""
        return self

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for _ in range(self.steps):
            parts = [
                self._drawn(self.conditions[i]) for i in self.rng.choice(len(self.share), self.together, p=self.share)
            ]
            whole = [np.concatenate([part[name] for part in parts]) for name in range(4)]
            names = ("start", "end", "compound", "dose")
            batch = {name: torch.as_tensor(x, dtype=torch.float32) for name, x in zip(names, whole, strict=True)}
            batch["time"] = torch.as_tensor(self.rng.random((len(whole[0]), 1)), dtype=torch.float32)
            yield batch

    def _drawn(self, pairs: Pairs) -> tuple[Floats, Floats, NDArray[np.float32], Floats]:
        number = min(self.cells, max(len(pairs.end), 2))
        start = pairs.control[self.rng.integers(len(pairs.control), size=number)] + pairs.step
        end = pairs.end[self.rng.permutation(len(pairs.end))[:number]]
        end = end if len(end) == number else pairs.end[self.rng.integers(len(pairs.end), size=number)]
        compound = np.broadcast_to(pairs.compound, (number, len(pairs.compound)))
        return start, end[coupled(start, end)], compound, np.full((number, 1), pairs.dose)
