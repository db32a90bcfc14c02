"""BackboneFreezer: train the rest of a module, for good or until an epoch."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import Callback
from torch import nn

from cellfm_torch.errors import UserError, nearest


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
    layers
        Dotted name, within the backbone, of its list of layers, such as ``"encoder"``: unfreeze them one by one, the
        last one first, and what is not in the list after all of them (arXiv 1801.06146). None: all at once.
    epochs_per_layer
        Epochs from one layer to the next.

    Raises
    ------
    UserError
        If layers are to be unfrozen but no epoch is given; at the start of a fit, if the module has no such submodule.
    """

    def __init__(
        self,
        backbone: str = "network",
        unfreeze_at_epoch: int | None = None,
        *,
        layers: str | None = None,
        epochs_per_layer: int = 1,
    ) -> None:
        if layers is not None and (unfreeze_at_epoch is None or epochs_per_layer < 1):
            raise UserError(
                "BackboneFreezer: layers are unfrozen one by one from unfreeze_at_epoch on, every epochs_per_layer "
                "epochs: give the first, and 1 or more for the second"
            )
        self.backbone = backbone
        self.unfreeze_at_epoch = unfreeze_at_epoch
        self.layers = layers
        self.epochs_per_layer = epochs_per_layer
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

    def _thawed(self, part: nn.Module, epoch: int) -> tuple[str, ...] | None:
        """Return how names of what trains in an epoch begin, within the backbone; None for all of it."""
        if self.unfreeze_at_epoch is None or epoch < self.unfreeze_at_epoch:
            return ()
        if self.layers is None:
            return None
        number = 1 + (epoch - self.unfreeze_at_epoch) // self.epochs_per_layer
        names = [f"{self.layers}.{name}." for name, _ in part.get_submodule(self.layers).named_children()]
        return None if number > len(names) else tuple(names[-number:])

    def _unfreeze_when_due(self, trainer: Any, pl_module: nn.Module) -> None:
        if not self.frozen:
            return
        part = self._part(pl_module)
        thawed = self._thawed(part, trainer.current_epoch)
        for name, parameter in part.named_parameters():
            if thawed is None or name.startswith(thawed):
                parameter.requires_grad_(self._before.get(name, True))
        if thawed is None:
            self._restore_modes(part, None)
            self.frozen, self._before = False, {}
        else:
            part.eval()
            self._restore_modes(part, thawed)

    def _restore_modes(self, part: nn.Module, thawed: tuple[str, ...] | None) -> None:
        for name, module in part.named_modules():
            if thawed is None or f"{name}.".startswith(thawed):
                module.training = self._modes.get(name, True)

    def _keep_eval(self, trainer: Any, pl_module: nn.Module) -> None:
        if self.frozen and (part := self._part(pl_module)).training:
            part.eval()
            self._restore_modes(part, self._thawed(part, trainer.current_epoch))

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
        if self.layers is not None:
            part = self._part(pl_module)
            lists = {name: x for name, x in part.named_modules() if isinstance(x, nn.ModuleList | nn.Sequential)}
            if self.layers not in lists:
                raise UserError(
                    f"BackboneFreezer: no list of layers '{self.layers}' in '{self.backbone}'"
                    f"{nearest(self.layers, lists)}; it has {', '.join(filter(None, lists)) or 'none'}"
                )
        self._freeze(pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Decide by the epoch a resumed run starts in; the start of that epoch is not always announced."""
        self._unfreeze_when_due(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        self._unfreeze_when_due(trainer, pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: D102
        # Whoever called train() since, Lightning after validation or the module itself.
        self._keep_eval(trainer, pl_module)
