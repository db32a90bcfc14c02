"""Which checkpoint a run goes on from: the newest one that is whole, and never one that would run code.

Of a file of torch.save every part carries a CRC-32, which is compared before anything is taken from it.
"""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import torch

from cellfm_torch.checkpoint_io import before
from cellfm_torch.distributed.checkpoints import REST, recover, sharded_damage
from cellfm_torch.errors import UserError, shortened
from cellfm_torch.files import check_stored, refused_class


def damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None; runs nothing that it holds.

    Of a file all is read; of the folder of a sharded one its description, and what is neither weights nor moments.
    """
    if path.is_dir():
        return sharded_damage(path) or damage(path / REST)
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


def newest_sound(path: Path, say: Callable[[str], None]) -> Path | None:
    """Return the checkpoint to go on from: `path`, the one before it where that is damaged, or None without any.

    Parameters
    ----------
    path
        Of the newest one.
    say
        Is told of damage, and what is taken instead.

    Raises
    ------
    UserError
        If there are checkpoints, and none can be used.
    """
    wrong: list[str] = []
    for candidate in (recover(path), before(path)):
        if not candidate.exists():
            continue
        problem = damage(candidate)
        if problem is None:
            if wrong:
                say(f"{'; '.join(wrong)}: going on from the one before it, {candidate}")
            return candidate
        wrong.append(f"{candidate} is damaged ({problem})")
    if wrong:
        raise UserError(f"{'; '.join(wrong)}: restore one from a copy, or remove them to begin again")
    return None
