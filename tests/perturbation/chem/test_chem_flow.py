"""The parts that learn: space, mean steps, flow, read-out; each against what it must find."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from treated_cells import QUIET

from cellfm_torch.callbacks.fitting import fit_in_memory
from cellfm_torch.perturbation.chem.flow import FlowBatches, Pairs, Velocity, coupled, displacements
from cellfm_torch.perturbation.chem.readout import Readout
from cellfm_torch.perturbation.chem.scores import mmd, wasserstein
from cellfm_torch.perturbation.chem.shift import Conditions, Shift, _left_out_error, left_out, some_compounds
from cellfm_torch.perturbation.chem.space import Space
from cellfm_torch.tasks.chem import ChemTask, flow_matching_loss


def test_space_goes_there_and_back() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(50, 6)) @ rng.normal(size=(6, 12)) * 5 + 3).astype(np.float32)
    x[:, 4] = 7.0  # a constant
    space = Space.fit(x)
    assert space.width == 6  # as many as the cells span
    z = space.coordinates(x)
    assert z.std(0).mean() == pytest.approx(1, rel=0.2)  # the unit is a root mean square over axes
    steps = rng.normal(size=z.shape)
    moved = space.moved(x, steps)
    # float64 sums of products of size one
    np.testing.assert_allclose(space.coordinates(moved) - z, steps, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(moved[:, 4], 7.0)
    np.testing.assert_array_equal(space.moved(x, 0 * steps), x)


def test_couplings_are_the_cheapest() -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=(40, 3))
    order = rng.permutation(40)
    end = start[order] + 5 + 1e-3 * rng.normal(size=start.shape)
    np.testing.assert_array_equal(order[coupled(start, end)], np.arange(40))


def test_an_untrained_flow_and_no_dose_change_nothing() -> None:
    network = Velocity(5, 8).eval()
    start, compound = np.random.default_rng(0).normal(size=(7, 5)), np.ones(8, np.float32)
    assert not displacements(network, start, compound, 3.0).any()
    torch.nn.init.normal_(network.last.weight)
    assert np.abs(displacements(network, start, compound, 3.0)).min() > 1e-3
    assert not displacements(network, start, compound, 0.0).any()


def test_integration_is_accurate() -> None:
    class Growing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor, time: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            return x * time

    found = 1 + displacements(Growing(), np.ones((1, 1)), np.zeros(1, np.float32), 1.0)
    # Exactly exp(1/2); Heun's rule in 20 steps errs by about step^2 / 10.
    assert found[0, 0] == pytest.approx(np.exp(0.5), abs=3e-4)


def test_loss_is_that_of_the_straight_way() -> None:
    rng = np.random.default_rng(0)
    batch = {name: torch.as_tensor(rng.normal(size=(6, 2))) for name in ("start", "end")}
    batch |= {"time": torch.rand(6, 1), "compound": torch.zeros(6, 1), "dose": torch.ones(6, 1)}
    seen = []

    class Still(torch.nn.Module):
        def forward(self, x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return torch.zeros_like(x)

    loss = flow_matching_loss(Still(), batch)
    a, b, t = (batch[name].numpy() for name in ("start", "end", "time"))
    assert float(loss) == pytest.approx(((b - a) ** 2).mean(), rel=1e-12)
    np.testing.assert_allclose(seen[0].numpy(), (1 - t) * a + t * b, rtol=0, atol=1e-6)  # times are float32


def test_flow_learns_what_each_kind_of_cell_does() -> None:
    """Two kinds of cells go opposite ways, which no mean step can say."""
    rng = np.random.default_rng(0)

    def cells(number: int) -> tuple[np.ndarray, np.ndarray]:
        kind = np.sign(rng.normal(size=number))
        start = np.stack([3 * kind, np.zeros(number)], 1) + 0.3 * rng.normal(size=(number, 2))
        return start, start + np.stack([np.zeros(number), 2 * kind], 1)

    control, (_, treated) = cells(300)[0], cells(300)
    compound = np.ones(4, np.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        task = ChemTask(Velocity(2, 4), lr=2e-3)
        batches = FlowBatches([Pairs(control, np.zeros(2), treated, compound, 1.0)], seed=0)
        task, history = fit_in_memory(task, batches, max_epochs=4, **QUIET)
    assert len(history) == 4 and history["train_loss"].is_monotonic_decreasing
    start, end = cells(200)
    moved = start + displacements(task.network, start, compound, 1.0)
    # Measured: 0.41 and 0.05, as new cells are not those that were paired.
    assert wasserstein(moved, end) < 0.5 * wasserstein(start, end)
    assert mmd(moved, end, median=3.0) < 0.1 * mmd(start, end, median=3.0)
    assert (np.sign(moved - start)[:, 1] == np.sign(start[:, 0])).mean() > 0.95


def test_the_same_seed_draws_the_same_batches() -> None:
    x = np.random.default_rng(0).normal(size=(9, 2))
    one_cell = Pairs(x[:1], np.ones(2), x[:1], np.zeros(3, np.float32), 2.0)
    pairs = [Pairs(x, np.zeros(2), x + 1, np.ones(3, np.float32), 1.0), one_cell]
    one, two, other = (next(iter(FlowBatches(pairs, seed=seed))) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["time"], other["time"])


def conditions(compounds: np.ndarray, doses: list[float], contexts: np.ndarray | None = None) -> Conditions:
    contexts = np.zeros((len(doses), 2)) if contexts is None else contexts
    return Conditions(compounds.astype(np.float32), np.array(doses), contexts)


def test_mean_steps_follow_similar_compounds() -> None:
    """Two families go opposite ways: a new member goes with its own, a stranger with neither, no dose nowhere."""
    families = np.repeat([[1, 1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1, 0]], 3, axis=0)
    own = np.tile(np.eye(3), (2, 1))
    bits = np.hstack([families, own])
    steps = np.repeat([[2.0, 0.0], [-2.0, 0.0]], 3, axis=0)
    shift = Shift.fit(conditions(bits, [1.0] * 6), steps, np.full(6, 0.01))
    new = np.hstack([families[[0, 3]], np.zeros((2, 3))])
    found = shift.steps(conditions(new, [1.0, 1.0]))
    np.testing.assert_allclose(found, [[2, 0], [-2, 0]], rtol=0, atol=0.2)  # a tenth of the effect
    stranger = np.zeros((1, 12))
    stranger[0, 8] = 1
    assert np.abs(shift.steps(conditions(stranger, [1.0]))).max() < 0.1
    np.testing.assert_array_equal(shift.steps(conditions(new, [0.0, 0.0])), np.zeros((2, 2)))
    small, middle = (np.abs(shift.steps(conditions(new[:1], [dose]))).max() for dose in (0.1, 1.0))
    assert 0 < small < middle


def test_uncertain_means_are_trusted_less() -> None:
    bits, steps = np.eye(4), np.array([[1.0], [-1.0], [1.0], [-1.0]])
    sure, unsure = (Shift.fit(conditions(bits, [1.0] * 4), steps, np.full(4, noise)) for noise in (1e-4, 4.0))
    asked = conditions(bits[:1], [1.0])
    assert abs(unsure.steps(asked)[0, 0]) < 0.5 * abs(sure.steps(asked)[0, 0])


def test_what_is_left_out_to_choose_the_kernel() -> None:
    bits, contexts = np.eye(2)[[0, 0, 1, 1]], np.array([[0, 0], [1, 1], [0, 0], [1, 1]], float)
    groupings = left_out(conditions(bits, [1.0] * 4, contexts))
    assert [[g.tolist() for g in groups] for groups in groupings] == [
        [[0], [1], [2], [3]],
        [[2, 3], [0, 1]],
        [[0, 2], [1, 3]],
    ]


def test_a_kernel_is_chosen_by_whole_compounds() -> None:
    seen = conditions(np.repeat(np.eye(10), 5, axis=0), [1.0] * 50)
    assert some_compounds(seen).tolist() == list(range(50))
    few = some_compounds(seen, most=20)
    assert len(few) == 20 and all(len({*range(5 * (i // 5), 5 * (i // 5) + 5)} & set(few.tolist())) == 5 for i in few)
    rng = np.random.default_rng(0)
    steps = np.repeat(rng.normal(size=(10, 3)), 5, axis=0)
    exact = np.linalg.inv(np.eye(50) + 0.1)
    singles = [np.array([i]) for i in range(50)]
    slow = np.mean([np.linalg.solve(exact[[i]][:, [i]], (exact @ steps)[[i]]) ** 2 for i in range(50)])
    assert _left_out_error(exact, exact @ steps, singles) == pytest.approx(slow, rel=1e-12)


def test_left_out_errors_are_those_of_leaving_out() -> None:
    """The closed form against learning anew without a group."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(9, 9))
    covariance, steps = root @ root.T + np.eye(9), rng.normal(size=(9, 2))
    groups = [np.array([0, 4]), np.array([1, 2, 3]), np.array([5, 6, 7, 8])]
    errors = []
    for group in groups:
        rest = np.setdiff1d(np.arange(9), group)
        found = covariance[np.ix_(group, rest)] @ np.linalg.solve(covariance[np.ix_(rest, rest)], steps[rest])
        errors.append((steps[group] - found) ** 2)
    inverse = np.linalg.inv(covariance)
    # float64 of a well-conditioned matrix
    assert _left_out_error(inverse, inverse @ steps, groups) == pytest.approx(np.concatenate(errors).mean(), rel=1e-9)


def test_readout_is_linear_and_finds_the_slope() -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(400, 5)), rng.normal(size=(5, 3))
    readout = Readout.fit(x, x @ weights + 2 + 0.1 * rng.normal(size=(400, 3)))
    # The standard error of a slope is 0.1 / sqrt(400).
    np.testing.assert_allclose(readout.weights, weights, rtol=0, atol=0.03)
    np.testing.assert_allclose(readout.change(np.eye(5)), readout.weights, rtol=0, atol=1e-12)
    noise = Readout.fit(rng.normal(size=(60, 30)), rng.normal(size=(60, 3)))
    assert np.abs(noise.weights).mean() < 0.1  # a penalty is chosen where there is nothing to find
