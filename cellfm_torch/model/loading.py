"""Model folders of any backbone: the class that config.json names."""

from __future__ import annotations

from pathlib import Path

import torch

from cellfm_torch.errors import UserError, nearest, shortened
from cellfm_torch.model.cellfm import CellFM
from cellfm_torch.model.checkpoint import describe_folder, model_named
from cellfm_torch.model.config import CellFMConfig
from cellfm_torch.model.scfoundation import ScFoundation, ScFoundationConfig

Backbone = CellFM | ScFoundation
BACKBONES: dict[str, type[CellFM] | type[ScFoundation]] = {model.__name__: model for model in (CellFM, ScFoundation)}
CONFIGS: dict[str, type] = {"CellFM": CellFMConfig, "ScFoundation": ScFoundationConfig}
"""A new backbone is one more class here, and its configuration."""


def load_model(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> CellFM | ScFoundation:
    """Load a model folder, of whichever backbone it holds.

    Parameters
    ----------
    folder
        What ``save_pretrained`` or ``cellfm convert`` wrote.
    dtype
        Of the loaded weights, whatever they are stored in.

    Raises
    ------
    UserError
        If it is no model folder, or one of an unknown backbone; and as ``from_pretrained`` of its class.
    """
    return _backbone(folder).from_pretrained(folder, dtype=dtype)


def described(folder: str | Path) -> CellFM | ScFoundation:
    """Return the network of a model folder on the meta device, after a look at all but the weights themselves.

    Raises
    ------
    UserError
        As :func:`load_model`, but for what is wrong with single weights.
    """
    backbone = _backbone(folder)
    return describe_folder(backbone, CONFIGS[backbone.__name__], folder)  # type: ignore[return-value]


def _backbone(folder: str | Path) -> type[CellFM] | type[ScFoundation]:
    name = model_named(folder)
    if name not in BACKBONES:
        known = ", ".join(BACKBONES)
        raise UserError(
            f"{folder}: config.json names the model '{shortened(name)}'{nearest(name, BACKBONES)}; there are {known}"
        )
    return BACKBONES[name]


def untrained(network: Backbone, *, seed: int) -> Backbone:
    """Return a network of the same configuration that has learned nothing, without gradients, on the same device."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = type(network)(network.config, genes=network.genes)  # type: ignore[arg-type]
    return fresh.eval().requires_grad_(False).to(network.static_genes.device)
