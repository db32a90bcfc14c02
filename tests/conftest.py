"""Options of the comparison with a recording of the official network; they must be known wherever pytest is started."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("parity", "comparison with the official MindSpore CellFM (docs/parity.md)")
    group.addoption("--recorded", type=Path, metavar="FILE.npz", help="what record_mindspore.py wrote")
    group.addoption("--model", type=Path, metavar="FOLDER", help="the same checkpoint, converted")
    group.addoption("--live", type=Path, metavar="OFFICIAL", help="record now, with this checkout of the official code")
    group.addoption("--ckpt", type=Path, help="with --live: the checkpoint")
    group.addoption("--recorder", default="", metavar="OPTIONS", help="with --live: more options of the recorder")
    group.addoption("--mindspore-python", metavar="PYTHON", help="with --live (default: $MINDSPORE_PYTHON)")
    group.addoption("--parity-device", default="cpu", help="where our network runs (default: cpu)")
    group.addoption("--parity-dtype", default="float32", choices=("float32", "float16", "bfloat16"), help="of ours")


def pytest_configure(config: pytest.Config) -> None:
    recorded, live = config.getoption("--recorded"), config.getoption("--live")
    if recorded and live:
        raise pytest.UsageError("--recorded compares with a file, --live records one: give one of them")
    if recorded and not config.getoption("--model"):
        raise pytest.UsageError("--recorded needs --model FOLDER, the same checkpoint converted")
    if live and not config.getoption("--ckpt"):
        raise pytest.UsageError("--live needs --ckpt FILE.ckpt")
    for option in ("--recorded", "--model", "--live", "--ckpt"):
        path = config.getoption(option)
        if path and not path.exists():
            raise pytest.UsageError(f"{option} {path}: no such file or folder")
