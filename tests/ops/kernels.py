"""The Triton kernels in whatever way this machine can run them: on its GPU, or in Triton's interpreter.

Which of the two is decided when their files are first imported, so tests import them from here.
"""

from __future__ import annotations

import pytest
import torch
import triton  # noqa: F401  # first and without the variable: only our kernels are to be interpreted

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

with pytest.MonkeyPatch.context() as patch:
    if DEVICE.type == "cpu":
        patch.setenv("TRITON_INTERPRET", "1")
    # A missing Triton fails the tests: it is installed with the tools of development wherever it exists.
    from cellfm_torch.ops import triton_gate, triton_kernels

assert triton_kernels.INTERPRETED is not torch.cuda.is_available(), (
    "the kernels were imported by something before the tests"
)

__all__ = ["DEVICE", "triton_gate", "triton_kernels"]
