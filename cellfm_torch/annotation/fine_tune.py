"""Training of a head on a backbone that is frozen, adapted or trained whole, by Lightning.

Shapes: n cells of a set, r of its rows, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from cellfm_torch.callbacks.fitting import fit_in_memory
from cellfm_torch.data.labelled import CellSet, LabelledCells
from cellfm_torch.embedding.cell_sets import shown
from cellfm_torch.model.adapted import adapted
from cellfm_torch.model.cell_types import AnnotationHead
from cellfm_torch.optim import Recipe
from cellfm_torch.tasks.annotate import AnnotateTask

EPOCHS = 30
LEARNING_RATES = {"frozen": 1e-3, "lora": 1e-3, "full": 1e-4}
"""Full fine-tuning as published; new weights alone bear more."""


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
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = adapted(network, method, lora_rank=lora_rank)
        head = AnnotationHead.for_network(backbone, num_classes)
        recipe = Recipe(lr=lr, min_lr=lr / 10, weight_decay=1e-5)
        weights = None if class_weights is None else class_weights.tolist()
        task = AnnotateTask(backbone, head, recipe=recipe, class_weights=weights)
        return fit_in_memory(task, data, **{"max_epochs": EPOCHS, **trainer_options})


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
