"""The names other people's code uses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cellfm_torch


def test_every_public_name_is_there() -> None:
    for name in cellfm_torch.__all__:
        value = getattr(cellfm_torch, name)
        assert value.__name__ == name
        assert value.__doc__ and value.__module__.startswith("cellfm_torch")
    assert set(cellfm_torch._MODULE_OF) == set(cellfm_torch.__all__)


def test_help_does_not_load_torch() -> None:
    script = "import sys; from cellfm_torch import cli; cli.main(['--help']); sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
