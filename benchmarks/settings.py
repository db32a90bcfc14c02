"""What a benchmark is asked to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """Options of the command line; see ``python -m benchmarks --help``."""

    theme: str
    model: str = "80m"
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 2
    repeats: int = 12
    cells: int | None = None
    token_budget: int = 16384
    keep_memory: bool = False
    peer: Path | None = None
    peer_cells: int = 4
    lengths: tuple[int, ...] = ()
    seed: int = 0
    output: Path | None = None

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype asked for."""
        return DTYPES[self.dtype]

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Compute in the dtype asked for, weights in float32."""
        with torch.autocast(self.device, dtype=self.torch_dtype, enabled=self.dtype != "float32"):
            yield

    def as_json(self) -> dict[str, Any]:
        """Return what a result says of its options."""
        hidden = {"output", "peer"}  # paths of somebody's machine say nothing
        return {k: v for k, v in asdict(self).items() if k not in hidden} | {"with_peer": self.peer is not None}
