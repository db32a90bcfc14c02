"""Training of a head on a backbone that is frozen, adapted or trained whole, by Lightning.

Shapes: n cells of a set, r of its rows, C classes.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import nn

from cellfm_torch.annotation.embedding import shown
from cellfm_torch.callbacks import RunProgress
from cellfm_torch.data.labelled import CellSet, LabelledCells
from cellfm_torch.model.cell_types import AnnotationHead
from cellfm_torch.model.lora import add_lora
from cellfm_torch.optim import Recipe
from cellfm_torch.tasks.annotate import AnnotateTask

EPOCHS = 30
LEARNING_RATES = {"frozen": 1e-3, "lora": 1e-3, "full": 1e-4}
"""Full fine-tuning as published; new weights alone bear more."""


class EpochHistory(Callback):
    """Keep what was logged at the end of each epoch."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Add a row."""
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rows.append({"epoch": float(trainer.current_epoch), **logged})

    @property
    def frame(self) -> pd.DataFrame:
        """One row per epoch, indexed by its number from 0."""
        if not self.rows:
            return pd.DataFrame(index=pd.Index([], name="epoch"))
        return pd.DataFrame(self.rows).astype({"epoch": int}).set_index("epoch")


def prepared(network: nn.Module, method: str, *, lora_rank: int) -> nn.Module:
    """Return the backbone as a method trains it; the one given keeps its weights whatever happens."""
    if method == "lora":
        return add_lora(network, lora_rank)
    if method == "full":
        return copy.deepcopy(network).requires_grad_(True)
    return network.requires_grad_(False)


def fine_tune(
    network: nn.Module,
    data: LabelledCells,
    *,
    method: str,
    num_classes: int,
    class_weights: NDArray[np.float64] | None = None,
    lora_rank: int = 8,
    lr: float | None = None,
    seed: int = 0,
    **trainer_options: Any,
) -> tuple[AnnotateTask, pd.DataFrame]:
    """Train the published head of annotation on a backbone.

    Parameters
    ----------
    network
        The backbone.
    data
        Labelled cells.
    method
        ``"frozen"``: the head alone learns; ``"lora"``: the head and low-rank adapters; ``"full"``: everything.
    num_classes
        C.
    class_weights : (C,), optional
        In the loss.
    lora_rank
        Of the adapters.
    lr
        Highest learning rate; None: that of the method. Adam as published, a cosine down to a tenth of it.
    seed
        Of new weights and dropout. The caller's random numbers go on as if nothing had been drawn.
    trainer_options
        Of Lightning's Trainer.

    Returns
    -------
    The trained task, in evaluation mode, and one row per epoch.
    """
    lr = LEARNING_RATES[method] if lr is None else lr
    history = EpochHistory()
    options = {
        "max_epochs": EPOCHS,
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        **trainer_options,
    }
    more = options.pop("callbacks", None) or []
    more = list(more) if isinstance(more, list | tuple) else [more]
    bar = [RunProgress()] if options.get("enable_progress_bar", True) else []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = prepared(network, method, lora_rank=lora_rank)
        head = AnnotationHead.for_network(backbone, num_classes)
        recipe = Recipe(lr=lr, min_lr=lr / 10, weight_decay=1e-5)
        weights = None if class_weights is None else class_weights.tolist()
        task = AnnotateTask(backbone, head, recipe=recipe, class_weights=weights)
        with warnings.catch_warnings():  # of what is wanted: a frozen backbone is in evaluation mode
            warnings.filterwarnings("ignore", message=r"Found .* module\(s\) in eval mode")
            warnings.filterwarnings("ignore", message=r".*does not have many workers")
            trainer = pl.Trainer(callbacks=[*bar, history, *more], **options)
            trainer.fit(task, datamodule=data)
    # Lightning takes a trained module back to the CPU; there is more to ask it.
    return task.to(trainer.strategy.root_device).eval(), history.frame


@torch.inference_mode()
def predicted(task: AnnotateTask, cells: CellSet, *, rows: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Return the probability of each class, (r, C); NaN for cells without counts in the model's genes.

    `rows` (r,), ascending, are the cells asked about; None: all.
    """
    rows = np.arange(len(cells)) if rows is None else rows
    out = np.full((len(cells), int(task.head.num_classes)), np.nan)  # type: ignore[arg-type]
    asked = rows[cells.lengths[rows] > 0]
    device = task.device
    task.eval()
    if len(asked):
        for batch in shown(cells.loader(asked), "predicting"):
            out[batch.cell_index.numpy()] = task.predict_step(batch.to(device)).double().cpu().numpy()
    return out[rows]
