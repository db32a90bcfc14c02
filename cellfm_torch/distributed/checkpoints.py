"""Folders of sharded checkpoints: complete or not there, and read without unpickling what they hold.

A folder has a file of tensors per process, torch's ``.metadata`` that says where each piece is, and ``meta.pt`` with
the rest of the run. Checksums are beside the former (:mod:`cellfm_torch.distributed.checksums`) and inside ``meta.pt``.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, StorageMeta

from cellfm_torch.distributed.checksums import beside, mismatch
from cellfm_torch.errors import UserError, shortened
from cellfm_torch.files import before

METADATA, REST = ".metadata", "meta.pt"
"""Files of the folder: torch's, and Lightning's."""


def part_of(path: Path) -> Path:
    """Return the folder that is written before it takes the place of `path`."""
    return path.with_name(f"{path.name}.part")


def put_in_place(path: Path) -> None:
    """Let the folder written beside `path` take its place, and keep what was there as the one before.

    A kill in between loses neither, see :func:`recover`; the one before goes only when the new one is in place.
    """
    old = _aside(recover(path))
    remove(old)
    if path.exists():
        os.replace(path, old)
    os.replace(part_of(path), path)
    if old.exists():
        remove(before(path))
        os.replace(old, before(path))


def _aside(path: Path) -> Path:
    """Return where the checkpoint at `path` is while a new one takes its place."""
    return path.with_name(f"{path.name}.old")


def recover(path: Path) -> Path:
    """Return `path`, with what was there before where a kill came while it was replaced."""
    old = _aside(path)
    if old.exists() and not path.exists():
        with suppress(FileNotFoundError):  # another process was faster
            os.replace(old, path)
    return path


def remove(path: Path) -> None:
    """Remove a file or a folder, where there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_kept(path: Path) -> None:
    """Remove a checkpoint and the one before it."""
    for kept in (path, _aside(path), before(path)):
        remove(kept)


def is_sharded_checkpoint(path: Path) -> bool:
    """Whether a path is a complete sharded checkpoint."""
    return (path / METADATA).is_file() and (path / REST).is_file()


_DESCRIPTION = "torch.distributed.checkpoint.metadata"
_ALLOWED = {
    (_DESCRIPTION, "Metadata"),
    (_DESCRIPTION, "MetadataIndex"),
    (_DESCRIPTION, "TensorStorageMetadata"),
    (_DESCRIPTION, "BytesStorageMetadata"),
    (_DESCRIPTION, "ChunkStorageMetadata"),
    (_DESCRIPTION, "TensorProperties"),
    (_DESCRIPTION, "StorageMeta"),
    (_DESCRIPTION, "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("collections", "OrderedDict"),
    ("pathlib", "Path"),
    ("pathlib", "PosixPath"),
}


class _PlainUnpickler(pickle.Unpickler):
    """Reads torch's description of a checkpoint, and refuses everything that does not belong to it."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype | torch.layout):
            return found
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no checkpoint of ours does")


class PlainReader(FileSystemReader):
    """torch's reader of such folders, without its unpickling of whatever ``.metadata`` holds."""

    def read_metadata(self, *args: Any, **options: Any) -> Metadata:
        """Return the description of the tensors.

        Raises
        ------
        UserError
            If it is damaged, or something else.
        """
        file = Path(self.path) / METADATA
        try:
            with file.open("rb") as stream:
                metadata = self._read(stream)
        except (OSError, pickle.UnpicklingError, EOFError, AttributeError, ValueError) as problem:
            raise UserError(f"{file} cannot be read ({problem}): give the folder of a sharded checkpoint") from problem
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        assert metadata.storage_meta is not None
        metadata.storage_meta.load_id = self.load_id
        return metadata

    @staticmethod
    def _read(stream: BinaryIO) -> Metadata:
        found = _PlainUnpickler(stream).load()
        if not isinstance(found, Metadata):
            raise ValueError("it describes no checkpoint")
        return found


def sharded_damage(path: Path) -> str | None:
    """Return what is wrong with a sharded checkpoint, or None; of the tensors, whether all are there.

    torch unpickles what is no tensor, such as the number of a step, so that is looked at here before.
    """
    if not is_sharded_checkpoint(path):
        return f"it has no {METADATA} or no {REST}"
    try:
        if has_checksums(path) and (wrong := mismatch(path / METADATA)):
            return wrong
        metadata = PlainReader(path).read_metadata()
        for index, place in (metadata.storage_data or {}).items():
            file = path / place.relative_path
            if file.parent != path or not file.is_file() or file.stat().st_size < place.offset + place.length:
                return f"{place.relative_path} is missing or cut short"
            if isinstance(metadata.state_dict_metadata.get(index.fqn), BytesStorageMetadata):
                with file.open("rb") as stream:
                    stream.seek(place.offset)
                    torch.load(io.BytesIO(stream.read(place.length)), weights_only=True)
    except UserError as problem:
        return str(problem)
    except pickle.UnpicklingError:
        return "it holds more than tensors and plain values"
    except Exception as problem:  # whatever damaged parts make torch raise
        return shortened(problem, longest=120)
    return None


def has_checksums(path: Path) -> bool:
    """Whether there are checksums in a sharded checkpoint; earlier versions wrote none."""
    return beside(path / METADATA).is_file()


def tensor_damage(path: Path, parts: slice = slice(None)) -> str | None:
    """Return what is wrong with the files of tensors of a sound checkpoint, by their checksums, or None.

    Parameters
    ----------
    path
        The folder.
    parts
        Which of the files are read, in the order of their names.
    """
    if not has_checksums(path):
        return None
    try:
        places = (PlainReader(path).read_metadata().storage_data or {}).values()
        files = sorted({place.relative_path for place in places})[parts]
        return next(filter(None, (mismatch(path / name) for name in files)), None)
    except (OSError, UserError) as problem:
        return shortened(problem, longest=120)


def read_tensors(path: Path, prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a sharded checkpoint whose names begin so, without that beginning, in one process.

    Parameters
    ----------
    path
        The folder.
    prefix
        Such as ``"state_dict."``.
    """
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = PlainReader(path)
    described = reader.read_metadata().state_dict_metadata
    state: dict[str, Any] = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in described.items()
        if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
    }
    with warnings.catch_warnings():  # it says that there is one process
        warnings.simplefilter("ignore", UserWarning)
        load(state, storage_reader=reader, no_dist=True)
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}
