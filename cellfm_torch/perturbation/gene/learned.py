"""Training of the head of gene perturbation, and what a trained one says.

Shapes: R genes that are read out, P genes perturbed in training, M conditions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import EarlyStopping
from numpy.typing import NDArray
from torch import nn

from cellfm_torch.callbacks.fitting import fit_in_memory
from cellfm_torch.errors import UserError, nearest
from cellfm_torch.model.adapted import adapted
from cellfm_torch.model.perturbation import GeneTables, PerturbationHead
from cellfm_torch.optim import Recipe
from cellfm_torch.perturbation.gene.control import ControlCells
from cellfm_torch.perturbation.gene.effects import Condition, Effects
from cellfm_torch.perturbation.gene.graphs import Neighbours
from cellfm_torch.perturbation.gene.steps import SURE_CELLS, PerturbSteps, asked
from cellfm_torch.tasks.perturb import PerturbTask

METHODS = {
    "frozen": "the head alone learns",
    "lora": "the head and low-rank adapters of the backbone",
    "full": "everything learns",
}
LEARNING_RATES = {"frozen": 1e-3, "lora": 1e-3, "full": 1e-4}
EPOCHS = 150
VALIDATION = {"num_sanity_val_steps": -1}
"""Before training the head says the common effect, which may be the best there is to say."""

NO_VALIDATION = {"limit_val_batches": 0}

WARMUP = 20
"""Steps."""

PATIENCE = 40
"""Epochs without a smaller loss of the held-out perturbations."""

GARROTE = 2.0
"""A measured effect is trusted by 1 - 2 noise / effect^2: not at all below 1.4 standard errors, by 0.87 at 4."""


@dataclass(frozen=True, kw_only=True)
class LearnOptions:
    """How a head is trained.

    Attributes
    ----------
    method
        A key of :data:`METHODS`.
    width
        Of the head's state.
    weight_decay
        Of its weights.
    lora_rank
        Of the adapters of ``lora``.
    lr
        Highest learning rate; None: that of the method.
    measured
        Use what was measured of single perturbations in training; False leaves everything to the network.
    seed
        Of new weights, order and dropout.
    trainer
        Options of Lightning's Trainer, such as ``max_epochs`` (default 150).

    Raises
    ------
    UserError
        If one is out of its range.
    """

    method: str = "frozen"
    width: int = 64
    weight_decay: float = 1e-5
    lora_rank: int = 8
    lr: float | None = None
    measured: bool = True
    seed: int = 0
    trainer: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"method={self.method}: choose {', '.join(METHODS)}{nearest(self.method, METHODS)}")
        if self.width < 8 or self.width % 8:
            raise UserError(f"width={self.width}: must be a multiple of 8")
        if self.lora_rank < 1:
            raise UserError(f"lora_rank={self.lora_rank}: must be at least 1")


def tables_of(
    train: Effects,
    readout: NDArray[np.int64],
    position: Mapping[str, int],
    graphs: Sequence[tuple[Neighbours, Neighbours]],
    *,
    learned: NDArray[np.int64],
    measured: bool,
) -> GeneTables:
    """Return what a head knows of genes, by the training conditions alone."""
    delta = train.delta
    number = np.array([len(condition) for condition in train.conditions])
    sure = train.cells / (train.cells + SURE_CELLS)
    per_gene = (delta / number[:, None] * sure[:, None]).sum(0) / sure.sum()
    noise = np.zeros_like(delta) if train.noise is None else train.noise
    effects, trust = np.zeros((2, len(learned), len(readout)))
    row = {gene: i for i, gene in enumerate(learned)}
    for i, condition in enumerate(train.conditions):
        if len(condition) == 1 and measured:
            at = row[position[condition[0]]]
            effects[at] = delta[i]
            trust[at] = np.clip(1 - GARROTE * noise[i] / np.maximum(delta[i] ** 2, 1e-30), 0, 1)

    def stacked(which: int, name: str, dtype: torch.dtype) -> torch.Tensor:
        if not graphs:
            return torch.zeros(0, 1, 1, dtype=dtype)
        return torch.stack([torch.from_numpy(getattr(pair[which], name)) for pair in graphs]).to(dtype)

    return GeneTables(
        readout=torch.from_numpy(readout),
        learned=torch.from_numpy(learned),
        common=torch.from_numpy(per_gene).float(),
        measured=torch.from_numpy(effects).float(),
        trust=torch.from_numpy(trust).float(),
        readout_neighbours=stacked(0, "rows", torch.int64),
        readout_weights=stacked(0, "weights", torch.float32),
        perturbed_neighbours=stacked(1, "rows", torch.int64),
        perturbed_weights=stacked(1, "weights", torch.float32),
    )


def learned_genes(conditions: Sequence[Condition], position: Mapping[str, int]) -> NDArray[np.int64]:
    """Return the genes that some conditions perturb (P,), ascending."""
    found = {position[gene] for condition in conditions for gene in condition}
    return np.array(sorted(found), dtype=np.int64)


def learn(
    network: nn.Module,
    control: ControlCells,
    train: Effects,
    *,
    val: Effects | None,
    tables: GeneTables,
    options: LearnOptions,
) -> tuple[PerturbTask, pd.DataFrame]:
    """Train a head on a backbone.

    Parameters
    ----------
    network
        The backbone; it keeps its weights.
    control
        Control cells.
    train, val
        Measured effects to learn from, and to stop by.
    tables
        Of the head.
    options
        How.

    Returns
    -------
    The trained task, in evaluation mode, and one row per epoch.
    """
    own: Any = network
    position = {gene: i for i, gene in enumerate(own.input_spec.genes)}
    lr = LEARNING_RATES[options.method] if options.lr is None else options.lr
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        backbone: Any = adapted(network, options.method, lora_rank=options.lora_rank)
        head = PerturbationHead(tables, width=options.width, **sizes(backbone))
        control.encode(backbone if options.method == "frozen" else None)
        recipe = Recipe(
            lr=lr, min_lr=lr / 10, warmup_steps=WARMUP, weight_decay=options.weight_decay, betas=(0.9, 0.999)
        )
        task = PerturbTask(backbone, head, recipe=recipe)
        data = PerturbSteps(control, train, val=val, position=position, seed=options.seed)
        looking = NO_VALIDATION if val is None else VALIDATION
        trainer = {"max_epochs": EPOCHS, **looking, **(options.trainer or {})}
        stop = [EarlyStopping("val_loss", patience=PATIENCE)] if val is not None else []
        return fit_in_memory(task, data, **{**trainer, "callbacks": [*stop, *trainer.get("callbacks", [])]})


def sizes(network: Any) -> dict[str, int]:
    """Return the widths of a backbone that a head is made for."""
    return {
        "num_genes": len(network.static_genes),
        "static_dim": network.static_genes.shape[1],
        "gene_dim": network.gene_dim,
        "cell_dim": network.cell_dim,
    }


@torch.inference_mode()
def changes(task: PerturbTask, control: ControlCells, conditions: Sequence[Condition]) -> Iterator[NDArray[np.float32]]:
    """Yield the change of some control cells under each condition, (B, M, R), cells in order."""
    network: Any = task.network
    position = {gene: i for i, gene in enumerate(network.input_spec.genes)}
    genes, members = (x.to(task.device) for x in asked(conditions, position))
    task.eval()
    for batch, encoding in control.parts():
        if encoding is not None:
            encoding = type(encoding)(**{name: x.to(task.device) for name, x in vars(encoding).items()})
        change = task.change(batch.to(task.device), genes, members, encoding=encoding)
        yield change.float().cpu().numpy()


AT_ONCE = 32
"""Conditions: (B, M, R) numbers are made for all of them."""


def mean_changes(task: PerturbTask, control: ControlCells, conditions: Sequence[Condition]) -> NDArray[np.float64]:
    """Return the mean change over the control cells under each condition, (M, R)."""
    found = []
    for first in range(0, len(conditions), AT_ONCE):
        part = conditions[first : first + AT_ONCE]
        total = sum(change.sum(0, dtype=np.float64) for change in changes(task, control, part))
        found.append(np.asarray(total) / len(control))
    return np.concatenate(found) if found else np.zeros((0, task.head.num_readout))
