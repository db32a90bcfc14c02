"""Every target of an optimiser step counts the same, whatever batch it is in."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from cellfm_torch import CellDataModule, CellFM, CellFMConfig, PretrainTask
from cellfm_torch.batch import StepShare
from cellfm_torch.data.sampler import TokenBudgetSampler
from cellfm_torch.tasks.losses import loss_terms


def test_gradient_of_a_step_is_that_of_its_cells(small_cells: Path) -> None:
    """Batches of 1, 2 and 5 cells, one after the other, against the eight cells at once."""
    torch.manual_seed(0)
    network = CellFM(CellFMConfig.preset("tiny", num_layers=1, dim=32, num_heads=1, dropout=0.0))
    data = CellDataModule(small_cells, input_spec=network.input_spec, token_budget=10**6, verbose=False)
    batch = next(iter(data.val_dataloader())).take(torch.arange(8))
    assert batch.share is None
    parts = [batch.take(torch.arange(a, b)) for a, b in ((0, 1), (1, 3), (3, 8))]
    assert sum(part.weight for part in parts) == batch.weight == int(batch.target.sum())

    task = PretrainTask(network)
    logged: list[dict[str, torch.Tensor]] = []
    task.log_dict = lambda values, **_: logged.append(values)  # type: ignore[method-assign]
    task.training_step(batch, 0).backward()
    expected = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    for number, part in enumerate(parts):
        share = StepShare(part.weight, batch.weight, batches=3)
        loss = task.training_step(dataclasses.replace(part, share=share), number)
        (loss / 3).backward()  # Lightning's mean over the batches that accumulate
    whole, together = logged  # nothing is logged in the middle of a step
    # Sums in float32 in another order: 1e-6 of a loss of about 3.
    assert whole.keys() == together.keys() == {"train_loss", "train_mse_by_gene", "train_mse_by_cell"}
    assert all(abs(float(whole[name] - together[name])) < 1e-6 * 3 for name in whole)
    for name, p in network.named_parameters():
        assert p.grad is not None
        # Sums over some thousand tokens in float32, in another order.
        assert (p.grad - expected[name]).abs().max() < 1e-4 * expected[name].abs().max(), name
    with torch.no_grad():
        plain = sum(float(sum(loss_terms(network(part), part).values())) for part in parts) / 3
    assert abs(plain - float(whole["train_loss"])) > 1e-4, "an unweighted mean would do as well: the test tests nothing"


def test_loader_knows_the_targets_of_a_step(small_cells: Path) -> None:
    """The same cells in a step for 1 process that accumulates 4, 2 that accumulate 2, and 4."""
    spec = CellFMConfig.preset("tiny", num_layers=1, dim=32, num_heads=1)
    data = CellDataModule(small_cells, input_spec=CellFM(spec).input_spec, token_budget=9000, verbose=False)
    found = []
    for processes, accumulate in ((1, 4), (2, 2), (4, 1)):
        steps: dict[int, list[tuple[list[int], int]]] = {}
        for rank in range(processes):
            loader = data.train_dataloader()
            plain = loader.sampler
            loader.sampler = TokenBudgetSampler(
                plain.lengths,
                token_budget=9000,
                order=plain.order,
                rank=rank,
                world_size=processes,
                accumulate=accumulate,
            )
            batches = list(loader)
            assert len(batches) == len(loader) and len(batches) % accumulate == 0
            for number, batch in enumerate(batches):
                own = batches[number // accumulate * accumulate :][:accumulate]
                of_step = sum(part.weight for part in own)
                assert batch.share == StepShare(batch.weight, of_step, accumulate, processes)
                steps.setdefault(number // accumulate, []).append((batch.cell_index.tolist(), batch.weight))
        found.append(steps)
    assert found[0] == found[1] == found[2] and len(found[0]) > 1
    seen = sorted(row for step in found[0].values() for rows, _ in step for row in rows)
    assert seen == data.train_cells.tolist()
