"""The network of a gene task: loaded where it is a folder, on the device that was asked for, in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cellfm_torch.data.fingerprint import checksum
from cellfm_torch.errors import UserError
from cellfm_torch.model.cellfm import CellFM
from cellfm_torch.model.device import chosen_device
from cellfm_torch.model.loading import Backbone, load_model
from cellfm_torch.model.scfoundation import ScFoundation


@contextmanager
def on_device(model: Backbone | str | Path, accelerator: str = "auto") -> Iterator[tuple[Backbone, dict[str, Any]]]:
    """Give a network to compute with, and what identifies it; one that was given goes back as it came.

    Parameters
    ----------
    model
        A model folder, or a network.
    accelerator
        ``"auto"`` takes a GPU where there is one.

    Raises
    ------
    UserError
        If the folder is none, or there is no such device.
    """
    device = chosen_device(accelerator)
    if not isinstance(model, str | Path | CellFM | ScFoundation):
        raise UserError(f"model: give a model folder or a network, not a {type(model).__name__}; the cells come second")
    if not isinstance(model, str | Path):
        training, before = model.training, model.static_genes.device
        try:
            yield model.eval().to(device), {"kind": type(model).__name__}
        finally:
            model.train(training).to(before)
        return
    folder = Path(model).expanduser()
    network = load_model(folder).eval().to(device)
    yield (
        network,
        {
            "kind": type(network).__name__,
            "folder": str(folder),
            "weights_sha256": checksum(folder / "model.safetensors"),
        },
    )


def retention_only(network: Backbone, what: str) -> CellFM:
    """Return the network, if it has retention maps.

    Raises
    ------
    UserError
        If it is another backbone.
    """
    if not isinstance(network, CellFM):
        raise UserError(
            f"{what}: come from retention maps, which {type(network).__name__} has not: give a CellFM folder"
        )
    return network


def chosen_layers(network: CellFM, wanted: Sequence[int] | None) -> list[int]:
    """Return layers counted from 0, ascending, of those asked for, counted from 1; None: all.

    Raises
    ------
    UserError
        If there is no such layer.
    """
    number = len(network.encoder)
    if wanted is None:
        return list(range(number))
    if wrong := [layer for layer in wanted if not 1 <= layer <= number]:
        raise UserError(f"layers: there is no layer {wrong[0]}; this model has 1 to {number}")
    return sorted({layer - 1 for layer in wanted})
