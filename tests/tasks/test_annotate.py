"""Annotation as a task: the loss by hand, a batch memorised, cells independent of their batch, on either backbone."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from synthetic import batch_of, network_of, take
from torch import nn
from torch.utils.data import DataLoader

from cellfm_torch import AnnotateTask, CellFM, CellFMConfig, ScFoundation, ScFoundationConfig, UserError
from cellfm_torch.batch import CellBatch
from cellfm_torch.model.cell_types import HEADS, AnnotationHead, LabelHead
from cellfm_torch.model.lora import add_lora, merge_lora
from cellfm_torch.optim import Recipe
from cellfm_torch.tasks.annotate import annotation_loss, probabilities

CLASSES = 3


def labelled(lengths: list[int], *, genes: int | None = None) -> CellBatch:
    batch = batch_of(lengths, read_depth=True)
    batch.values, batch.hidden = batch.values.nan_to_num(1.0).float(), torch.zeros_like(batch.hidden)
    batch.read_depth = batch.read_depth.float()  # type: ignore[union-attr]
    if genes is not None:
        batch.gene_ids = batch.gene_ids % genes
    batch.labels = torch.arange(len(lengths)) % CLASSES
    return batch


def test_loss_by_hand() -> None:
    rng = np.random.default_rng(0)
    by_gene, by_cell = rng.normal(size=(2, 4, CLASSES))
    labels, weight = np.array([2, 0, -1, 0]), np.array([1.0, 5.0, 3.0])
    expected = 0.0
    for logits in (by_gene, by_cell):
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        used = [0, 1, 3]
        w = weight[labels[used]]
        expected -= float((w * log_p[used, labels[used]]).sum() / w.sum())
    given = [torch.from_numpy(x).float().requires_grad_() for x in (by_gene, by_cell)]
    found = annotation_loss(given, torch.from_numpy(labels), weight=torch.from_numpy(weight).float())
    assert float(found.detach()) == pytest.approx(expected, rel=1e-6)  # float32
    nobody = annotation_loss(given, torch.full((4,), -1))
    nobody.backward()
    assert float(nobody.detach()) == 0 and not given[0].grad.any()  # type: ignore[union-attr]
    p = probabilities(given)
    torch.testing.assert_close(p, (given[0].softmax(1) + given[1].softmax(1)) / 2)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("wide", [False, True])
def test_a_cell_alone_and_in_a_batch(name: str, wide: bool) -> None:
    """Float64: rounding of sums in another order is 1e-12. With a cell embedding wider than a token too."""
    network = network_of(dtype=torch.float64)
    torch.manual_seed(0)
    sizes = {"dim": 64, "cell_dim": 64, "num_heads": 2}
    head = HEADS[name](CLASSES, **(sizes | ({"cell_dim": 96} if wide else {}))).double()
    batch = batch_of([7, 0, 30, 1, 12])

    def answer(batch: CellBatch) -> torch.Tensor:
        encoding = network.encode(batch)
        if wide:
            encoding.cell = torch.cat([encoding.cell, encoding.cell[:, :32]], 1)
        return torch.stack(head(encoding, batch))  # (2, B, C)

    with torch.no_grad():
        together = answer(batch)
        assert together.shape == (2, 5, CLASSES)
        for cells in ([2], [4, 0, 2], [1, 3]):
            orders = [torch.randperm(int(batch.lengths[c])) for c in cells]
            part, _ = take(batch, cells, orders)
            assert (answer(part) - together[:, cells]).abs().max() < 1e-12 * 100


def test_start_and_sizes() -> None:
    torch.manual_seed(0)
    head = AnnotationHead(50, dim=128, num_heads=4)
    # Xavier-normal with gain 0.5, and gain (8 N)^(-1/4) = 0.5 for v, u, o of two layers; 1 for q and k.
    assert float(head.cluster_emb.detach().std()) == pytest.approx(0.5 * math.sqrt(2 / 178), rel=0.05)
    layer: Any = head.query_layers[0]
    for part, gain in (("q", 1), ("k", 1), ("v", 0.5), ("u", 0.5), ("o", 0.5)):
        weight = getattr(layer.cross_retention, f"{part}_proj").weight
        assert float(weight.detach().std()) == pytest.approx(gain * math.sqrt(1 / 128), rel=0.05), part
    assert isinstance(head.to_token, nn.Identity)
    assert not any("to_token" in name for name in head.state_dict())
    with pytest.raises(ValueError, match="at least two classes"):
        LabelHead(1, dim=64, num_heads=2)


MAKERS = {
    "CellFM": lambda: CellFM(CellFMConfig.preset("tiny", num_layers=1, dim=32, num_heads=1)),
    "CellFM with S and T": lambda: CellFM(CellFMConfig.preset("80m", dim=32, num_heads=1)),
    "scFoundation": lambda: ScFoundation(ScFoundationConfig.preset("scfoundation-tiny")),
}


@pytest.mark.parametrize("backbone", MAKERS)
@pytest.mark.parametrize("method", ["frozen", "full"])
def test_one_batch_is_memorised(backbone: str, method: str) -> None:
    torch.manual_seed(0)
    network = MAKERS[backbone]().requires_grad_(method == "full")
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    batch = labelled([20, 30, 25, 22, 18, 40])
    task = AnnotateTask(network, AnnotationHead.for_network(network, CLASSES), recipe=Recipe(lr=3e-3, weight_decay=0.0))
    assert task.frozen == (method == "frozen")
    trainer = pl.Trainer(
        max_steps=60,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, train_dataloaders=DataLoader([batch], batch_size=None))
    task.eval()
    with torch.no_grad():
        assert float(annotation_loss(task.logits(batch), batch.labels)) < 0.2  # 2 ln 3 = 2.2 by chance
        assert (task.predict_step(batch).argmax(1) == batch.labels).all()
    moved = [name for name, p in network.named_parameters() if not torch.equal(p, before[name])]
    assert bool(moved) == (method == "full")


def test_a_frozen_backbone_has_no_dropout() -> None:
    network = network_of().requires_grad_(False)
    task = AnnotateTask(network, AnnotationHead.for_network(network, CLASSES)).train()
    assert not network.training and task.head.training
    assert AnnotateTask(network_of(), AnnotationHead.for_network(network, CLASSES)).train().network.training


def test_adapters_change_nothing_at_first_and_are_all_that_learns() -> None:
    network, batch = network_of(), labelled([9, 20])
    torch.manual_seed(0)
    adapted = add_lora(network, 3)
    assert adapted.config.lora_rank == 3 and network.config.lora_rank == 0
    with torch.no_grad():
        assert torch.equal(adapted.encode(batch).cell, network.encode(batch).cell)  # B is zero: exactly
    learning = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(learning) == 2 * 8 * 4 and all(".lora_" in name for name in learning)
    assert all(p.requires_grad for p in network.parameters())
    shared = dict(adapted.named_parameters())["gene_emb.weight"]
    assert shared.data_ptr() == network.gene_emb.weight.data_ptr()
    plain = merge_lora(adapted)
    assert all(torch.equal(x, plain.state_dict()[name]) for name, x in network.state_dict().items())
    for wrong, says in ((0, "lora_rank=0: must be at least 1"), (3, "adapters of rank 3 already")):
        with pytest.raises(UserError, match=says):
            add_lora(adapted if wrong else network, wrong)
    with pytest.raises(UserError, match="ScFoundation takes no adapters: choose method=frozen or method=full"):
        add_lora(MAKERS["scFoundation"](), 3)


def test_weights_of_classes_are_checked() -> None:
    network = network_of()
    for weights in ([1.0, 2.0], [1.0, 0.0, 1.0]):
        with pytest.raises(UserError, match="task.class_weights: give 3 numbers above 0, one for each class"):
            AnnotateTask(network, AnnotationHead.for_network(network, CLASSES), class_weights=weights)
