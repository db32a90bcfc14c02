"""What the benchmarks compute from times, how they count, and how they keep results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import timing
from benchmarks.cells import join, operations_per_token, padded_cells, pick, synthetic
from benchmarks.embed import overlap, relative_error
from benchmarks.fresh import run_fresh
from benchmarks.report import free_stem, markdown, write
from benchmarks.settings import Settings
from benchmarks.timing import Side, take_turns, utilisation
from cellfm_torch import CellFMConfig


def side(name: str, seconds: list[float], work: list[tuple[int, int]]) -> Side:
    return Side(name, lambda turn: (0, 0), seconds, work)


def test_ratios_are_within_turns() -> None:
    # The machine halves its speed in the second turn: totals would give 2.2, every turn alone says 2.
    ours = side("ours", [1.0, 2.0, 1.0], [(2, 20), (2, 20), (2, 20)])
    peer = side("peer", [1.0, 2.0, 3.0], [(1, 10), (1, 10), (3, 10)])
    assert ours.ratio_to(peer) == 2
    assert ours.spread_to(peer) == (2, 2)
    assert peer.steady() == pytest.approx(5 / 6)


def test_utilisation_is_arithmetic_over_time_and_rate() -> None:
    matmul = side("matmul", [1.0, 2.0], [(0, 1000), (0, 1000)])  # 1000, then 500 operations a second
    ours = side("ours", [1.0, 2.0], [(1, 10), (1, 10)])  # 10, then 5 tokens a second
    assert utilisation(ours, matmul, 80.0) == pytest.approx(0.8)


def test_sides_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def make(name: str) -> Side:
        return Side(name, lambda turn: (called.append(f"{name}{turn}"), (1, 2))[1])  # type: ignore[func-returns-value]

    sides = [make("a"), make("b")]
    take_turns(sides, range(3), device="cpu")
    assert called == ["a0", "b0", "b1", "a1", "a2", "b2"]
    assert [len(s.seconds) for s in sides] == [3, 3] and sides[0].work == [(1, 2)] * 3


def test_matmul_counts_its_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MATMUL", (3, 4, 5))
    assert timing.matmul_side("cpu", torch.float32).call(0) == (0, 2 * 3 * 4 * 5)
    assert timing.matmul_side("cpu", torch.float32, onednn=True).call(0) == (0, 120)


def test_arithmetic_of_a_token() -> None:
    # The figures PERFORMANCE states: 75.5 MFLOP a token for 80M, of which 0.5 % is retention.
    config = CellFMConfig.preset("80m")
    assert operations_per_token(config) == 2 * (16 * 1536**2 + 4 * 1536 * 32)


def test_cells_are_picked_and_joined() -> None:
    batch = synthetic([3, 0, 5], num_genes=50)
    again = join([pick(batch, i, i + 1) for i in range(3)])
    for name in ("gene_ids", "values", "hidden", "offsets", "cell_index", "target", "target_values", "read_depth"):
        assert torch.equal(getattr(again, name), getattr(batch, name)), name


def test_padding_adds_tokens_that_no_loss_asks_for() -> None:
    batch = synthetic([3, 5], num_genes=50)
    longer = padded_cells(batch, 7)
    assert longer.lengths.tolist() == [7, 7]
    real = longer.gene_ids > 0
    assert torch.equal(longer.gene_ids[real], batch.gene_ids) and torch.equal(longer.values[real], batch.values)
    assert bool(longer.hidden[~real].all()) and longer.target is not None and not bool(longer.target[~real].any())


def test_overlap_of_neighbours() -> None:
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    assert overlap(x, 2 * x + 1) == 1
    far = x + 100 * torch.arange(40)[torch.randperm(40, generator=torch.Generator().manual_seed(1)), None]
    assert overlap(x, far) < 0.9


def test_error_is_in_units_of_the_mean_magnitude() -> None:
    assert relative_error(torch.tensor([2.0, -2.5]), torch.tensor([2.0, -2.0])) == pytest.approx(0.25)


def test_results_are_never_overwritten(tmp_path: Path) -> None:
    found = {"title": "t", "rows": [{"name": "a", "cells_per_second": None}, {"name": "b", "cells_per_second": 2.0}]}
    found |= {"notes": ["n"], "machine": {"processor": "p", "cores": 2, "threads": 1}, "versions": {"torch": "1"}}

    def names() -> Iterator[str]:
        for _ in range(3):
            stem = free_stem(tmp_path, "embed_cpu_20260101")
            write(found, stem)
            yield stem.name

    assert list(names()) == ["embed_cpu_20260101", "embed_cpu_20260101_2", "embed_cpu_20260101_3"]
    (tmp_path / "memory_cpu_20260101_tokens.png").touch()  # a picture belongs to a result too
    assert free_stem(tmp_path, "memory_cpu_20260101").name == "memory_cpu_20260101_2"
    assert json.loads((tmp_path / "embed_cpu_20260101_3.json").read_text()) == found
    text = markdown(found)
    assert "| a | not measured |" in text and "| b | 2.00 |" in text


def test_peak_of_a_fresh_process() -> None:
    settings = Settings(theme="memory", model="tiny", threads=1)
    found = run_fresh("retention", [64], settings, mode="chunked")
    assert found is not None and found["peak"] >= found["start"] > 0 and found["seconds"] > 0
