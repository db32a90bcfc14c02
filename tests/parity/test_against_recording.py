"""Our network against a recording of the official one: ``pytest tests/parity --recorded FILE.npz --model FOLDER``."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import record_mindspore
import torch
from cases import network_of
from comparison import compare, read_recording

from cellfm_torch import CellFM
from cellfm_torch.errors import UserError

RECORDER = Path(record_mindspore.__file__)


def record_now(config: pytest.Config, output: Path) -> None:
    """Run the recorder in this process where it has MindSpore, else in the interpreter that is named."""
    arguments = ["--official", str(config.getoption("--live")), "--ckpt", str(config.getoption("--ckpt"))]
    arguments += ["--output", str(output), *shlex.split(config.getoption("--recorder"))]
    python = config.getoption("--mindspore-python") or os.environ.get("MINDSPORE_PYTHON")
    if python is None and find_spec("mindspore"):
        if record_mindspore.main(arguments):
            pytest.fail("the recorder failed; its message is above", pytrace=False)
        return
    python = python or sys.executable
    command = [python, RECORDER, *arguments]
    # PYTHONPATH of this interpreter must not reach the other.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    except OSError as problem:
        pytest.fail(f"--mindspore-python {python}: {problem.strerror}", pytrace=False)
    if done.returncode:
        reason = done.stderr.strip() or f"the recorder ended with {done.returncode}"
        pytest.fail(f"{reason}\n(interpreter: {python}; --mindspore-python names another)", pytrace=False)


def test_layers(request: pytest.FixtureRequest, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    config = request.config
    file, folder = config.getoption("--recorded"), config.getoption("--model")
    if file is None:
        file = tmp_path / "live.npz"
        record_now(config, file)
    dtype = getattr(torch, config.getoption("--parity-dtype"))
    try:
        about, arrays = read_recording(file)
        network = (
            CellFM.from_pretrained(folder) if folder else network_of(config.getoption("--ckpt"), about["num_heads"])
        )
        report = compare(about, arrays, network, device=config.getoption("--parity-device"), dtype=dtype)
    except UserError as problem:
        raise pytest.fail.Exception(str(problem), pytrace=False) from None
    conversion = folder / "conversion.json" if folder else None
    if conversion and conversion.is_file() and json.loads(conversion.read_text())["sha256"] != about["sha256"]:
        report.notes.append(f"{folder} was converted from another checkpoint than the one recorded (SHA-256 differs)")
    record_property("parity_table", report.render())
    first = report.first_beyond
    if first is not None:
        pytest.fail(
            f"first beyond tolerance: {first.name} ({first.relative:.1e}, allowed {first.allowed:.1e})", pytrace=False
        )
