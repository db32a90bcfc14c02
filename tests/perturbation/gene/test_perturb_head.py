"""The head of gene perturbation: what it must say whatever it has learned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from synthetic import GENES, batch_of, network_of
from torch import Tensor

from cellfm_torch import CellBatch, PerturbTask
from cellfm_torch.model.perturbation import GeneTables, PerturbationHead
from cellfm_torch.tasks.perturb import PerturbStep

R, P, WIDTH = 9, 4, 16
READOUT = torch.tensor([0, 3, 5, 8, 13, 40, 77, 150, 199])
LEARNED = torch.tensor([3, 8, 60, 150])
UNKNOWN = 100
"""A gene that was never perturbed."""


def tables_of(*, trust: bool = True, graphs: int = 2) -> GeneTables:
    generator = torch.Generator().manual_seed(1)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    def neighbours(rows: int, senders: int) -> Tensor:
        return torch.randint(-1, senders, (graphs, rows, 3), generator=generator)

    return GeneTables(
        readout=READOUT,
        learned=LEARNED,
        common=rand(R) - 0.5,
        measured=rand(P, R) * 2 - 1,
        trust=rand(P, R) if trust else torch.zeros(P, R),
        readout_neighbours=neighbours(R, R),
        readout_weights=rand(graphs, R, 3),
        perturbed_neighbours=neighbours(GENES, P),
        perturbed_weights=rand(graphs, GENES, 3),
    )


def task_of(*, trained: bool, trust: bool = True, graphs: int = 2, **options: Any) -> PerturbTask:
    network = network_of(num_layers=2).requires_grad_(False)
    torch.manual_seed(3)
    sizes = {"num_genes": GENES, "gene_dim": network.gene_dim, "cell_dim": network.cell_dim}
    tables = tables_of(trust=trust, graphs=graphs)
    head = PerturbationHead(tables, static_dim=network.static_genes.shape[1], width=WIDTH, **sizes, **options)
    if trained:  # as if: what starts at zero no longer is
        with torch.no_grad():
            for p in head.parameters():
                p.add_(0.2 * torch.randn_like(p))
    return PerturbTask(network, head).eval()


def cells_of(lengths: list[int] = [40, 3, 120, 1]) -> CellBatch:  # noqa: B006
    batch = batch_of(lengths)
    batch.hidden[:] = False
    batch.values = torch.nan_to_num(batch.target_values).float()  # type: ignore[arg-type]
    return batch


def change(task: PerturbTask, conditions: list[list[int]], cells: CellBatch | None = None, **options: Any) -> Tensor:
    """Return the change of cells (B, M, R)."""
    genes = list(dict.fromkeys(gene for condition in conditions for gene in condition))
    members = torch.tensor([[gene in condition for gene in genes] for condition in conditions]).bool()
    with torch.no_grad():
        return task.change(cells or cells_of(), torch.tensor(genes, dtype=torch.int64), members, **options)


def test_no_gene_perturbed_changes_nothing() -> None:
    task = task_of(trained=True)
    found = change(task, [[], [3], [3, UNKNOWN]])
    assert (found[:, 0] == 0).all() and (found[:, 1:] != 0).any(2).all()
    assert (change(task, [[], []]) == 0).all() and change(task, [[], []]).shape == (4, 2, R)


def test_before_training_the_common_effect_and_what_was_measured() -> None:
    task = task_of(trained=False)
    tables = tables_of()
    found = change(task, [[3], [UNKNOWN], [60, UNKNOWN], [3, 8]])
    known = tables.common + tables.trust * (tables.measured - tables.common)
    expected = torch.stack([known[0], tables.common, known[2] + tables.common, known[0] + known[1]])
    # Rounding of float32; nothing depends on the cell yet.
    torch.testing.assert_close(found, expected.expand(4, 4, R), atol=1e-6, rtol=0)


def test_measured_effects_stand_where_they_are_trusted() -> None:
    task = task_of(trained=True)
    tables = tables_of()
    task.head.trust.fill_(1)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(change(task, [[8]]), tables.measured[1].expand(4, 1, R), atol=1e-5, rtol=0)
    task.head.trust.zero_()  # type: ignore[union-attr, operator]
    assert (change(task, [[8]]) - tables.measured[1]).abs().mean() > 0.05


def test_forget_withholds_what_was_measured() -> None:
    """Per condition and gene: nothing of the measured effect is left, whatever it says."""
    task = task_of(trained=True)
    asked = [[3], [3, 8], [3, 8]]
    forget = torch.tensor([[True, False], [True, False], [True, True]])
    before = change(task, asked, forget=forget)
    known = change(task, asked)
    task.head.measured[0] += 7  # type: ignore[index, operator]
    after = change(task, asked, forget=forget)
    torch.testing.assert_close(after, before, atol=1e-6, rtol=0)
    assert not torch.allclose(change(task, asked)[:, 0], known[:, 0], atol=1e-2)
    task.head.measured[1] += 7  # type: ignore[index, operator]
    moved = change(task, asked, forget=forget) - before
    assert (moved[:, [0, 2]].abs() < 1e-6).all() and moved[:, 1].abs().max() > 1


def test_singles_add_up_without_the_interaction(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(trained=True)
    conditions = [[3], [8], [UNKNOWN], [3, 8], [3, 8, UNKNOWN]]
    found = change(task, conditions)
    assert (found[:, 3] - found[:, 0] - found[:, 1]).abs().mean() > 0.01  # with it, they do not
    with torch.no_grad():
        for p in task.head.pair[2].parameters():  # type: ignore[union-attr, index]
            p.zero_()
    found = change(task, conditions)
    # Sums of a few numbers below ten in float32.
    torch.testing.assert_close(found[:, 3], found[:, 0] + found[:, 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, 4], found[:, :3].sum(1), atol=1e-5, rtol=0)


def test_the_order_of_genes_and_of_conditions_does_not_matter() -> None:
    task = task_of(trained=True)
    one = change(task, [[3, 8], [8], [UNKNOWN, 3, 60]])
    other = change(task, [[60, 3, UNKNOWN], [8, 3], [8]])
    torch.testing.assert_close(other, one[:, [2, 0, 1]], atol=1e-5, rtol=0)
    # Nor what else is asked in the same call.
    torch.testing.assert_close(change(task, [[8]])[:, 0], one[:, 1], atol=1e-5, rtol=0)


def test_a_cell_does_not_depend_on_the_others() -> None:
    task = task_of(trained=True)
    cells = cells_of()
    whole = change(task, [[3, UNKNOWN], [60]], cells)
    assert (whole[0] - whole[2]).abs().max() > 1e-3  # cells differ
    for order in ([2], [3, 0], [1, 2, 3]):
        part = change(task, [[3, UNKNOWN], [60]], cells.take(torch.tensor(order)))
        torch.testing.assert_close(part, whole[order], atol=1e-5, rtol=0)  # the bar of the project in float32


def test_the_order_of_tokens_does_not_matter() -> None:
    task, cells = task_of(trained=True), cells_of([40])
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    other = CellBatch(cells.gene_ids[order], cells.values[order], cells.hidden, cells.offsets, cells.cell_index)
    torch.testing.assert_close(change(task, [[3]], other), change(task, [[3]], cells), atol=1e-5, rtol=0)


def test_own_expression_falls_along_a_line() -> None:
    """A perturbed gene that is read out moves by a line in its value; its neighbours do not."""
    task, cells = task_of(trained=False, trust=False), cells_of([200])
    with torch.no_grad():
        task.head.own.copy_(torch.tensor([0.3, -0.5]))
    found = change(task, [[8], [UNKNOWN]], cells)[0] - tables_of().common
    value = cells.values[cells.gene_ids == 8 + 1][0]
    at = READOUT.tolist().index(8)
    torch.testing.assert_close(found[0, at], 0.3 - 0.5 * value, atol=1e-5, rtol=0)
    found[0, at] = 0
    assert found.abs().max() < 1e-6  # a gene that is not read out has no place for it
    few = cells_of([1])
    few.gene_ids[:] = 1
    found = change(task, [[8]], few)[0, 0] - tables_of().common
    torch.testing.assert_close(found[at], torch.tensor(0.3), atol=1e-6, rtol=0)  # not expressed: the line at zero


def test_without_genes_that_were_learned() -> None:
    """Trained where no gene is known apart, or of a graph without edges: it still answers."""
    task = task_of(trained=True, graphs=0)
    assert torch.isfinite(change(task, [[3], [UNKNOWN, 5]])).all()
    task = task_of(trained=True)
    task.head.perturbed_neighbours.fill_(-1)  # type: ignore[union-attr, operator]
    task.head.readout_neighbours.fill_(-1)  # type: ignore[union-attr, operator]
    assert torch.isfinite(change(task, [[3], [UNKNOWN, 5]])).all()


def test_graphs_carry_messages() -> None:
    """An unknown gene hears from the learned ones."""
    task = task_of(trained=True)
    before = change(task, [[UNKNOWN]])
    with torch.no_grad():
        task.head.perturbed_emb.add_(1)
    assert (change(task, [[UNKNOWN]]) - before).abs().max() > 1e-3
    task.head.perturbed_neighbours[:, UNKNOWN] = -1  # type: ignore[index, operator]
    before = change(task, [[UNKNOWN]])
    with torch.no_grad():
        task.head.perturbed_emb.add_(1)
    torch.testing.assert_close(change(task, [[UNKNOWN]]), before, atol=1e-6, rtol=0)


def test_a_gene_is_unknown_in_a_share_of_the_steps() -> None:
    """In training the token of a learned gene is left out at times, so that the head learns to do without."""
    task = task_of(trained=True, trust=False, graphs=0, id_dropout=1.0)
    unlearned = task_of(trained=True, trust=False, graphs=0, id_dropout=1.0)
    unlearned.head.row_of.fill_(-1)  # type: ignore[union-attr, operator]
    task.head.train()
    torch.testing.assert_close(change(task, [[3]]), change(unlearned, [[3]]), atol=1e-6, rtol=0)
    task.head.eval()
    assert not torch.allclose(change(task, [[3]]), change(unlearned, [[3]]), atol=1e-3)


def step_of(task: PerturbTask) -> PerturbStep:
    members = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1]]).bool()
    target = torch.randn(3, R, generator=torch.Generator().manual_seed(0))
    return PerturbStep(cells_of(), None, torch.tensor([3, 8, UNKNOWN]), members, target, torch.tensor([0.5, 1, 0.2]))


def test_gradients_reach_every_parameter_and_no_frozen_one(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(trained=True)
    assert task.frozen
    task.train()
    assert task.head.training and not task.network.training
    monkeypatch.setattr(task, "log", lambda *_, **__: None)
    task.training_step(step_of(task), 0).backward()
    missing = [name for name, p in task.head.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing, missing
    assert all(p.grad is None for p in task.network.parameters())


def test_the_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean over cells first, squares over genes, conditions by their weights; singles are always withheld."""
    task = task_of(trained=True)
    step, logged = step_of(task), {}
    monkeypatch.setattr(task, "log", lambda name, value, **_: logged.update({name: float(value.detach())}))
    task.validation_step(step, 0)
    with torch.no_grad():
        mean = task.change(step.cells, step.genes, step.members).mean(0)
    expected = (((mean - step.target) ** 2).mean(1) * step.weight).sum() / step.weight.sum()
    assert logged["val_loss"] == pytest.approx(float(expected), rel=1e-5)
    task.forget = 0.0
    task.training_step(step, 0)
    forget = torch.zeros(3, 3, dtype=torch.bool)
    forget[0] = True
    with torch.no_grad():
        mean = task.change(step.cells, step.genes, step.members, forget=forget).mean(0)
    expected = (((mean - step.target) ** 2).mean(1) * step.weight).sum() / step.weight.sum()
    assert logged["train_loss"] == pytest.approx(float(expected), rel=1e-5)
