"""Integration fine-tuning: its loss in both forms, what it refuses, a few steps of it."""

from __future__ import annotations

import dataclasses

import lightning.pytorch as pl
import pytest
import torch
from cases import load
from synthetic import batch_of, network_of, take
from torch.utils.data import DataLoader

from cellfm_torch import CellFM, CellFMConfig, UserError
from cellfm_torch.optim import Recipe
from cellfm_torch.tasks.integrate import IntegrateTask
from cellfm_torch.tasks.losses import elastic_cell_similarity, pretraining_loss

SUM = 1e-6  # relative: float32 sums of three terms in another order


def number(*terms: torch.Tensor) -> float:
    return float(torch.stack(terms).sum().detach())


def test_adds_similarity_of_the_embeddings() -> None:
    network, batch = network_of(num_layers=2), batch_of([30, 45, 12, 60])
    prediction = network(batch, targets_only=True)
    terms = IntegrateTask(network, threshold=0.6, weight=0.5).terms(prediction, batch)
    expected = 0.5 * number(elastic_cell_similarity(network.encode(batch).cell, threshold=0.6))
    # The embedding of another call: rounding of the network's float32 sums.
    assert number(terms["ecs"]) == pytest.approx(expected, rel=1e-5)
    total = number(*terms.values())
    assert total == pytest.approx(number(pretraining_loss(prediction, batch)) + expected, rel=1e-5)
    without = IntegrateTask(network, weight=0).terms(prediction, batch)
    assert number(*without.values()) == pytest.approx(number(pretraining_loss(prediction, batch)), rel=SUM)


def test_the_sound_form_does_not_see_the_order_of_genes() -> None:
    network, batch = network_of(num_layers=2), batch_of([30, 45, 12])
    orders = [torch.randperm(n, generator=torch.Generator().manual_seed(n)) for n in (30, 45, 12)]
    other, _ = take(batch, [0, 1, 2], orders)
    found = {}
    for similarity in ("cell", "positional"):
        task = IntegrateTask(network, similarity=similarity)
        found[similarity] = [number(task.terms(network(x), x)["ecs"]) for x in (batch, other)]
    # Sums of genes in another order: 1e-7. The quirk of the official code is more than rounding.
    assert found["cell"][0] == pytest.approx(found["cell"][1], rel=2e-6)
    assert abs(found["positional"][0] - found["positional"][1]) > 1e-5


def test_positional_form_is_the_recorded_one() -> None:
    """All of the recorded loss; tests/parity compares its gradients too."""
    recorded = load("finetune")
    task = IntegrateTask(recorded.network, similarity="positional")
    assert not task.targets_only
    loss = number(*task.terms(recorded.network(recorded.batch), recorded.batch).values())
    assert loss == pytest.approx(float(recorded.arrays["loss"]), rel=3e-6)  # as tests/parity: a mean of many
    sound = IntegrateTask(recorded.network).terms(recorded.network(recorded.batch), recorded.batch)
    # And only that form: the sound one is further off than any rounding.
    assert abs(number(*sound.values()) / float(recorded.arrays["loss"]) - 1) > 1e-4


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    network = network_of(num_layers=1).train()
    batch = dataclasses.replace(batch_of([30, 45, 12, 60]), values=torch.rand(147) * 3)
    task = IntegrateTask(network, recipe=Recipe(lr=1e-3))
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=30, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    before = number(*task.terms(network.eval()(batch), batch).values())
    trainer.fit(task, DataLoader([batch] * 30, batch_size=None))
    after = number(*task.terms(network.eval()(batch), batch).values())
    assert after < 0.8 * before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"similarity": "gene"}, "choose cell or positional"),
        ({"threshold": 1.2}, "must be a cosine between 0 and 1"),
        ({"weight": -1.0}, "must be at least 0"),
    ],
)
def test_refusals(options: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        IntegrateTask(network_of(num_layers=1), **options)


def test_positional_needs_the_decoder() -> None:
    network = CellFM(CellFMConfig(num_layers=1, dim=32, num_heads=1, num_genes=3, decoders=False))
    with pytest.raises(UserError, match="needs a CellFM with decoders"):
        IntegrateTask(network, similarity="positional")
