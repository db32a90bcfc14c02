"""Gene perturbation: a head on control cells, trained on the mean effects of perturbations.

Shapes: B control cells, M conditions of a step, U genes that they perturb, R genes that are read out.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from cellfm_torch.batch import CellBatch
from cellfm_torch.model.outputs import Encoding
from cellfm_torch.model.perturbation import PerturbationHead
from cellfm_torch.optim import Recipe
from cellfm_torch.tasks.best import KeepsBest


@dataclass(frozen=True)
class PerturbStep:
    """Control cells, what is done to them, and what that did.

    Attributes
    ----------
    cells : CellBatch
        Control cells.
    encoding : Encoding or None
        What a frozen backbone makes of them; None where it is to be asked.
    genes : (U,) int64
        Perturbed genes, as positions in the vocabulary.
    members : (M, U) bool
        Which of them each condition perturbs.
    target : (M, R)
        Measured change of the mean of log1p(CP10K).
    weight : (M,)
        Of each condition in the loss: means over many cells are sure.
    """

    cells: CellBatch
    encoding: Encoding | None
    genes: Tensor
    members: Tensor
    target: Tensor
    weight: Tensor

    def to(self, device: torch.device | str, **options: Any) -> PerturbStep:
        """Return the step on another device."""
        encoding = self.encoding
        if encoding is not None:
            moved = {field.name: getattr(encoding, field.name).to(device) for field in dataclasses.fields(encoding)}
            encoding = Encoding(**moved)
        rest = {name: getattr(self, name).to(device) for name in ("genes", "members", "target", "weight")}
        return PerturbStep(cells=self.cells.to(device), encoding=encoding, **rest)


class PerturbTask(KeepsBest):
    """Train a head, and as much of the backbone as has gradients, to say what perturbed genes do.

    Parameters
    ----------
    network
        A backbone: ``network.encode(batch) -> Encoding``, ``network.static_genes``, ``network.input_spec``.
    head
        The head.
    recipe
        Optimiser, schedule, clipping.
    forget
        Share of the perturbed genes of combinations whose measured effect is withheld in a training step, so that the
        network learns to do without; of single perturbations it always is, as it is the answer.

    Notes
    -----
    Metrics: ``train_loss`` and ``val_loss``, weighted mean squared error of the mean change over the step's cells.
    """

    def __init__(
        self, network: nn.Module, head: PerturbationHead, *, recipe: Recipe | None = None, forget: float = 0.5
    ) -> None:
        super().__init__()
        self.network = network
        self.head = head
        self.recipe = recipe or Recipe(lr=1e-3, weight_decay=1e-5)
        self.forget = forget

    @property
    def frozen(self) -> bool:
        """Whether the backbone stays as it is."""
        return not any(p.requires_grad for p in self.network.parameters())

    def train(self, mode: bool = True) -> PerturbTask:
        """Set the mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def change(
        self, cells: CellBatch, genes: Tensor, members: Tensor, *, encoding: Encoding | None = None, **options: Any
    ) -> Tensor:
        """Return the change of each cell under each condition, (B, M, R)."""
        network = cast(Any, self.network)
        found = network.encode(cells) if encoding is None else encoding
        change: Tensor = self.head(
            found,
            cells,
            network.static_genes,
            first_id=network.input_spec.first_id,
            genes=genes,
            members=members,
            **options,
        )
        return change

    def training_step(self, batch: PerturbStep, batch_idx: int) -> Tensor:
        """Return the loss of one step."""
        single = batch.members.sum(1, keepdim=True) < 2
        drawn = torch.rand(batch.members.shape, device=batch.members.device) < self.forget
        loss = self._loss(batch, forget=single | drawn)
        self.log("train_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(batch.weight))
        return loss

    def validation_step(self, batch: PerturbStep, batch_idx: int) -> None:
        """Add held-out perturbations to the loss."""
        self.log("val_loss", self._loss(batch), on_epoch=True, batch_size=len(batch.weight))

    def _loss(self, step: PerturbStep, **options: Any) -> Tensor:
        change = self.change(step.cells, step.genes, step.members, encoding=step.encoding, **options)
        squares = (change.mean(0).float() - step.target).square().mean(1)
        return (squares * step.weight).sum() / step.weight.sum()

    def on_validation_epoch_end(self) -> None:
        """Keep the best weights in memory."""
        loss = self.trainer.callback_metrics.get("val_loss")
        if loss is not None:
            self.keep_if_best(float(loss))

    def configure_optimizers(self) -> Any:
        """Build what the recipe says, for as many steps as the Trainer will take."""
        steps = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = self.recipe.build(self, steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *arguments: Any, **options: Any) -> None:
        """Clip as the recipe says, after Trainer(gradient_clip_val=...) where that is set."""
        super().configure_gradient_clipping(optimizer, *arguments, **options)
        self.recipe.clip(self.parameters())
