"""Arithmetic of sizes against the network itself."""

from __future__ import annotations

import itertools

import pytest
import torch

from cellfm_torch import CellFM, CellFMConfig
from cellfm_torch.model import cost

VARIANTS = [
    dict(zip(("read_depth", "zeros", "decoders", "lora_rank"), values, strict=True))
    for values in itertools.product((False, True), (False, True), (False, True), (0, 3))
    if values[2] or not values[1]
]


def counted(config: CellFMConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in CellFM(config).parameters())


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_parameters_of_every_variant(variant: dict) -> None:
    config = CellFMConfig(3, dim=64, num_heads=4, num_genes=101, **variant)
    assert sum(cost.parameter_counts(config).values()) == counted(config)


@pytest.mark.parametrize(
    ("name", "millions", "megaflop"), [("tiny", 3.74, None), ("80m", 86.2, 75.9), ("800m", 797, 1518)]
)
def test_published_sizes(name: str, millions: float, megaflop: float | None) -> None:
    config = CellFMConfig.preset(name)
    total = sum(cost.parameter_counts(config).values())
    assert total == counted(config)
    assert total == pytest.approx(millions * 1e6, rel=2e-3)  # as rounded above
    if megaflop:
        assert cost.operations_per_token(config) == pytest.approx(megaflop * 1e6, rel=1e-3)  # as rounded above


def test_state_and_recomputing() -> None:
    config = CellFMConfig(4, dim=64, num_heads=2, num_genes=100)
    state = cost.training_state(config)
    assert state.weights == state.gradients == 4 * counted(config)
    assert state.total == 16 * counted(config)  # weight, gradient, two moments of four bytes each
    forward = 4 * (16 * 64**2 + 4 * 64 * 32)
    assert cost.operations_per_token(config) == forward
    for layers, share in ((0, 3.0), (1, 3.25), (4, 4.0), (9, 4.0)):
        assert cost.training_operations_per_token(config, checkpointed=layers) == share * forward
    assert cost.tokens_per_cell(config, 800) == 801
    assert cost.tokens_per_cell(CellFMConfig.preset("80m"), 800) == 803
