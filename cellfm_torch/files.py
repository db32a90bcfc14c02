"""Writing files so that what the user had is never lost."""

from __future__ import annotations

import errno
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cellfm_torch.errors import UserError


def before(path: str | Path) -> Path:
    """Return where the checkpoint is kept that was at `path` before the last one."""
    path = Path(path)
    return path.with_name(f"{path.stem}.before{path.suffix}")


@contextmanager
def written_beside(path: str | Path) -> Iterator[Path]:
    """Give a neighbour of `path` to write to; it takes the name `path` when the block ends well.

    A write that fails or is killed half-way leaves at `path` what was there before. The neighbour is ``<path>.part``
    in the same folder (created where missing), and so on the same file system.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        with part.open("rb+") as file:  # the rename must not reach the disk before the contents do
            os.fsync(file.fileno())
        # safetensors lets nobody but the owner read what it writes, which a lab that shares models stumbles over.
        part.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    """Return which permissions new files do not get; the system tells only who sets it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text beside `path` and rename it."""
    with written_beside(path) as part:
        part.write_text(text, encoding="utf-8")


def check_stored(path: str | Path) -> None:
    """Refuse an archive whose parts are packed: torch.save stores them as they are, and they take no more in memory.

    Raises
    ------
    UserError
        For an archive of which a few kilobytes could fill the memory.
    """
    with zipfile.ZipFile(path) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise UserError(f"{path}: is a packed archive, which torch.save does not write; it was not read")


def check_inside(paths: Iterable[str | Path], folder: str | Path) -> None:
    """Refuse a folder whose parts are links to somewhere else: what is there is not the folder's to read.

    Parameters
    ----------
    paths
        The parts.
    folder
        In which they must lie, whatever they link to.

    Raises
    ------
    UserError
        For the first one that does not.
    """
    own = os.path.join(os.path.realpath(folder), "")
    for path in paths:
        if not os.path.realpath(path).startswith(own):
            raise UserError(f"{path}: is a link out of {folder}: put the file itself there")


def refused_class(problem: pickle.UnpicklingError) -> str | None:
    """Return the class or function that a file of torch.save asked for and was not given, such as ``os.system``."""
    wanted = re.search(r"GLOBAL ([\w.]+)", str(problem))
    return wanted[1] if wanted else None


_NOT_WRITTEN = {
    errno.ENOSPC: "no space is left on the disk: free some",
    errno.EDQUOT: "your quota of the disk is used up: free some space",
    errno.EFBIG: "files of this size are not allowed here (ulimit -f): raise the limit",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.EACCES: "there is no permission to write: choose another folder",
    errno.EPERM: "there is no permission to write: choose another folder",
    errno.EIO: "the disk reports an error: look after it",
}
_IN_WORDS = re.compile(
    r"(?:code: |os error )(\d+)|(PytorchStreamWriter failed writing|inline_container\.cc.*unexpected pos)"
)
"""How safetensors and torch, which write by themselves, tell of it."""


def not_written(problem: BaseException) -> str | None:
    """Return one line about a disk that took no more, or None for any other problem.

    Parameters
    ----------
    problem
        With what it came from.
    """
    seen: BaseException | None = problem
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _NOT_WRITTEN:
            where = f"{seen.filename}: " if seen.filename else ""
            return f"{where}{_NOT_WRITTEN[seen.errno]}, and give the same command again"
        if found := _IN_WORDS.search(str(seen)):
            number = int(found[1]) if found[1] else errno.ENOSPC
            if number in _NOT_WRITTEN:
                what = _NOT_WRITTEN[number] if found[1] else "a file could not be written: free some space on the disk"
                return f"{what}, and give the same command again"
        seen = seen.__cause__ or seen.__context__
    return None
