"""Which checkpoint a run goes on from."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cellfm_torch.checkpoint_io import BesideCheckpointIO
from cellfm_torch.distributed.sound import damage, kept, newest_sound
from cellfm_torch.errors import UserError
from cellfm_torch.files import before


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Two checkpoints, one after the other."""
    for step in (1, 2):
        BesideCheckpointIO().save_checkpoint(
            {"step": step, "x": torch.full((500,), float(step))}, tmp_path / "last.ckpt"
        )
    return tmp_path / "last.ckpt"


def test_the_one_before_is_kept(saved: Path) -> None:
    assert torch.load(saved, weights_only=True)["step"] == 2
    assert torch.load(before(saved), weights_only=True)["step"] == 1
    BesideCheckpointIO().save_checkpoint({"step": 3}, saved)
    assert torch.load(before(saved), weights_only=True)["step"] == 2
    assert sorted(path.name for path in saved.parent.iterdir()) == ["last.before.ckpt", "last.ckpt"]
    BesideCheckpointIO().remove_checkpoint(saved)
    assert not list(saved.parent.iterdir())


def test_without_links(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    BesideCheckpointIO().save_checkpoint({"step": 3}, saved)
    steps = [torch.load(path, weights_only=True)["step"] for path in (saved, before(saved))]
    assert steps == [3, 2]


def _flipped(data: bytes) -> bytes:
    """Turn a bit of a tensor, which nothing but a checksum shows."""
    at = data.index(torch.full((500,), 2.0).numpy().tobytes()) + 777
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a bit": (_flipped, "the checksum of .* does not match"),
    "half": (lambda data: data[: len(data) // 2], "it is cut short"),
    "nothing": (lambda data: b"", "it is cut short"),
    "zeros": (lambda data: bytes(len(data)), "it is cut short"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_one_gives_way_to_the_one_before(kind: str, saved: Path) -> None:
    change, why = DAMAGES[kind]
    said: list[str] = []
    assert newest_sound(kept(saved), said.append) == saved and not said
    saved.write_bytes(change(saved.read_bytes()))
    assert newest_sound(kept(saved), said.append) == before(saved)
    (line,) = said
    assert re.search(why, line), line
    assert "going on from the one before" in line
    before(saved).write_bytes(b"")
    with pytest.raises(UserError, match="restore one from a copy, or remove them to begin again"):
        newest_sound(kept(saved), said.append)


def test_none(tmp_path: Path) -> None:
    assert newest_sound(kept(tmp_path / "last.ckpt"), print) is None
    assert damage(tmp_path / "last.ckpt") is not None
