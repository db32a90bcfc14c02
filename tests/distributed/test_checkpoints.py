"""Sharded checkpoints: written meanwhile, read by another number of processes, complete or not there."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import flip
from launch import launch
from ranks import train

from cellfm_torch.distributed.checkpoints import (
    METADATA,
    PlainReader,
    is_sharded_checkpoint,
    part_of,
    put_in_place,
    read_tensors,
    remove_kept,
)
from cellfm_torch.distributed.checksums import beside, checksum
from cellfm_torch.distributed.sound import damage, kept
from cellfm_torch.errors import UserError
from cellfm_torch.files import before

SAVED_AT, STEPS = 5, 12


@pytest.fixture(scope="module")
def unbroken(ragged: tuple[Path, list[str]]) -> dict[str, Any]:
    """A run of one process that nothing stopped."""
    return launch(train, 1, *ragged, strategy="auto", steps=STEPS, adam="mindspore")[0]


@pytest.fixture(scope="module")
def checkpoint(ragged: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Step 5 of a sharded run of two processes, which goes on while it is written."""
    path = tmp_path_factory.mktemp("sharded") / "last.ckpt"
    launch(train, 2, *ragged, strategy="fsdp", steps=STEPS, adam="mindspore", save=path, save_at=SAVED_AT)
    return path


def test_is_complete(checkpoint: Path) -> None:
    assert is_sharded_checkpoint(checkpoint)
    files = [*checkpoint.glob("*.distcp"), checkpoint / METADATA]
    assert len(files) == 3 and all(beside(file).read_text().strip() == checksum(file) for file in files)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_goes_on_with_other_processes(
    processes: int, checkpoint: Path, unbroken: dict[str, Any], ragged: tuple[Path, list[str]]
) -> None:
    """2 to 1, 2 and 4, in the middle of an epoch: losses and weights are those of a run of one that nothing stopped."""
    ranks = launch(train, processes, *ragged, strategy="fsdp", steps=STEPS, adam="mindspore", resume=checkpoint)
    losses = ranks[0]["losses"]
    assert len(losses) == STEPS - SAVED_AT
    assert np.abs(np.subtract(losses, unbroken["losses"][SAVED_AT:])).max() < 1e-5
    assert all(np.abs(ranks[0]["weights"][key] - x).max() < 1e-4 for key, x in unbroken["weights"].items())
    assert ranks[0]["epochs"] == unbroken["epochs"]


def test_goes_on_from_the_one_before(
    checkpoint: Path, unbroken: dict[str, Any], ragged: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """A bit flipped in the second process's file: both take the checkpoint before it, and one of them says so."""
    path = tmp_path / "last.ckpt"
    for copy in (path, before(path)):
        shutil.copytree(checkpoint, copy)
    flip(path / "__1_0.distcp")
    ranks = launch(train, 2, *ragged, strategy="fsdp", steps=STEPS, adam="mindspore", resume=path)
    losses = ranks[0]["losses"]
    assert len(losses) == STEPS - SAVED_AT
    assert np.abs(np.subtract(losses, unbroken["losses"][SAVED_AT:])).max() < 1e-5
    assert ranks[0]["said"] == (
        f"warning: {path} is damaged (the checksum of __1_0.distcp does not match): going on from the one before it, "
        f"{before(path)}\n"
    )
    assert not ranks[1]["said"]


def test_dropout_goes_on_as_if_nothing_had_stopped(ragged: tuple[Path, list[str]], tmp_path: Path) -> None:
    """With dropout, two processes stopped and gone on with come to the weights that they come to unstopped."""
    path = tmp_path / "last.ckpt"
    options = {"strategy": "ddp", "steps": 6, "dropout": 0.9}
    plain = launch(train, 2, *ragged, **options)[0]["weights"]
    assert launch(train, 2, *ragged, **options, save=path, stop_at=2) == [{"stopped": 3, "code": 143}] * 2
    resumed = launch(train, 2, *ragged, **options, resume=path)[0]["weights"]
    assert all(np.array_equal(resumed[name], x) for name, x in plain.items())


def test_stopped_by_a_signal_to_one_process(
    unbroken: dict[str, Any], ragged: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """SIGTERM in the middle of a step: all save after that step, and four go on where two were stopped."""
    path = tmp_path / "last.ckpt"
    options = {"strategy": "ddp", "steps": STEPS, "adam": "mindspore"}
    assert launch(train, 2, *ragged, **options, save=path, stop_at=3) == [{"stopped": 4, "code": 143}] * 2
    ranks = launch(train, 4, *ragged, **options, resume=path)
    losses = ranks[0]["losses"]
    assert len(losses) == STEPS - 4
    assert np.abs(np.subtract(losses, unbroken["losses"][4:])).max() < 1e-5
    assert all(np.abs(ranks[0]["weights"][key] - x).max() < 1e-4 for key, x in unbroken["weights"].items())


def test_tensors_without_processes(checkpoint: Path, unbroken: dict[str, Any]) -> None:
    tensors = read_tensors(checkpoint, "state_dict.network.")
    assert {name: tuple(x.shape) for name, x in tensors.items()} == {
        name: x.shape for name, x in unbroken["weights"].items()
    }
    assert all(x.isfinite().all() for x in tensors.values())


def test_nothing_else_is_unpickled(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "done",)

    folder = tmp_path / "x.ckpt"
    folder.mkdir()
    (folder / METADATA).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match=r"asks for .*, which no checkpoint of ours does"):
        read_tensors(folder, "")
    assert not (tmp_path / "done").exists()
    (folder / METADATA).write_bytes(b"text")
    with pytest.raises(UserError, match="cannot be read"):
        read_tensors(folder, "")


def test_damage_is_found(checkpoint: Path, tmp_path: Path) -> None:
    """Files that are missing or cut short, and values that would run code when torch unpickles them."""
    assert damage(checkpoint) is None

    def damaged(name: str) -> Path:
        shutil.copytree(checkpoint, tmp_path / name)
        return tmp_path / name

    shard = damaged("cut") / "__1_0.distcp"
    shard.write_bytes(shard.read_bytes()[:-50])
    assert "__1_0.distcp is missing or cut short" in str(damage(shard.parent))
    (damaged("gone") / METADATA).unlink()
    assert "no .metadata" in str(damage(tmp_path / "gone"))
    (damaged("rest") / "meta.pt").write_bytes(b"text")
    assert "cut short or overwritten" in str(damage(tmp_path / "rest"))

    flip(damaged("bit") / "__1_0.distcp")
    assert damage(tmp_path / "bit") == "the checksum of __1_0.distcp does not match"
    assert damage(tmp_path / "bit", parts=slice(0, None, 2)) is None, "another process's share"
    flip(damaged("description") / METADATA)
    assert damage(tmp_path / "description") == "the checksum of .metadata does not match"
    beside(damaged("unknown") / "__0_0.distcp").unlink()
    assert damage(tmp_path / "unknown") == "__0_0.distcp.crc32 is missing"
    for noted in damaged("earlier").glob("*.crc32"):
        noted.unlink()
    assert damage(tmp_path / "earlier") is None, "earlier versions noted no checksums"

    folder = damaged("evil")
    beside(folder / METADATA).unlink()
    description = PlainReader(folder).read_metadata()
    values = (place for index, place in description.storage_data.items() if index.fqn.endswith(".lr"))
    place = next(values)
    evil = io.BytesIO()
    torch.save(Path("x"), evil)
    with (folder / place.relative_path).open("rb+") as file:
        file.seek(0, 2)
        offset = file.tell()
        file.write(evil.getvalue())
    for index, old in description.storage_data.items():
        if index.fqn.endswith(".lr"):
            description.storage_data[index] = dataclasses.replace(old, offset=offset, length=len(evil.getvalue()))
    (folder / METADATA).write_bytes(pickle.dumps(description))
    assert damage(folder) == "it holds more than tensors and plain values"


def put(path: Path, text: str) -> None:
    part_of(path).mkdir(exist_ok=True)
    (part_of(path) / "file").write_text(text)
    put_in_place(path)


def test_the_one_before_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for text in ("one", "two", "three"):
        put(path, text)
    assert [(folder / "file").read_text() for folder in kept(path)] == ["three", "two"]
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["last.before.ckpt", "last.ckpt"]
    remove_kept(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_replaced_as_a_whole(renames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill before each of the renames: what was newest is found again, or what is newer; and the next one is kept."""
    path = tmp_path / "last.ckpt"
    put(path, "one")
    put(path, "two")
    replace, done = os.replace, []

    def mortal(*places: Path) -> None:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(places)
        replace(*places)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", mortal)
        put(path, "three")
    newest = (kept(path)[0] / "file").read_text()
    assert newest == ("three" if renames == 2 else "two")
    put(path, "four")
    assert [(folder / "file").read_text() for folder in kept(path)] == ["four", newest]
    assert len(list(tmp_path.iterdir())) == 2
