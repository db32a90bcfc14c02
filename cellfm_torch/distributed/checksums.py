"""CRC-32 of the files of a sharded checkpoint: beside each file of tensors before ``.metadata`` is there."""

from __future__ import annotations

import zlib
from pathlib import Path

from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from cellfm_torch.files import write_text

CHUNK = 1 << 24
"""Bytes of a file in memory at a time."""


def beside(file: Path) -> Path:
    """Return where the checksum of a file is."""
    return file.with_name(f"{file.name}.crc32")


def checksum(file: Path) -> str:
    """Return the CRC-32 of a file, in eight hexadecimal digits."""
    value = 0
    with file.open("rb", buffering=0) as stream:
        while block := stream.read(CHUNK):
            value = zlib.crc32(block, value)
    return f"{value:08x}"


def mismatch(file: Path) -> str | None:
    """Return what is wrong with a file, by the checksum beside it, or None."""
    noted = beside(file)
    if not noted.is_file():
        return f"{noted.name} is missing"
    if noted.read_text(encoding="ascii", errors="replace").strip() != checksum(file):
        return f"the checksum of {file.name} does not match"
    return None


class ChecksumWriter(FileSystemWriter):
    """torch's writer of sharded checkpoints; every process notes the checksums of what it has written."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this process's tensors, and then their checksums."""
        written = super().write_data(plan, planner)
        for name in {result.storage_data.relative_path for result in written.wait()}:
            self._note(Path(self.path) / name)
        return written

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the description of all tensors, and then its checksum."""
        super().finish(metadata, results)
        self._note(Path(self._get_metadata_path()))

    @staticmethod
    def _note(file: Path) -> None:
        write_text(beside(file), f"{checksum(file)}\n")
