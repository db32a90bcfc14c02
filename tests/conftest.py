"""A small file of real cells, memory that a call takes, and options of the comparison with a recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import anndata
import pytest
import torch

from cellfm_torch.paths import PBMC3K


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


@pytest.fixture(autouse=True)
def threads_stay() -> Iterator[None]:
    """Give back the number of threads: two workers of two threads each on two cores are several times as slow."""
    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty of the bundled cells."""
    path = tmp_path_factory.mktemp("cells") / "small.h5ad"
    anndata.read_h5ad(PBMC3K)[:60].copy().write_h5ad(path)
    return path


@pytest.fixture
def peak_bytes() -> Callable[[Callable[[], object]], int]:
    """Measure the most memory that a call has allocated at a time, counted allocation by allocation (CPU)."""

    def measure(call: Callable[[], object]) -> int:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            kept = call()
        del kept
        events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
        assert events
        now = most = 0
        for event in sorted(events, key=lambda e: e.start_ns()):
            now += event.nbytes()
            most = max(most, now)
        return most

    return measure
