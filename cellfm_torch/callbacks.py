"""Lightning callbacks that know nothing of our tasks: they work with any LightningModule, of either Lightning package.

Throughput measures and BackboneFreezer freezes; EmbeddingWriter saves predictions (:mod:`.embedding_writer`);
UMAPPicture and LossCurve draw (:mod:`.picture_callbacks`); ActivationCheckpointing, TokenBudgetFinder, MatmulPrecision
and KeepFreedMemory fit training to the device (:mod:`.memory_callbacks`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from cellfm_torch.embedding_writer import EmbeddingWriter
from cellfm_torch.errors import UserError, nearest
from cellfm_torch.memory_callbacks import (
    ActivationCheckpointing,
    KeepFreedMemory,
    MatmulPrecision,
    TokenBudgetFinder,
)
from cellfm_torch.picture_callbacks import LossCurve, UMAPPicture

__all__ = [
    "ActivationCheckpointing",
    "BackboneFreezer",
    "EmbeddingWriter",
    "KeepFreedMemory",
    "LossCurve",
    "MatmulPrecision",
    "Throughput",
    "TokenBudgetFinder",
    "UMAPPicture",
]


def _first_tensor(batch: Any) -> Tensor | None:
    """Return the first tensor in a nest of lists, tuples and mappings."""
    if isinstance(batch, Tensor):
        return batch
    inside = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((found for item in inside if (found := _first_tensor(item)) is not None), None)


class Throughput(Callback):
    """Log ``cells_per_second`` and ``tokens_per_second`` at every training step.

    A moving mean over the last batches, waiting for data included; validation, checkpoints and whatever runs between
    epochs are left out. With several processes: this one's rate times their number.

    Parameters
    ----------
    window
        Training batches to average over.

    Attributes
    ----------
    cells_per_second, tokens_per_second : float or None
        Latest values, 1/s. Cells are ``batch.num_cells``, or the length of the batch's first tensor; tokens are
        ``batch.num_genes``, and None for batches that have none.
    """

    def __init__(self, window: int = 20) -> None:
        if window < 1:
            raise UserError(f"Throughput: window must be 1 batch or more, got {window}")
        self.window = window
        self.cells_per_second: float | None = None
        self.tokens_per_second: float | None = None
        self._recent: deque[tuple[float, int, int]] = deque(maxlen=window)
        self._since: float | None = None  # the moment up to which time is accounted for; None: the clock stands

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        self._recent.clear()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        self._since = time.perf_counter()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: D102
        if self._since is None:
            self._since = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: D102
        now = time.perf_counter()
        if (cells := getattr(batch, "num_cells", None)) is None:
            tensor = _first_tensor(batch)
            cells = len(tensor) if tensor is not None and tensor.ndim else 0
        seconds = 0.0 if self._since is None else now - self._since
        self._recent.append((seconds, cells, getattr(batch, "num_genes", 0)))
        self._since = now
        seconds, total_cells, tokens = map(sum, zip(*self._recent, strict=True))
        scale = trainer.world_size / max(seconds, 1e-9)
        self.cells_per_second = total_cells * scale
        self.tokens_per_second = tokens * scale if tokens else None
        for name in ("cells_per_second", "tokens_per_second"):
            if (rate := getattr(self, name)) is not None:
                pl_module.log(name, rate, on_step=True, on_epoch=False, batch_size=max(cells, 1))

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        self._since = None

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        self._since = None

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: D102
        # No hook tells when the file is written, so the clock stands until the next batch starts.
        self._since = None


class BackboneFreezer(Callback):
    """Freeze a part of the module, for good or until an epoch: no gradients, and eval mode (dropout off).

    The optimiser may hold the frozen parameters from the start: without gradients it skips them. With DDP and
    `unfreeze_at_epoch`, use ``strategy="ddp_find_unused_parameters_true"``.

    Parameters
    ----------
    backbone
        Dotted name of the submodule, such as ``"network"`` or ``"network.layers"``.
    unfreeze_at_epoch
        First epoch, counted from 0, that trains the backbone; None: never. Each parameter's ``requires_grad``, and
        each module's mode, becomes again what it was.

    Raises
    ------
    UserError
        At the start of a fit, if the module has no such submodule.
    """

    def __init__(self, backbone: str = "network", unfreeze_at_epoch: int | None = None) -> None:
        self.backbone = backbone
        self.unfreeze_at_epoch = unfreeze_at_epoch
        self.frozen = False
        self._before: dict[str, bool] = {}  # requires_grad by parameter name, as it was before freezing
        self._modes: dict[str, bool] = {}  # training mode by module name, likewise

    def _part(self, pl_module: nn.Module) -> nn.Module:
        part = pl_module
        for name in self.backbone.split("."):
            children = dict(part.named_children())
            if name not in children:
                raise UserError(
                    f"BackboneFreezer: no '{name}' of '{self.backbone}' in {type(part).__name__}"
                    f"{nearest(name, children)}; it has {', '.join(children) or 'no submodules'}"
                )
            part = children[name]
        return part

    def _freeze(self, pl_module: nn.Module) -> None:
        part = self._part(pl_module)
        parameters = dict(part.named_parameters())
        if not self.frozen:
            # A checkpoint that was loaded knows better than a module that was frozen when it was saved.
            self._before = {name: parameter.requires_grad for name, parameter in parameters.items()} | self._before
            self._modes = {name: module.training for name, module in part.named_modules()}
        for parameter in parameters.values():
            parameter.requires_grad_(False)
            parameter.grad = None  # a gradient left behind would still move it
        self.frozen = True

    def _unfreeze_when_due(self, trainer: Any, pl_module: nn.Module) -> None:
        due = self.unfreeze_at_epoch is not None and trainer.current_epoch >= self.unfreeze_at_epoch
        if self.frozen and due:
            part = self._part(pl_module)
            for name, parameter in part.named_parameters():
                parameter.requires_grad_(self._before.get(name, True))
            for name, module in part.named_modules():
                module.training = self._modes.get(name, True)
            self.frozen, self._before = False, {}
        self._keep_eval(pl_module)

    def _keep_eval(self, pl_module: nn.Module) -> None:
        if self.frozen and (part := self._part(pl_module)).training:
            part.eval()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know to unfreeze as this one would."""
        return {"requires_grad": dict(self._before)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of the run that is resumed."""
        self._before = dict(state_dict["requires_grad"])

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Freeze for good before the optimiser and DDP look at ``requires_grad``, where the part exists already."""
        exists = self.backbone in dict(pl_module.named_modules())
        if stage == "fit" and self.unfreeze_at_epoch is None and exists:
            self._freeze(pl_module)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Freeze once the optimiser and DDP hold every parameter, so that unfrozen ones train."""
        self._freeze(pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Decide by the epoch a resumed run starts in; the start of that epoch is not always announced."""
        self._unfreeze_when_due(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        self._unfreeze_when_due(trainer, pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: D102
        self._keep_eval(pl_module)  # whoever called train() since, Lightning after validation or the module itself
