"""A checkpoint as people have it: a MindSpore .ckpt, MindSpore's safetensors, or a folder of rank_N copies."""

from __future__ import annotations

import math
import mmap
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from cellfm_torch.errors import UserError

from . import safetensors_file, wire
from .names import drop_reason
from .tensors import DTYPES, TEXT, DamagedCheckpoint, Entry, chunks, pieces, tensor, text

__all__ = ["DTYPES", "Source", "first_nonfinite", "read_checkpoint"]

SUFFIXES = (".ckpt", ".safetensors")


class Source:
    """An open checkpoint: entries by official name, contents on request. A context manager.

    Parameters
    ----------
    path
        A file, or a folder of ``rank_N`` folders with one checkpoint each: the copies of a data-parallel run.

    Attributes
    ----------
    path : Path
        The file that is read; of copies, the first.
    copies : list of Path
        The others.
    entries : dict of str to Entry
        In the order of the file.

    Raises
    ------
    UserError
        If it is missing, damaged, encrypted or not a checkpoint; copies that differ are refused by `verify_copies`.
    """

    def __init__(self, path: str | Path) -> None:
        self.given = Path(path)
        self.path, *self.copies = _rank_files(self.given) if self.given.is_dir() else [self.given]
        try:
            with self.path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as problem:  # ValueError: an empty file cannot be mapped
            raise UserError(f"{self.path}: cannot be read as a MindSpore checkpoint ({problem})") from problem
        try:
            self.entries, self._metadata = self._index()
        except UserError as problem:
            self.close()
            raise UserError(f"{self.path}: {problem}") from problem

    def _index(self) -> tuple[dict[str, Entry], dict[str, str] | None]:
        if safetensors_file.is_safetensors(self._data):
            entries, metadata = safetensors_file.index(self._data)
        else:
            entries, metadata = wire.index(self._data), None
        if not entries:
            raise DamagedCheckpoint("it holds no tensors")
        for name, entry in entries.items():
            entry.check(name)
        return entries, metadata

    def close(self) -> None:
        """Give the map back."""
        self._data.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def verify_checksum(self) -> None:
        """Read the whole file and compare with the checksum it carries, where it carries one.

        Raises
        ------
        UserError
            If they differ.
        """
        try:
            if self._metadata is None:
                wire.verify_checksum(self._data)
            else:
                safetensors_file.verify_checksum(self._data, self.entries, self._metadata)
        except UserError as problem:
            raise UserError(f"{self.path}: {problem}") from problem

    def verify_copies(self) -> None:
        """Compare the weights and moments of all copies.

        Raises
        ------
        UserError
            Naming the first tensor that differs: the folder holds shards, not copies.
        """
        for path in self.copies:
            with Source(path) as other:
                other.verify_checksum()
                for name in self.entries.keys() | other.entries.keys():
                    if "loss scaling" not in (drop_reason(name) or "") and not self._same(other, name):
                        raise UserError(
                            f"{path}: {name} is not that of {self.path.parent.name}: these are not copies of one model."
                            " Shards of a model-parallel run must be merged with MindSpore first"
                        )

    def _same(self, other: Source, name: str) -> bool:
        if name not in self.entries or name not in other.entries:
            return False
        one, two = self.entries[name], other.entries[name]
        if (one.dims, one.kind) != (two.dims, two.kind):
            return False
        if len(one.ranges) == len(two.ranges) == 1:
            return all(a == b for a, b in zip(self.pieces(name), other.pieces(name), strict=True))
        return b"".join(self.pieces(name)) == b"".join(other.pieces(name))

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a tensor, a few megabytes at a time."""
        return pieces(self._data, self.entries[name])

    def chunks(self, name: str) -> Iterator[Tensor]:
        """Yield the elements of a tensor, flat, a few megabytes at a time."""
        return chunks(self._data, self.entries[name])

    def tensor(self, name: str) -> Tensor:
        """Return a copy of a tensor. Scalars have shape ()."""
        return tensor(self._data, self.entries[name])

    def view(self, name: str) -> Tensor:
        """Return a tensor on the map itself, where it lies in one piece: to be written out, not to be kept.

        It must be gone before the source is closed, and arithmetic may find it misaligned.
        """
        entry = self.entries[name]
        if len(entry.ranges) != 1 or not entry.numel:
            return self.tensor(name)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable.*")
            first = entry.ranges[0][0]
            return torch.frombuffer(self._data, dtype=DTYPES[entry.kind], count=entry.numel, offset=first).reshape(
                entry.dims
            )

    def text(self, name: str) -> str:
        """Return a value that is a string."""
        return text(self._data, self.entries[name])


def _rank_files(folder: Path) -> list[Path]:
    """Return the one checkpoint of each rank_N folder, in the order of the ranks."""
    ranks = {int(x.name[5:]): x for x in folder.iterdir() if re.fullmatch(r"rank_\d+", x.name) and x.is_dir()}
    if not ranks:
        raise UserError(f"{folder}: cannot be read as a checkpoint: a folder without rank_0, rank_1, ... in it")
    if sorted(ranks) != list(range(len(ranks))):
        missing = min(set(range(len(ranks))) - set(ranks))
        raise UserError(f"{folder}: rank_{missing} is missing, there are {len(ranks)} others")
    found = []
    for number in sorted(ranks):
        files = sorted(x for x in ranks[number].iterdir() if x.suffix in SUFFIXES)
        if len(files) != 1:
            raise UserError(
                f"{ranks[number]}: holds {len(files)} checkpoints, there must be exactly one; name the file"
            )
        found.append(files[0])
    return found


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read every tensor of a checkpoint into memory.

    Parameters
    ----------
    path
        As :class:`Source` takes it. Strings among the tensors are left out.

    Returns
    -------
    dict of str to Tensor
        By the names MindSpore gave them, in the order of the file. Scalars have shape ().

    Raises
    ------
    UserError
        If the file is missing, damaged or not a checkpoint.
    """
    with Source(path) as source:
        source.verify_checksum()
        source.verify_copies()
        return {name: source.tensor(name) for name, entry in source.entries.items() if entry.kind != TEXT}


def first_nonfinite(values: Tensor) -> int | None:
    """Return the position of the first NaN or infinity of a flat tensor, or None where there is none."""
    if not values.is_floating_point() or not values.numel():
        return None
    low, high = torch.aminmax(values)  # both are NaN where one element is; one pass over memory
    if math.isfinite(float(low)) and math.isfinite(float(high)):
        return None
    return int((~values.isfinite()).nonzero()[0])
