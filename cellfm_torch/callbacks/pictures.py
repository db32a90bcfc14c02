"""Callbacks that draw: UMAPPicture of held-out cells, LossCurve of the run."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from cellfm_torch.distributed.sharding import is_sharded
from cellfm_torch.errors import UserError, nearest
from cellfm_torch.plots import cells as pictures


def _default_embedding(pl_module: Any, batch: Any) -> Tensor:
    """Embed with our network's encode, or call a foreign module, on x where its batches are (x, y)."""
    network: Any = getattr(pl_module, "network", None)
    if hasattr(network, "encode"):
        return network.encode(batch).cell
    return pl_module(batch[0] if isinstance(batch, list | tuple) else batch)


@contextmanager
def _undisturbed(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluate `module` and leave no trace: modes and all random states become again what they were."""
    modes = [(part, part.training) for part in module.modules()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [device] if device.type != "cpu" else []
    kind = device.type if devices else "cuda"
    try:
        with torch.random.fork_rng(devices, device_type=kind), torch.no_grad():
            module.eval()
            yield
    finally:
        for part, mode in modes:
            part.training = mode
        random.setstate(python_state)
        np.random.set_state(numpy_state)


class _Picture(Callback):
    """Draw at the end of training; what goes wrong there is a warning, for it must not cost a finished run."""

    def _draw(self, trainer: Any, pl_module: Any, path: Path) -> None:
        raise NotImplementedError

    def _try_to_draw(self, trainer: Any, pl_module: Any, path: Path) -> None:
        if not trainer.is_global_zero or trainer.interrupted:
            return
        try:
            self._draw(trainer, pl_module, path)
        except Exception as error:
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            warnings.warn(f"{type(self).__name__}: '{path}' not drawn: {kind}{error}", stacklevel=2)


def _held_out(trainer: Any) -> list[tuple[Iterable[Any], int | None]]:
    """Return loaders of held-out cells, each with the number of batches to take (None: all)."""
    make = getattr(trainer.datamodule, "held_out_dataloader", None)
    if make is not None:
        return [(make(), None)]
    loaders = trainer.val_dataloaders
    if loaders is None:
        raise UserError("there are no held-out cells; give the trainer validation data")
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    loaders = loaders if isinstance(loaders, list | tuple) else [loaders]
    most = [None if number == float("inf") else int(number) for number in trainer.num_val_batches]
    return list(zip(loaders, most, strict=True))


class UMAPPicture(_Picture):
    """Draw a UMAP of the held-out cells at the end of training, and on the way.

    The cells are those of ``trainer.datamodule.held_out_dataloader()`` where there is such a method (nothing hidden),
    else of ``trainer.val_dataloaders`` (with several processes: the first one's share), embedded in eval mode
    without gradients. Training is not disturbed: weights come out the same with and without this callback.

    Parameters
    ----------
    path
        PNG, PDF or SVG. A picture after 3 epochs is called ``NAME-epoch3.SUFFIX``, after 500 steps
        ``NAME-step500.SUFFIX``.
    embed
        ``embed(pl_module, batch) -> (B, C) tensor``. Default: ``pl_module.network.encode(batch).cell`` where there is
        such a method, else ``pl_module(batch)`` (``pl_module(x)`` for batches ``(x, y)``).
    labels
        What to colour by: a column of ``trainer.datamodule.obs``, whose rows are ``batch.cell_index`` (without colours,
        and a warning, where the cells have no such column); or
        ``labels(batch) -> B values``; or None for ``batch.labels`` where batches have them.
    every_n_epochs
        Draw after every so many epochs too; None: only at the end.
    at_steps
        Draw after these training steps too, for a first look at a long run.
    title
        Default: the number of cells and of training steps.
    seed
        Of the UMAP, and of the choice among more than `max_cells` cells.
    max_cells
        At most so many are drawn: UMAP takes about a minute for 20,000.

    Raises
    ------
    UserError
        At the start of a fit, if umap-learn or the data module's ``obs`` is missing. Later failures are warnings.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        embed: Callable[[Any, Any], Tensor] | None = None,
        labels: str | Callable[[Any], Sequence[Any]] | None = None,
        every_n_epochs: int | None = None,
        at_steps: Sequence[int] = (),
        title: str | None = None,
        seed: int = 0,
        max_cells: int = 20_000,
    ) -> None:
        self.path = Path(path)
        self.embed = embed or _default_embedding
        self.labels = labels
        self.every_n_epochs = every_n_epochs
        self.at_steps = frozenset(at_steps)
        self._last_step: int | None = None
        self.title = title
        self.seed = seed
        self.max_cells = max_cells

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse what could only fail hours later."""
        if find_spec("umap") is None:
            raise UserError("UMAPPicture needs umap-learn, which is not installed: pip install umap-learn")
        if isinstance(self.labels, str):
            obs = getattr(trainer.datamodule, "obs", None)
            if obs is None:
                raise UserError(
                    f"UMAPPicture: labels='{self.labels}' asks for trainer.datamodule.obs, which does not exist; "
                    "give labels as a function of the batch"
                )
            if self.labels not in obs:  # a picture never costs a run
                columns = [str(name) for name in obs.columns]
                warnings.warn(
                    f"{self.path.name} will have no colours: the cells have no column '{self.labels}'"
                    f"{nearest(self.labels, columns)} (they have: {', '.join(columns) or 'none'})",
                    stacklevel=2,
                )

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:  # noqa: D102
        step, before = trainer.global_step, self._last_step
        self._last_step = step
        if step in self.at_steps and step != before:  # of a step of several batches after the last one
            self._try_to_draw(trainer, pl_module, path := self.path.with_stem(f"{self.path.stem}-step{step}"))
            if path.exists():
                trainer.print(f"a first look: {path}")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        epochs = trainer.current_epoch + 1
        if self.every_n_epochs and epochs % self.every_n_epochs == 0:
            self._try_to_draw(trainer, pl_module, self.path.with_stem(f"{self.path.stem}-epoch{epochs}"))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Draw before the fit ends, where Lightning takes the module off its device."""
        self._try_to_draw(trainer, pl_module, self.path)

    def _labels_of(self, trainer: Any, batch: Any) -> list[Any] | None:
        if isinstance(self.labels, str):
            if self.labels not in trainer.datamodule.obs:
                return None
            values = trainer.datamodule.obs[self.labels].iloc[batch.cell_index.tolist()]
        else:
            values = getattr(batch, "labels", None) if self.labels is None else self.labels(batch)
        return None if values is None else values.tolist() if hasattr(values, "tolist") else list(values)

    def _embed_cells(self, trainer: Any, pl_module: Any) -> tuple[np.ndarray, list[Any] | None]:
        loaders = _held_out(trainer)
        embeddings: list[np.ndarray] = []
        labels: list[Any] = []
        for number, (loader, most) in enumerate(loaders):
            for batch in islice(loader, most):
                batch = trainer.precision_plugin.convert_input(batch)
                batch = trainer.strategy.batch_to_device(batch, dataloader_idx=number)
                with trainer.precision_plugin.forward_context():
                    embeddings.append(self.embed(pl_module, batch).float().cpu().numpy())
                labels += self._labels_of(trainer, batch) or []
        if not embeddings:
            raise UserError("the validation loader gave no batch")
        return np.concatenate(embeddings), labels or None

    def _draw(self, trainer: Any, pl_module: Any, path: Path) -> None:
        from matplotlib.figure import Figure

        if is_sharded(pl_module):  # this process alone cannot compute with them
            raise UserError("weights are sharded: embed the cells with the trained model (cellfm embed)")
        with _undisturbed(pl_module, trainer.strategy.root_device):
            embedding, labels = self._embed_cells(trainer, pl_module)
            kept = np.flatnonzero(np.isfinite(embedding).all(1))
            if len(kept) > self.max_cells:
                kept = np.sort(np.random.default_rng(self.seed).choice(kept, self.max_cells, replace=False))
            coords = pictures.umap_coordinates(embedding[kept], seed=self.seed)
        title = self.title or f"{len(kept):,} held-out cells after {trainer.global_step:,} steps"
        fig = Figure(figsize=(6.0, 4.5), layout="constrained")  # no pyplot: nothing pops up, nothing stays open
        shown = labels if labels is None or len(labels) != len(embedding) else [labels[row] for row in kept]
        pictures.umap_plot(coords, shown, ax=fig.add_subplot(), title=title)
        pictures.save_figure(fig, path)


class LossCurve(_Picture):
    """Draw training and validation loss over the run, when it ends, from the files of Lightning's CSVLogger.

    Parameters
    ----------
    path
        PNG, PDF or SVG.
    log_dir
        The CSVLogger's folder; every ``metrics.csv`` beneath it counts (see :func:`.pictures.read_history`).
    baselines
        Loss of simple predictors by name, drawn as dashed lines; or ``baselines(pl_module)`` that returns them.
    train, val
        Columns to draw.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        log_dir: str | Path,
        baselines: Mapping[str, float] | Callable[[Any], Mapping[str, float]] | None = None,
        train: str = "train_loss",
        val: str = "val_loss",
    ) -> None:
        self.path = Path(path)
        self.log_dir = Path(log_dir)
        self.baselines = baselines
        self.columns = {"train": train, "val": val}

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Draw once the loggers have every step."""
        for logger in trainer.loggers:
            logger.save()
        self._try_to_draw(trainer, pl_module, self.path)

    def _draw(self, trainer: Any, pl_module: Any, path: Path) -> None:
        from matplotlib.figure import Figure

        fig = Figure(figsize=(6.0, 4.0), layout="constrained")
        history = pictures.read_history(self.log_dir)
        baselines = self.baselines(pl_module) if callable(self.baselines) else self.baselines
        pictures.loss_curve(history, ax=fig.add_subplot(), baselines=baselines, **self.columns)
        pictures.save_figure(fig, path)
