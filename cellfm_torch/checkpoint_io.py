"""How Lightning's checkpoints reach the disk: beside and renamed, in the same folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from cellfm_torch.files import written_beside


class BesideCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place and rename it; read it as Lightning does.

    Lightning's own writer goes through the system's temporary folder: where that is another file system the last
    step is a copy, and a kill during it leaves half a checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` (plain values and tensors) to `path`."""
        if storage_options is not None:
            raise TypeError("storage_options have no meaning for a local file")
        with written_beside(path) as part:
            torch.save(checkpoint, part)
