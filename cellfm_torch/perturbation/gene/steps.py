"""Training steps of gene perturbation: a few control cells, a few perturbations, what these did.

Shapes: n control cells that are used, B of a step, M conditions of a step, U genes that they perturb, R genes read out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellfm_torch.batch import CellBatch
from cellfm_torch.model.outputs import Encoding
from cellfm_torch.perturbation.gene.control import CELLS, ControlCells
from cellfm_torch.perturbation.gene.effects import Condition, Effects
from cellfm_torch.tasks.perturb import PerturbStep

CONDITIONS = 8
"""Of a step."""

SURE_CELLS = 20
"""Cells at which a condition weighs half: means over many cells are sure."""


def asked(conditions: Sequence[Condition], position: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Return the perturbed genes (U,) and which of them each condition perturbs (M, U)."""
    names = list(dict.fromkeys(gene for condition in conditions for gene in condition))
    members = torch.zeros(len(conditions), len(names), dtype=torch.bool)
    for i, condition in enumerate(conditions):
        members[i, [names.index(gene) for gene in condition]] = True
    return torch.tensor([position[name] for name in names], dtype=torch.int64), members


class PerturbSteps(pl.LightningDataModule):
    """Steps of an epoch: every training condition once, in a new order, each few with a few control cells.

    Parameters
    ----------
    control
        Control cells.
    train
        What was measured of the training conditions.
    val
        Of those that tell when to stop; None for none.
    position
        Place of each gene in the vocabulary.
    seed
        Of the order and the cells.
    """

    def __init__(
        self,
        control: ControlCells,
        train: Effects,
        *,
        val: Effects | None,
        position: dict[str, int],
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.control, self.train, self.val, self.position, self.seed = control, train, val, position, seed

    def train_dataloader(self) -> Any:
        """Return the training steps."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return _Epochs(self.control, self.train, self.position, seed=self.seed, rank=rank, world_size=world)

    def val_dataloader(self) -> Any:
        """Return the held-out conditions with all control cells, a few at a time; nothing where there are none."""
        return [] if self.val is None else _Whole(self.control, self.val, self.position)


class _Epochs:
    def __init__(
        self,
        control: ControlCells,
        effects: Effects,
        position: dict[str, int],
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.control, self.effects, self.position = control, effects, position
        self.order, self.draw = np.random.default_rng(seed), np.random.default_rng([seed, rank])
        self.rank, self.world_size = rank, world_size
        self.number = -(-len(effects.conditions) // CONDITIONS)

    def __len__(self) -> int:
        return -(-self.number // self.world_size)

    def __iter__(self) -> Iterator[PerturbStep]:
        parts = np.array_split(self.order.permutation(len(self.effects.conditions)), self.number)  # alike on all ranks
        for i in range(len(self)):
            part = parts[(i * self.world_size + self.rank) % self.number]  # as many steps on every rank
            cells = self.draw.choice(len(self.control), min(CELLS, len(self.control)), replace=False)
            yield step(self.control.take(torch.from_numpy(cells)), self.effects, part, self.position)


class _Whole:
    def __init__(self, control: ControlCells, effects: Effects, position: dict[str, int]) -> None:
        self.control, self.effects, self.position = control, effects, position

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[PerturbStep]:
        few = torch.arange(min(4 * CELLS, len(self.control)))
        rows = np.arange(len(self.effects.conditions))
        yield step(self.control.take(few), self.effects, rows, self.position)


def step(
    cells: tuple[CellBatch, Encoding | None], effects: Effects, rows: NDArray[np.int64], position: dict[str, int]
) -> PerturbStep:
    """Return one step with some conditions."""
    genes, members = asked([effects.conditions[i] for i in rows], position)
    number = torch.from_numpy(effects.cells[rows]).float()
    return PerturbStep(
        cells=cells[0],
        encoding=cells[1],
        genes=genes,
        members=members,
        target=torch.from_numpy(effects.delta[rows]).float(),
        weight=number / (number + SURE_CELLS),
    )
