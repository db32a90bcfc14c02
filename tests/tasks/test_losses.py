"""Losses against plain numpy on small cases."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cellfm_torch import CellBatch, Encoding, Prediction
from cellfm_torch.tasks.losses import (
    elastic_cell_similarity,
    expressed_bce,
    loss_terms,
    masked_mse,
    positional_rows,
    pretraining_loss,
)

CLOSE = 1e-6  # relative: float32 sums of a handful of terms


def batch_of(values: list[float], target: list[int], offsets: list[int] | None = None) -> CellBatch:
    total = len(values)
    return CellBatch(
        gene_ids=torch.arange(total) + 1,
        values=torch.full((total,), math.nan),  # no loss reads the input
        hidden=torch.zeros(total, dtype=torch.bool),
        offsets=torch.tensor(offsets or [0, total]),
        cell_index=torch.arange(len(offsets or [0, 1]) - 1),
        target=torch.tensor(target).bool(),
        target_values=torch.tensor(values),
    )


def prediction_of(**outputs: Tensor) -> Prediction:
    nothing = torch.zeros(0)
    names = ("by_gene", "by_cell", "expressed_by_gene", "expressed_by_cell", "expression")
    return Prediction(*(outputs.get(name) for name in names), Encoding(nothing, nothing, nothing, nothing))


BATCH = batch_of([1.0, 0.0, 2.5, 4.0, 0.0, 3.0], [1, 1, 0, 1, 0, 0], [0, 4, 4, 6])
PREDICTED = torch.tensor([0.5, 1.0, 9.0, 3.0, -2.0, 7.0])
PROBABILITY = torch.tensor([0.9, 0.2, 0.5, 0.6, 0.7, 0.1])


def test_masked_mse() -> None:
    # Targets of all cells together, not a mean of means.
    assert float(masked_mse(PREDICTED, BATCH)) == pytest.approx((0.5**2 + 1**2 + 1**2) / 3, rel=CLOSE)


def test_masked_mse_ignores_what_is_no_target_even_nan() -> None:
    x = PREDICTED.clone()
    x[[2, 4]] = math.nan
    x.requires_grad_()
    loss = masked_mse(
        x, dataclasses.replace(BATCH, target_values=torch.tensor([1.0, 0.0, math.nan, 4.0, 0.0, math.inf]))
    )
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.75, rel=CLOSE)
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([-1 / 3, 2 / 3, 0, -2 / 3, 0, 0], rel=CLOSE)


def test_no_target_in_the_batch_gives_zero_not_nan() -> None:
    batch = batch_of([1.0, 2.0], [0, 0])
    x = torch.tensor([5.0, 5.0], requires_grad=True)
    loss = masked_mse(x, batch)
    loss.backward()
    assert float(loss.detach()) == 0 and x.grad is not None and not x.grad.any()


def test_expressed_bce_counts_every_token_over_the_targets() -> None:
    p, expressed = PROBABILITY.double().numpy(), np.array([1, 0, 1, 1, 0, 1])
    terms = -(expressed * np.log(p) + (1 - expressed) * np.log(1 - p))
    assert float(expressed_bce(PROBABILITY, BATCH)) == pytest.approx(terms.sum() / 3, rel=CLOSE)


def test_expressed_bce_is_clamped() -> None:
    batch = batch_of([1.0, 0.0], [1, 0])
    p = torch.tensor([0.0, 1.0], requires_grad=True)
    loss = expressed_bce(p, batch)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-2 * math.log(1e-12), rel=CLOSE)
    assert p.grad is not None and p.grad.isfinite().all()


def test_pretraining_loss_is_the_sum_of_what_exists() -> None:
    outputs = {
        "by_gene": PREDICTED,
        "by_cell": PREDICTED * 0.5,
        "expressed_by_gene": PROBABILITY,
        "expressed_by_cell": PROBABILITY.roll(1),
    }
    parts = {
        "mse_by_gene": masked_mse(PREDICTED, BATCH),
        "mse_by_cell": masked_mse(PREDICTED * 0.5, BATCH),
        "bce_by_gene": expressed_bce(PROBABILITY, BATCH),
        "bce_by_cell": expressed_bce(PROBABILITY.roll(1), BATCH),
    }
    assert len({float(x) for x in parts.values()}) == 4
    assert loss_terms(prediction_of(**outputs), BATCH) == parts
    total = pretraining_loss(prediction_of(**outputs), BATCH)
    assert total.shape == () and float(total) == pytest.approx(sum(float(x) for x in parts.values()), rel=CLOSE)
    one = pretraining_loss(prediction_of(by_gene=PREDICTED), BATCH)
    assert float(one) == float(parts["mse_by_gene"])


def test_no_heads_or_no_targets_is_an_error() -> None:
    with pytest.raises(ValueError, match="predicts no expression"):
        pretraining_loss(prediction_of(), BATCH)
    for missing in ("target", "target_values"):
        with pytest.raises(ValueError, match="needs batch.target and batch.target_values"):
            pretraining_loss(prediction_of(by_gene=PREDICTED), dataclasses.replace(BATCH, **{missing: None}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_losses_are_float32_whatever_the_network_is(dtype: torch.dtype) -> None:
    # 300^2 does not fit into float16, and 256 + 1 not into bfloat16.
    batch = batch_of([0.0] * 400, [1] * 400)
    x = torch.full((400,), 300.0, dtype=dtype)
    loss = pretraining_loss(prediction_of(by_gene=x), batch)
    assert loss.dtype == torch.float32 and float(loss) == pytest.approx(float(x[0]) ** 2, rel=1e-5)  # 400 float32 terms
    assert elastic_cell_similarity(torch.eye(3, dtype=dtype)).dtype == torch.float32


def ecs_by_hand(rows: np.ndarray, threshold: float) -> float:
    n, total = len(rows), 0.0
    for i in range(n):
        for j in range(n):
            size = np.linalg.norm(rows[i]) * np.linalg.norm(rows[j])
            cosine = 0.0 if i == j or size == 0 else max(0.0, float(rows[i] @ rows[j] / size))
            total += 1 - (cosine - threshold) ** 2
    return total / n**2


def test_ecs_against_loops() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(7, 5)) + 0.5
    rows[3] = 0  # a cell without any prediction: cosine 0, not NaN
    x = torch.tensor(rows, dtype=torch.float32, requires_grad=True)
    for threshold in (0.8, 0.3):
        ours = elastic_cell_similarity(x, threshold=threshold)
        assert float(ours.detach()) == pytest.approx(ecs_by_hand(rows, threshold), rel=CLOSE)
    ours.backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_ecs_of_identical_and_orthogonal_cells() -> None:
    far, near = 1 - 0.8**2, 1 - 0.2**2  # an entry of cosine 0 (and the diagonal), of cosine 1
    assert float(elastic_cell_similarity(torch.ones(4, 6))) == pytest.approx((4 * far + 12 * near) / 16, rel=CLOSE)
    assert float(elastic_cell_similarity(torch.eye(4) * 9)) == pytest.approx(far, rel=CLOSE)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert float(elastic_cell_similarity(opposite)) == pytest.approx(far, rel=CLOSE)  # negative counts as zero
    assert float(elastic_cell_similarity(torch.ones(1, 3))) == pytest.approx(far, rel=CLOSE)


def test_ecs_is_not_rounded_by_autocast() -> None:
    rows = torch.randn(20, 50, generator=torch.Generator().manual_seed(0)) + 1
    exact = float(elastic_cell_similarity(rows))
    with torch.autocast("cpu", torch.bfloat16):
        assert float(elastic_cell_similarity(rows)) == exact


def test_positional_rows() -> None:
    valid = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0]]).bool()
    ids = torch.arange(9).view(3, 3)
    batch = CellBatch.from_padded(ids, ids.float(), valid=valid)
    by_cell = torch.tensor([10.0, 0.0, 12.0], requires_grad=True)  # a prediction of zero is not padding
    padding = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    rows = positional_rows(by_cell, padding, batch)
    assert rows.tolist() == [[10, -1, 0], [-2, 12, -2], [-3, -3, -3]]
    rows.sum().backward()
    assert by_cell.grad is not None and by_cell.grad.tolist() == [1, 1, 1]
    assert padding.grad is not None and padding.grad.tolist() == [1, 2, 3]
