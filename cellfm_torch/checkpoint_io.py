"""How Lightning's checkpoints reach the disk: beside and renamed, in the same folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from cellfm_torch.files import before, written_beside


def _keep(path: Path) -> None:
    """Keep the checkpoint at `path` under its other name; there is one at `path` at every moment."""
    aside = path.with_name(f"{path.name}.aside")
    aside.unlink(missing_ok=True)
    try:
        os.link(path, aside)
    except OSError:  # a file system without links: for a moment there is only the one before
        os.replace(path, before(path))
    else:
        os.replace(aside, before(path))


class BesideCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place and rename it, keeping the one before; read it as Lightning does.

    Lightning's own writer goes through the system's temporary folder: where that is another file system the last
    step is a copy, and a kill during it leaves half a checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` (plain values and tensors) to `path`."""
        if storage_options is not None:
            raise TypeError("storage_options have no meaning for a local file")
        with written_beside(path) as part:
            torch.save(checkpoint, part)
            if Path(path).is_file():
                _keep(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint and the one before it."""
        super().remove_checkpoint(path)
        before(path).unlink(missing_ok=True)
