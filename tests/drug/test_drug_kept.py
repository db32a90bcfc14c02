"""An interrupted job goes on where it was, to the same numbers; what another job kept is not taken for its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from line_tables import network, simulated, write

from cellfm_torch import UserError, drug_response, single_cell_response
from cellfm_torch.drug import bulk
from cellfm_torch.drug.cells import PROBABILITY
from cellfm_torch.drug.simulation import simulated_cells
from cellfm_torch.embedding import cell_sets

QUICK: dict[str, Any] = {
    "split": "line",
    "seeds": (0, 1),
    "trainer": {"max_epochs": 2},
    "fit_options": {"hidden": 8},
    "token_budget": 4096,  # several batches
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write(tmp_path_factory.mktemp("tables"), simulated(40, 300))


class Interrupted:
    """Calls a function until it has been called so often, then is interrupted once; counts the calls that end well."""

    def __init__(self, function: Any, after: int) -> None:
        self.function, self.after, self.done = function, after, 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self.done == self.after:
            self.after = -1
            raise KeyboardInterrupt
        found = self.function(*args, **options)
        self.done += 1
        return found


def same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    # Batches of what is left are others than those of all: embeddings differ in the last digits of float32.
    pd.testing.assert_frame_equal(a, b, rtol=1e-3, atol=1e-4)


def test_bulk_goes_on_with_splits(tables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = drug_response(model=network(), **tables, **QUICK)
    fit = Interrupted(bulk.fit, after=3)
    monkeypatch.setattr(bulk, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        drug_response(model=network(), keep=tmp_path / "keep", **tables, **QUICK)
    (tmp_path / "keep" / "0_model.npz").write_bytes(b"damaged")
    found = drug_response(model=network(), keep=tmp_path / "keep", **tables, **QUICK)
    # Two seeds of two networks; three were done, of which one is damaged.
    assert fit.done == 3 + 2
    same(found.scores, whole.scores)
    same(found.predictions, whole.predictions)
    assert found.epochs == whole.epochs
    again = drug_response(model=network(), keep=tmp_path / "keep", **tables, **QUICK)
    assert fit.done == 5
    pd.testing.assert_frame_equal(again.predictions, found.predictions)


class Counted:
    """An embedder that counts cells, and may be interrupted."""

    def __init__(self, network: Any, cells_before: int | None) -> None:
        self.embed, self.left, self.seen = type(network).embedder(network), cells_before, 0

    def __call__(self, batch: Any) -> Any:
        if self.left is not None and self.seen + batch.num_cells > self.left:
            raise KeyboardInterrupt
        self.seen += batch.num_cells
        return self.embed(batch)


def counted(monkeypatch: pytest.MonkeyPatch, cells_before: int | None = None) -> tuple[Any, Counted]:
    model = network()
    embedder = Counted(model, cells_before)
    monkeypatch.setattr(model, "embedder", lambda: embedder)
    return model, embedder


def test_bulk_goes_on_with_embeddings(tables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**QUICK, "random_weights": False}
    whole = drug_response(model=network(), **tables, **options)
    model, first = counted(monkeypatch, cells_before=30)
    with pytest.raises(KeyboardInterrupt):
        drug_response(model=model, keep=tmp_path / "keep", **tables, **options)
    assert 0 < first.seen < 40
    model, second = counted(monkeypatch)
    found = drug_response(model=model, keep=tmp_path / "keep", **tables, **options)
    assert first.seen + second.seen == 40
    same(found.predictions, whole.predictions)


def test_another_job_is_not_gone_on_with(tables: dict[str, Any], tmp_path: Path) -> None:
    options = {**QUICK, "random_weights": False, "keep": tmp_path / "keep"}
    before = drug_response(model=network(), **tables, **options)
    other = copy.deepcopy(network())
    with torch.no_grad():
        other.cls_token.add_(1.0)
    for changed, what in (
        ({"model": other}, "model"),
        ({"seeds": (0, 2)}, "parts, seeds"),
        ({"share": 0.3}, "parts"),
        ({"fit_options": {"hidden": 9}}, "fit"),
        ({"split": "pair"}, "parts, split"),
    ):
        with pytest.raises(UserError, match=f"an interrupted job has done that had another {what}: give the same"):
            drug_response(**{"model": network(), **tables, **options, **changed})
    found = drug_response(model=other, overwrite=True, **tables, **options)
    assert not np.allclose(found.predictions["predicted"], before.predictions["predicted"])


def test_cells_go_on_with_embeddings(tables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = simulated_cells(simulated(40, 300), 30)
    given = {name: value for name, value in tables.items() if name != "smiles"} | {"drug": "1", "token_budget": 4096}
    whole = single_cell_response(cells, model=network(), **given)
    model, first = counted(monkeypatch, cells_before=62)  # 40 lines, then some cells
    with pytest.raises(KeyboardInterrupt):
        single_cell_response(cells, model=model, keep=tmp_path / "keep", **given)
    assert 40 < first.seen < 70
    model, second = counted(monkeypatch)
    found = single_cell_response(cells, model=model, keep=tmp_path / "keep", **given)
    assert first.seen + second.seen == 70
    np.testing.assert_allclose(found.adata.obs[PROBABILITY], whole.adata.obs[PROBABILITY], atol=1e-4)
    model, third = counted(monkeypatch)
    single_cell_response(cells, model=model, keep=tmp_path / "keep", method="scale", **given)
    assert third.seen == 0
    fewer = cells[:20].copy()  # other cells, the same lines
    single_cell_response(fewer, model=model, keep=tmp_path / "keep", **given)
    assert third.seen == 20


def test_digests_tell_weights_and_counts_apart() -> None:
    model = network()
    before = cell_sets.weights_digest(model)
    assert before == cell_sets.weights_digest(network())
    with torch.no_grad():
        model.cls_token[..., 0] += 1e-3
    assert cell_sets.weights_digest(model) != before
