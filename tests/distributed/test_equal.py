"""One, two and four processes train the same network on the same cells to the same weights.

Shapes: 20 optimiser steps of four batches each, dealt to the processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launch import launch
from ranks import LANES, trainings

STEPS = 20
ADAMS = ("adamw", "mindspore")
Results = dict[tuple[int, str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def trained(ragged: tuple[Path, list[str]]) -> Results:
    """Results of each rank by number of processes and strategy."""
    found: Results = {}
    jobs = {
        1: {f"single-{adam}": {"strategy": "auto", "adam": adam} for adam in ADAMS},
        2: {
            "ddp-adamw": {"strategy": "ddp"},
            "fsdp-adamw": {"strategy": "fsdp"},
            "fsdp-mindspore": {"strategy": "fsdp", "adam": "mindspore"},
        },
        4: {name: {"strategy": name.split("-")[0]} for name in ("ddp-adamw", "fsdp-adamw", "hybrid-adamw")},
    }
    for processes, some in jobs.items():
        ranks = launch(trainings, processes, *ragged, some)
        for name in some:
            found[processes, name] = [rank[name] for rank in ranks]
    return found


def one_process(trained: Results, name: str) -> dict[str, Any]:
    return trained[1, f"single-{name.split('-')[1]}"][0]


CASES = [
    (2, "ddp-adamw"),
    (2, "fsdp-adamw"),
    (2, "fsdp-mindspore"),
    (4, "ddp-adamw"),
    (4, "fsdp-adamw"),
    (4, "hybrid-adamw"),
]


@pytest.mark.parametrize(("processes", "name"), CASES)
def test_same_losses_and_weights(trained: Results, processes: int, name: str) -> None:
    """Sums in another order: 1e-5 for a loss, 1e-4 for weights that twenty steps of Adam have moved by 0.05."""
    expected, ranks = one_process(trained, name), trained[processes, name]
    assert len(expected["losses"]) == STEPS
    for rank in ranks:
        assert rank["losses"] == ranks[0]["losses"], "every process logs the loss of the whole step"
    assert abs(expected["losses"][0] - expected["losses"][-1]) > 1, "nothing was learned"
    losses = np.abs(np.subtract(ranks[0]["losses"], expected["losses"])).max()
    weights = {key: np.abs(ranks[0]["weights"][key] - x).max() for key, x in expected["weights"].items()}
    print(f"\n{processes} {name}: losses {losses:.1e}, weights {max(weights.values()):.1e}")
    assert losses < 1e-5
    assert max(weights.values()) < 1e-4, max(weights, key=lambda key: weights[key])


@pytest.mark.parametrize(("processes", "name"), CASES)
def test_metrics_are_of_all_cells(trained: Results, processes: int, name: str) -> None:
    """Validation adds up over processes; Pearson's r is merged from means and variances, in float32."""
    expected, ranks = one_process(trained, name)["metrics"], trained[processes, name]
    assert expected.keys() >= {"test_loss", "test_mse_by_gene", "test_r_by_cell", "test_mse_baseline"}
    for rank in ranks:
        assert rank["metrics"].keys() == expected.keys()
        for key, value in expected.items():
            assert abs(rank["metrics"][key] - value) < 1e-5 * max(1, abs(value)), key


def test_batches_are_ragged(trained: Results) -> None:
    """Weighting by rank would be another training."""
    targets = np.array(trained[1, "single-adamw"][0]["targets"]).reshape(STEPS, LANES)
    assert (targets.max(1) > 4 * targets.min(1)).sum() >= STEPS // 4


@pytest.mark.parametrize(("processes", "name"), [(2, "ddp-adamw"), (4, "fsdp-adamw")])
def test_cells_partition(trained: Results, processes: int, name: str) -> None:
    """In an epoch every training cell is used once, by one process; a step has the cells of one process's step."""
    alone = one_process(trained, name)
    together: list[list[int]] = []
    for step in range(STEPS):
        for rank in trained[processes, name]:
            own = LANES // processes
            together += rank["cells"][step * own : (step + 1) * own]
    assert together == alone["cells"]
    seen: list[int] = []
    for cells in together:
        seen += cells
        if len(seen) == len(alone["rows"]):
            assert sorted(seen) == alone["rows"]
            return
    raise AssertionError("no epoch ended within the test")


@pytest.mark.parametrize("processes", [2, 4])
def test_weights_are_sharded(trained: Results, processes: int) -> None:
    rows = [rank["sharded"] for rank in trained[processes, "fsdp-adamw"]]
    whole = {name: x.size for name, x in trained[processes, "fsdp-adamw"][0]["weights"].items() if name != "zero_emb"}
    assert all(len(rank) == len(whole) for rank in rows)
    held = [sum(int(np.prod(shape)) for shape in rank) for rank in rows]
    assert sum(held) == sum(whole.values())
    assert max(held) < 1.3 * sum(held) / processes


def test_bfloat16_offload_and_checkpointing(ragged: tuple[Path, list[str]], trained: Results) -> None:
    """In bfloat16 a loss has three digits, and weights stay in float32; the others save memory, no more."""
    jobs = {
        "half": {"strategy": "fsdp", "precision": "bf16-mixed", "steps": 6},
        "offload": {"strategy": "offload", "steps": 6},
        "recompute": {"strategy": "fsdp", "recompute": True, "steps": 6},
    }
    found = launch(trainings, 2, *ragged, jobs)[0]
    expected = trained[1, "single-adamw"][0]["losses"][:6]
    assert np.abs(np.subtract(found["half"]["losses"], expected)).max() < 0.03 * max(expected)
    assert found["half"]["losses"] != expected
    for name in ("offload", "recompute"):
        assert np.abs(np.subtract(found[name]["losses"], expected)).max() < 1e-5, name
    assert found["half"]["weights"]["encoder.0.glu.u_proj.weight"].dtype == np.float32


def test_dropout_masks_are_those_of_one_process(ragged: tuple[Path, list[str]]) -> None:
    """Each process draws others, for its batches: losses are equal within 1e-5, as without dropout."""
    jobs = {name: {"strategy": "ddp", "steps": 5, "dropout": rate} for name, rate in (("some", 0.5), ("none", 0.0))}
    one, two = (launch(trainings, processes, *ragged, jobs)[0] for processes in (1, 2))
    assert np.abs(np.subtract(one["some"]["losses"], two["some"]["losses"])).max() < 1e-5
    assert np.abs(np.subtract(one["some"]["losses"], one["none"]["losses"])).max() > 1e-3
