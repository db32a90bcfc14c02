"""What a network gives for a batch, in pieces where memory does not suffice for the whole.

Shapes: B cells of a batch, C width of an output.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from cellfm_torch.batch import CellBatch
from cellfm_torch.data.loader import part
from cellfm_torch.errors import UserError
from cellfm_torch.model.loading import Backbone

_CPU_MESSAGES = ("not enough memory", "can't allocate memory", "Cannot allocate memory")

Functions = Mapping[str, Callable[[CellBatch], Tensor]]


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU_MESSAGES)


class Halving:
    """Functions of batches; what memory does not suffice for is cut in two, and so is what comes after it.

    Parameters
    ----------
    functions
        Each from a batch to a tensor of one row per cell, which depends on that cell only.

    Attributes
    ----------
    most_tokens : int or None
        Gene tokens that were found to be too many, halved; None as long as everything has fitted.
    """

    def __init__(self, functions: Functions) -> None:
        self.functions = functions
        self.most_tokens: int | None = None

    def __call__(self, batch: CellBatch) -> dict[str, Tensor]:
        """Return what the functions give, (B, C) each, in float32 on the CPU.

        Raises
        ------
        UserError
            If memory does not suffice for a single cell.
        """
        offsets = batch.offsets.tolist()
        done: list[dict[str, Tensor]] = []
        waiting = [(0, batch.num_cells)]
        while waiting:
            first, last = waiting.pop()
            tokens = offsets[last] - offsets[first]
            if self.most_tokens is None or tokens <= self.most_tokens or last - first == 1:
                piece = batch if last - first == batch.num_cells else part(batch, first, last)
                found = self._try(piece, tokens)
                if found is not None:
                    done.append(found)
                    continue
            middle = (first + last) // 2
            waiting += [(middle, last), (first, middle)]
        return {name: torch.cat([piece[name] for piece in done]) for name in self.functions}

    def _try(self, batch: CellBatch, tokens: int) -> dict[str, Tensor] | None:
        try:
            return {name: function(batch).float().cpu() for name, function in self.functions.items()}
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # Out here the frames of the failed call, and what they held, are gone.
        if batch.values.is_cuda:
            torch.cuda.empty_cache()
        if batch.num_cells == 1:
            raise UserError(
                f"memory does not suffice for the {tokens:,} genes of cell {int(batch.cell_index[0])}: use a device "
                "with more, or sample_genes=2048"
            )
        self.most_tokens = max(1, tokens // 2)
        warnings.warn(f"out of memory with {tokens:,} gene tokens: going on with {self.most_tokens:,}", stacklevel=2)
        return None


class EmbedTask(LightningModule):
    """Outputs of a network for the cells of each batch, for ``Trainer.predict``.

    Parameters
    ----------
    network
        A backbone.
    functions
        What to compute, by name; see ``network.outputs()``.
    """

    def __init__(self, network: Backbone, functions: Functions) -> None:
        super().__init__()
        self.network = network
        self._compute = Halving(functions)

    def predict_step(self, batch: CellBatch, batch_idx: int) -> dict[str, Tensor]:
        """Return the outputs, (B, C) each, on the CPU."""
        return self._compute(batch)
