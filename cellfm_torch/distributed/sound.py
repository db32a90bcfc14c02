"""Which checkpoint a run goes on from: the newest one that is whole, and never one that would run code.

Of a file of torch.save every part carries a CRC-32, and beside the files of a sharded checkpoint there is one; they are
compared before anything is taken from them.
"""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from cellfm_torch.distributed.checkpoints import REST, recover, sharded_damage, tensor_damage
from cellfm_torch.errors import UserError, shortened
from cellfm_torch.files import before, check_stored, refused_class


def damage(path: Path, *, parts: slice = slice(None)) -> str | None:
    """Return what is wrong with a checkpoint, or None; reads all of it, and runs nothing that it holds.

    Parameters
    ----------
    path
        File, or folder of a sharded one.
    parts
        Which of the files of tensors are read in a folder: of several processes each takes its share.
    """
    if path.is_dir():
        return sharded_damage(path) or damage(path / REST) or tensor_damage(path, parts)
    try:
        check_stored(path)
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():
                return f"the checksum of {broken} does not match"
        torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except pickle.UnpicklingError as problem:
        wanted = refused_class(problem)
        return f"it would run code, {wanted}" if wanted else "it holds more than tensors and plain values"
    except (zipfile.BadZipFile, zlib.error, EOFError):
        return "it is cut short or overwritten"
    except UserError as problem:
        return str(problem).removeprefix(f"{path}: ")
    except Exception as problem:  # whatever a damaged part makes torch raise
        return shortened(problem, longest=120)
    return None


def kept(path: Path) -> list[Path]:
    """Return the checkpoints that there are, the newest first: at `path`, and the one before it."""
    return [checkpoint for checkpoint in (recover(path), before(path)) if checkpoint.exists()]


def newest_sound(
    checkpoints: Iterable[Path], say: Callable[[str], None], *, wrong_with: Callable[[Path], str | None] = damage
) -> Path | None:
    """Return the checkpoint to go on from: the first that is not damaged, or None without any.

    Parameters
    ----------
    checkpoints
        The newest first.
    say
        Is told of damage, and what is taken instead.
    wrong_with
        Looks at one.

    Raises
    ------
    UserError
        If there are checkpoints, and none can be used.
    """
    wrong: list[str] = []
    for candidate in checkpoints:
        problem = wrong_with(candidate)
        if problem is None:
            if wrong:
                say(f"{'; '.join(wrong)}: going on from the one before it, {candidate}")
            return candidate
        wrong.append(f"{candidate} is damaged ({problem})")
    if wrong:
        raise UserError(f"{'; '.join(wrong)}: restore one from a copy, or remove them to begin again")
    return None
