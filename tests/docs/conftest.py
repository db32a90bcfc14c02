"""What the pages of the documentation take for granted: a small model, few bundled cells."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
from made_up import make_model

from cellfm_torch import paths

NUM_CELLS, NUM_GENES = 160, 1200


@pytest.fixture(scope="session")
def few_cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the bundled cells and of their genes, those with most counts."""
    adata = anndata.read_h5ad(paths.PBMC3K)
    order = np.argsort(-np.asarray(adata.X.sum(0)).ravel(), kind="stable")[:NUM_GENES]
    path = tmp_path_factory.mktemp("docs") / "pbmc3k.h5ad"
    adata[:NUM_CELLS, np.sort(order)].copy().write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def small_model(few_cells: Path) -> Path:
    """A model of the bundled vocabulary, with random weights."""
    from cellfm_torch.data.genes import GeneVocab

    return make_model(few_cells.parent / "model", list(GeneVocab.bundled(24078).symbols))


@pytest.fixture
def reader(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    few_cells: Path,
    small_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The folder that a page starts in."""
    if not request.node.name.endswith("[tutorials/pretrain]"):  # which trains it
        (tmp_path / "runs" / "pretrain").mkdir(parents=True)
        (tmp_path / "runs" / "pretrain" / "model").symlink_to(small_model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "PBMC3K", few_cells)
    return tmp_path
