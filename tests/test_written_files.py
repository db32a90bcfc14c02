"""Files that are written beside and renamed: complete or not at all, and readable by whom the user lets read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cellfm_torch.files import written_beside


def test_permissions_are_those_of_other_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for _ in range(2):
            with written_beside(tmp_path / "new") as part:
                part.touch(mode=0o600)
            assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
        (tmp_path / "new").chmod(0o604)
        with written_beside(tmp_path / "new") as part:
            part.write_text("again")
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o604  # as the user has set it
    finally:
        os.umask(before)


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ZeroDivisionError), written_beside(tmp_path / "file") as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "file").read_text() == "mine" and os.listdir(tmp_path) == ["file"]
