"""Target depths: what t, f and a mean, in counts and in decimal logarithms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cellfm_torch.errors import UserError
from cellfm_torch.read_depth import TargetDepth

COUNTS = np.array([1.0, 800.0, 2279.0, 5e4])


@pytest.mark.parametrize(
    ("rule", "log10_t"),
    [
        ("t4", lambda c: np.full(len(c), 4.0)),
        ("t3.5", lambda c: np.full(len(c), 3.5)),
        ("f1", lambda c: np.log10(c)),
        ("f2.5", lambda c: np.log10(2.5 * c)),
        ("a5", lambda c: np.log10(c) + 5),  # 100,000 times, not five counts more
        ("a0.5", lambda c: np.log10(c) + 0.5),
        ("a-1", lambda c: np.log10(c) - 1),
    ],
)
def test_the_published_rules(rule: str, log10_t: object) -> None:
    depth = TargetDepth.parse(rule)
    expected = log10_t(COUNTS)  # type: ignore[operator]
    np.testing.assert_allclose(np.log10(depth.totals(COUNTS)), expected, rtol=1e-12, atol=1e-12)
    # Tensors as arrays; float32 has seven digits.
    np.testing.assert_allclose(depth.totals(torch.tensor(COUNTS).float()).log10(), expected, rtol=1e-6, atol=1e-6)
    assert TargetDepth.parse(str(depth)) == depth


@pytest.mark.parametrize("rule", ["", "4", "x4", "t", "t4x", "f0", "f-2", "t10000", "a100", "tf4", "t4 f2"])
def test_what_is_no_rule(rule: str) -> None:
    with pytest.raises(UserError, match="target depth") as caught:
        TargetDepth.parse(rule)
    assert "\n" not in str(caught.value)
    if rule == "t10000":
        assert "10000 is a decimal logarithm, of 10^10000 counts" in str(caught.value)
