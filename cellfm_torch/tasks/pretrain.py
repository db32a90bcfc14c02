"""Masked-value pretraining: predict the expression of genes from the rest of the cell, by gene and by cell.

Shapes: N genes of all cells together, G vocabulary.
"""

from __future__ import annotations

from typing import Any, cast

import lightning.pytorch as pl
import torch
from rich.table import Table
from torch import Tensor, nn
from torchmetrics import MeanSquaredError, Metric, PearsonCorrCoef

from cellfm_torch.batch import CellBatch
from cellfm_torch.errors import UserError
from cellfm_torch.model.outputs import Prediction
from cellfm_torch.optim import Recipe
from cellfm_torch.tasks.losses import loss_terms
from cellfm_torch.tasks.step import StepMeans, share_of_step

HEADS = ("by_gene", "by_cell")
BASELINE = "baseline"


class PretrainTask(pl.LightningModule):
    """Train a backbone on masked values, and measure it on hidden genes of held-out cells (Zeng et al. 2025).

    Parameters
    ----------
    network
        A backbone: ``network(batch) -> Prediction``.
    recipe
        Optimiser, schedule, clipping.
    zeros, read_depth
        What the task asks of its network: heads for unexpressed genes, read-depth tokens. None asks nothing.

    Raises
    ------
    UserError
        If the network was built without what the task asks for.

    Notes
    -----
    Metrics (``val_...``, ``test_...``) are over target genes whose value was hidden, of all cells together: ``mse``
    and Pearson ``r`` of each head and, where the data module has ``gene_means``, of the baseline that predicts each
    gene's training mean. Values are log1p(CP10K).
    """

    targets_only = True
    """The loss reads predictions of target genes only."""

    def __init__(
        self,
        network: nn.Module,
        *,
        recipe: Recipe | None = None,
        zeros: bool | None = None,
        read_depth: bool | None = None,
    ) -> None:
        super().__init__()
        spec = cast(Any, network).input_spec
        for name, asked, has in (
            ("zeros", zeros, not spec.expressed_only),
            ("read_depth", read_depth, spec.read_depth),
        ):
            if asked is not None and asked != has:
                raise UserError(f"task.{name}={asked}, but the network was built with {name}={has}")
        self.network = network
        self.recipe = recipe or Recipe()
        self._means = StepMeans()
        metrics: dict[str, Metric] = {}
        for head in (*HEADS, BASELINE):
            metrics[f"mse_{head}"] = MeanSquaredError()
            metrics[f"r_{head}"] = PearsonCorrCoef()
        self.metrics = nn.ModuleDict(metrics)

    def terms(self, prediction: Prediction, batch: CellBatch) -> dict[str, Tensor]:
        """Return the terms of the loss by name, to be added up."""
        return loss_terms(prediction, batch)

    def training_step(self, batch: CellBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, weighted by its share of the step's targets."""
        terms = self.terms(self.network(batch, targets_only=self.targets_only), batch)
        factor = share_of_step(self, batch)
        terms = {name: value * factor for name, value in terms.items()}
        loss = torch.stack(list(terms.values())).sum()
        named = {f"train_{name}": value for name, value in terms.items()}
        if means := self._means.add(self, {"train_loss": loss, **named}, batch, batch_idx):
            self.log_dict(means, batch_size=batch.num_cells)
        return loss

    def validation_step(self, batch: CellBatch, batch_idx: int) -> None:
        """Add a batch to the metrics."""
        self._measure(batch, "val")

    def test_step(self, batch: CellBatch, batch_idx: int) -> None:
        """Add a batch to the metrics."""
        self._measure(batch, "test")

    def _measure(self, batch: CellBatch, stage: str) -> None:
        prediction = self.network(batch)
        terms = self.terms(prediction, batch)
        assert batch.target is not None and batch.target_values is not None  # loss_terms has checked
        weight = int(batch.target.sum())
        self.log(f"{stage}_loss", torch.stack(list(terms.values())).sum(), batch_size=weight, sync_dist=True)
        chosen = batch.target & batch.hidden
        truth = batch.target_values[chosen].float()
        predicted = {head: getattr(prediction, head) for head in HEADS}
        means = self._gene_means()
        if means is not None:
            predicted[BASELINE] = means[batch.gene_ids]
        for head, values in predicted.items():
            if values is None:
                continue
            for kind in ("mse", "r"):
                metric = cast(Metric, self.metrics[f"{kind}_{head}"])
                metric.update(values[chosen].float(), truth)
                self.log(f"{stage}_{kind}_{head}", metric, on_step=False, on_epoch=True, batch_size=weight)

    def _gene_means(self) -> Tensor | None:
        """Each gene's mean over training cells, by gene id, where the data module offers it."""
        means = getattr(getattr(self.trainer, "datamodule", None), "gene_means", None)
        return None if means is None else torch.as_tensor(means, device=self.device)

    def configure_optimizers(self) -> Any:
        """Build what the recipe says, for as many steps as the Trainer will take."""
        steps = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = self.recipe.build(self.network, steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *arguments: Any, **options: Any) -> None:
        """Clip as the recipe says, after Trainer(gradient_clip_val=...) where that is set."""
        super().configure_gradient_clipping(optimizer, *arguments, **options)
        self.recipe.clip(self.network.parameters())

    @staticmethod
    def summary(metrics: dict[str, float]) -> Table:
        """Return a table of the held-out metrics beside the baseline.

        Parameters
        ----------
        metrics
            As ``trainer.test`` returns them, names starting with ``test_``.
        """
        table = Table(title="Hidden genes of held-out cells, log1p(CP10K)", title_justify="left")
        for column, side in (("", "left"), ("MSE", "right"), ("Pearson r", "right")):
            table.add_column(column, justify=side)  # type: ignore[arg-type]
        rows = {"the model, by gene": "by_gene", "the model, by cell": "by_cell", "gene's training mean": BASELINE}
        for label, head in rows.items():
            cells = [metrics.get(f"test_{kind}_{head}") for kind in ("mse", "r")]
            if cells != [None, None]:  # not every model has both heads
                table.add_row(label, *("-" if x is None else f"{x:.3f}" for x in cells))
        return table
