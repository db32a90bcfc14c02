"""An output folder that appears complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellfm_torch.errors import UserError
from cellfm_torch.model.checkpoint import CONFIG, GENES, WEIGHTS

from .heads import HEADS

RECORD = "conversion.json"
TRAINING = "training.ckpt"
OURS = {CONFIG, GENES, WEIGHTS, HEADS, RECORD, TRAINING}


def check_output(folder: Path, *, sha256: str | None, part: str | None = None) -> None:
    """Refuse to write where something else is.

    What may be replaced is an empty folder, and what this converter made of the same file, by its SHA-256, and the same
    part of it, as long as nobody has put anything beside it.

    Raises
    ------
    UserError
        Naming what stands in the way.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, the model needs a folder; say --output FOLDER")
    present = {x.name for x in folder.iterdir()}
    if not present:
        return
    foreign = sorted(present - OURS)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        made_of = record["sha256"], record.get("part")
    except (OSError, ValueError, KeyError, TypeError):
        made_of = None, None
    if foreign or made_of[0] is None or made_of != (sha256, part):
        of = f"part '{part}' of " if part else ""
        why = f"it holds {foreign[0]}" if foreign else f"it was not made from {of}this checkpoint"
        raise UserError(f"{folder} exists and {why}; nothing was written, say --output ANOTHER")


@contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """Give a folder beside `folder` to write to; it takes the name when the block ends well.

    A block that fails leaves nothing: not the neighbour, and no parent folder that did not exist before.

    Raises
    ------
    UserError
        If the place cannot be written to.
    """
    folder = folder.absolute()
    made = [x for x in folder.parents if not x.exists()]
    part = folder.with_name(f".{folder.name}.part-{os.getpid()}")
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    done = False
    try:
        part.mkdir(parents=True)
        yield part
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        done = True
    except OSError as problem:
        raise UserError(f"{folder} cannot be written ({problem.strerror or problem})") from problem
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        if not done:
            for parent in made:
                if parent.is_dir() and not any(parent.iterdir()):
                    parent.rmdir()


@contextmanager
def stoppable() -> Iterator[None]:
    """Let a request to terminate end the block as Ctrl-C does, so that half-written folders are removed."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
