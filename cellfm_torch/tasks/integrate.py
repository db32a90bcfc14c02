"""Integration of batches: masked values, and cells that are pushed to be either alike or unlike.

Shapes: B cells, N genes of all cells together.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from cellfm_torch.batch import CellBatch
from cellfm_torch.errors import UserError
from cellfm_torch.model.cellfm import CellFM
from cellfm_torch.model.outputs import Prediction
from cellfm_torch.optim import Recipe
from cellfm_torch.tasks.losses import elastic_cell_similarity, loss_terms, positional_rows
from cellfm_torch.tasks.pretrain import PretrainTask

Rows = Literal["cell", "positional"]


class IntegrateTask(PretrainTask):
    """Fine-tune a backbone on the batches to be integrated: the losses of pretraining plus elastic cell similarity.

    The published recipe (Zeng et al. 2025) asks for half of a cell's genes (``data.mask_fraction=0.5``); elastic cell
    similarity is scGPT's (Cui et al., Nat. Methods 2024, doi:10.1038/s41592-024-02201-0).

    Parameters
    ----------
    network
        A backbone: ``network(batch) -> Prediction``.
    recipe
        Optimiser, schedule, clipping.
    similarity
        Which rows elastic cell similarity compares. ``"cell"``: the cells' embeddings. ``"positional"``: the by-cell
        predictions, laid out by their position in the batch, as the published code has it (CellFM with decoders
        only): column j is a different gene in each cell, so take it to repeat published runs.
    threshold
        Cosine at which a pair of cells contributes most.
    weight
        Of elastic cell similarity in the loss; 0 leaves it out.
    zeros, read_depth
        What the task asks of its network, as :class:`~cellfm_torch.PretrainTask`.

    Raises
    ------
    UserError
        If an option is out of its range, or the network lacks the head that it needs.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        recipe: Recipe | None = None,
        similarity: Rows = "cell",
        threshold: float = 0.8,
        weight: float = 1.0,
        zeros: bool | None = None,
        read_depth: bool | None = None,
    ) -> None:
        super().__init__(network, recipe=recipe, zeros=zeros, read_depth=read_depth)
        if similarity not in get_args(Rows):
            raise UserError(f"task.similarity={similarity}: choose cell or positional")
        if similarity == "positional" and not (isinstance(network, CellFM) and network.config.decoders):
            raise UserError("task.similarity=positional needs a CellFM with decoders; take task.similarity=cell")
        if not 0 <= threshold <= 1:
            raise UserError(f"task.threshold={threshold}: must be a cosine between 0 and 1")
        if weight < 0:
            raise UserError(f"task.weight={weight}: must be at least 0")
        self.similarity = similarity
        self.threshold = threshold
        self.weight = weight
        self.targets_only = similarity == "cell"

    def terms(self, prediction: Prediction, batch: CellBatch) -> dict[str, Tensor]:
        """Return the terms of pretraining, and ``ecs``."""
        terms = loss_terms(prediction, batch)
        if self.weight:
            rows = prediction.encoding.cell if self.similarity == "cell" else self._positional(prediction, batch)
            terms["ecs"] = self.weight * elastic_cell_similarity(rows, threshold=self.threshold)
        return terms

    def _positional(self, prediction: Prediction, batch: CellBatch) -> Tensor:
        assert isinstance(self.network, CellFM) and prediction.by_cell is not None
        cell = prediction.encoding.cell
        padding, _ = self.network.cell_decoder(self.network.gene_emb.weight[:1].expand(len(cell), -1), cell)
        return positional_rows(prediction.by_cell, padding, batch)
