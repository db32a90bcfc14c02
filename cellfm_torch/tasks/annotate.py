"""Cell-type annotation: a head on a backbone, trained on labelled cells.

Shapes: B cells, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import lightning.pytorch as pl
import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from cellfm_torch.batch import CellBatch
from cellfm_torch.errors import UserError
from cellfm_torch.optim import Recipe
from cellfm_torch.tasks.step import share_of_step


def annotation_loss(logits: Sequence[Tensor], labels: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of each of a head's logits, added up.

    Parameters
    ----------
    logits : sequence of (B, C)
        One or more, each with weight 1 (published: by gene and by cell).
    labels : (B,) int64
        -1 for a cell without one, which does not count.
    weight : (C,), optional
        Of each class; the mean is weighted, so that only its ratios matter.
    """
    if not bool((labels >= 0).any()):
        return torch.stack([x.sum() * 0 for x in logits]).sum()
    terms = [F.cross_entropy(x.float(), labels, weight=weight, ignore_index=-1) for x in logits]
    return torch.stack(terms).sum()


def probabilities(logits: Sequence[Tensor]) -> Tensor:
    """Return the mean of what each of a head's logits says, (B, C)."""
    return torch.stack([x.float().softmax(-1) for x in logits]).mean(0)


class AnnotateTask(pl.LightningModule):
    """Train a head, and as much of the backbone as has gradients, to tell the classes of cells.

    The published head and recipe are those of CellFM's cell annotation (Zeng et al. 2025).

    Parameters
    ----------
    network
        A backbone: ``network.encode(batch) -> Encoding``.
    head
        ``head(encoding, batch)`` gives one or more logits (B, C), see :mod:`cellfm_torch.model.cell_types`.
    recipe
        Optimiser, schedule, clipping. Default: the published one of fine-tuning, Adam with 1e-4.
    class_weights
        C numbers for the loss, for rare classes; None weighs cells alike.

    Raises
    ------
    UserError
        If the weights are not one positive number per class.

    Notes
    -----
    Metrics (``val_...``, ``test_...``) are over cells that have a label: ``accuracy`` and ``macro_f1``.
    """

    def __init__(
        self,
        network: nn.Module,
        head: nn.Module,
        *,
        recipe: Recipe | None = None,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        classes = int(cast(Any, head).num_classes)
        weights = None if class_weights is None else torch.tensor([float(x) for x in class_weights])
        if weights is not None and (len(weights) != classes or not bool((weights > 0).all())):
            raise UserError(f"task.class_weights: give {classes} numbers above 0, one for each class")
        self.network = network
        self.head = head
        self.recipe = recipe or Recipe(lr=1e-4)
        self.register_buffer("class_weights", weights)
        self.frozen = not any(p.requires_grad for p in network.parameters())
        self.metrics = nn.ModuleDict(
            {
                "accuracy": MulticlassAccuracy(classes, average="micro"),
                "macro_f1": MulticlassF1Score(classes, average="macro"),
            }
        )

    def train(self, mode: bool = True) -> AnnotateTask:
        """Set the mode; a backbone that does not learn stays in evaluation mode, without dropout."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def logits(self, batch: CellBatch) -> tuple[Tensor, ...]:
        """Return what the head says of a batch."""
        encoding = cast(Any, self.network).encode(batch)
        return cast("tuple[Tensor, ...]", self.head(encoding, batch))

    def training_step(self, batch: CellBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, weighted by its share of the step's labelled cells."""
        loss = self._loss(self.logits(batch), batch) * share_of_step(self, batch)
        self.log("train_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=batch.num_cells)
        return loss

    def validation_step(self, batch: CellBatch, batch_idx: int) -> None:
        """Add a batch to the metrics."""
        self._measure(batch, "val")

    def test_step(self, batch: CellBatch, batch_idx: int) -> None:
        """Add a batch to the metrics."""
        self._measure(batch, "test")

    def predict_step(self, batch: CellBatch, batch_idx: int = 0) -> Tensor:
        """Return the probability of each class, (B, C)."""
        return probabilities(self.logits(batch))

    def _loss(self, logits: Sequence[Tensor], batch: CellBatch) -> Tensor:
        if batch.labels is None:
            raise ValueError("annotation needs batch.labels; give the data module a label")
        return annotation_loss(logits, batch.labels, weight=cast("Tensor | None", self.class_weights))

    def _measure(self, batch: CellBatch, stage: str) -> None:
        logits = self.logits(batch)
        loss = self._loss(logits, batch)
        assert batch.labels is not None  # the loss has checked
        known = batch.labels >= 0
        number = int(known.sum())
        if not number:
            return
        self.log(f"{stage}_loss", loss, batch_size=number, sync_dist=True)
        found, labels = probabilities(logits)[known], batch.labels[known]
        for name, metric in self.metrics.items():
            cast(Any, metric).update(found, labels)
            self.log(f"{stage}_{name}", cast(Any, metric), on_step=False, on_epoch=True, batch_size=number)

    def configure_optimizers(self) -> Any:
        """Build what the recipe says, for as many steps as the Trainer will take."""
        steps = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = self.recipe.build(self, steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *arguments: Any, **options: Any) -> None:
        """Clip as the recipe says, after Trainer(gradient_clip_val=...) where that is set."""
        super().configure_gradient_clipping(optimizer, *arguments, **options)
        self.recipe.clip(self.parameters())

    @staticmethod
    def summary(metrics: dict[str, float]) -> Table:
        """Return a table of the held-out metrics; names as ``trainer.test`` returns them."""
        table = Table(title="Held-out cells", title_justify="left")
        for column in ("accuracy", "macro F1"):
            table.add_column(column, justify="right")
        table.add_row(*(f"{metrics[f'test_{name}']:.3f}" for name in ("accuracy", "macro_f1")))
        return table
