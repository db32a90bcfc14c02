"""Sizes, presets, and what is refused."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from cellfm_torch import CellFM, CellFMConfig
from cellfm_torch.errors import UserError

GOOD = {"num_layers": 2, "dim": 64, "num_heads": 2, "num_genes": 100}


def parameters_by_formula(config: CellFMConfig) -> int:
    """Count from ERETNET.md's shapes."""
    d, layers = config.dim, config.num_layers
    encoder = 256 + 256 * 256 + 1 + 256 * d  # w1, w3, a, table
    total = math.ceil((config.num_genes + 1) / 8) * 8 * d  # gene_emb
    total += 2 * d + encoder  # cls_token, mask_emb, value_enc
    total += layers * (8 * d * d + 4 * d)  # q k v u o, u v o; two norms
    total += d * d + d  # by gene
    total += d * d  # by cell
    if config.read_depth:
        total += 2 * d + encoder
    if config.zeros:
        total += d + (2 * (d * d + d) + d + 1) + (d * d + d)  # zero_emb and the two heads
    return total


@pytest.mark.parametrize(
    ("preset", "published", "layers", "dim", "heads", "genes", "rows", "read_depth"),
    [
        ("tiny", None, 4, 128, 4, 24_078, 24_080, False),
        ("80m", 86e6, 2, 1536, 48, 27_855, 27_856, True),
        ("800m", 0.80e9, 40, 1536, 48, 24_078, 24_080, False),
    ],
)
def test_presets(
    preset: str, published: float | None, layers: int, dim: int, heads: int, genes: int, rows: int, read_depth: bool
) -> None:
    config = CellFMConfig.preset(preset)
    assert (config.num_layers, config.dim, config.num_heads, config.num_genes) == (layers, dim, heads, genes)
    assert (config.num_rows, config.head_dim, config.read_depth) == (rows, 32, read_depth)
    assert (config.zeros, config.max_genes, config.dropout) == (False, 2048, 0.1)
    with torch.device("meta"):
        network = CellFM(config)
    assert all(x.is_meta for x in network.state_dict().values())  # nothing allocated, nothing drawn
    count = sum(p.numel() for p in network.parameters())
    assert count == parameters_by_formula(config)
    assert published is None or abs(count / published - 1) < 0.01  # published with two digits
    assert network.genes is not None and len(network.genes) == genes == len(set(network.genes))


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("read_depth", [False, True])
def test_parameter_count_of_every_variant(zeros: bool, read_depth: bool) -> None:
    config = CellFMConfig(**GOOD, zeros=zeros, read_depth=read_depth)
    assert sum(p.numel() for p in CellFM(config).parameters()) == parameters_by_formula(config)


def test_deepnorm_numbers() -> None:
    config = CellFMConfig.preset("800m")
    assert config.alpha == pytest.approx(80**0.25, rel=1e-15)
    assert config.beta == pytest.approx(320**-0.25, rel=1e-15)


@pytest.mark.parametrize(("genes", "rows"), [(1, 8), (7, 8), (8, 16), (24_078, 24_080), (27_855, 27_856)])
def test_rows_are_a_multiple_of_eight_with_one_for_padding(genes: int, rows: int) -> None:
    assert CellFMConfig(**GOOD | {"num_genes": genes}).num_rows == rows


def test_preset_with_changes() -> None:
    config = CellFMConfig.preset("tiny", zeros=True, dropout=None, num_layers=3)
    assert (config.zeros, config.dropout, config.num_layers, config.dim) == (True, 0.1, 3, 128)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dim = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"num_layers": 0}, "num_layers=0"),
        ({"dim": -64}, "dim=-64"),
        ({"dim": 64.0}, "dim=64.0"),
        ({"num_heads": 3}, "not a multiple of num_heads=3"),
        ({"num_genes": "many"}, "num_genes=many"),
        ({"max_genes": 0}, "max_genes=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"dropout": -0.1}, "dropout=-0.1"),
        ({"dropout": math.nan}, "dropout=nan"),
        ({"dropout": None}, "dropout=None"),
        ({"zeros": "yes"}, "zeros=yes"),
        ({"read_depth": 1}, "read_depth=1"),
    ],
)
def test_refused(changes: dict[str, object], part: str) -> None:
    with pytest.raises(UserError, match=part) as refused:
        CellFMConfig(**GOOD | changes)
    assert "\n" not in str(refused.value)


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError) as refused:
        CellFMConfig.preset("tyni")
    assert str(refused.value) == "there is no preset 'tyni'; did you mean 'tiny'?; there are tiny, 80m, 800m"
    with pytest.raises(UserError, match="^there is no preset 'large'; there are tiny"):
        CellFMConfig.preset("large")
