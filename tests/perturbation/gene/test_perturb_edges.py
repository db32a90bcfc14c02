"""Screens at the edge of what there is: few conditions, many genes at once, other backbones, genes that do not show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from small_screens import FEW, screen_of

from cellfm_torch import CellFM, CellFMConfig, GenePerturbation, ScFoundation, ScFoundationConfig, UserError
from cellfm_torch.perturbation.gene.control import ControlCells
from cellfm_torch.perturbation.gene.splits import make_split


def asked(adata: anndata.AnnData) -> list[str]:
    genes = list(adata.var_names)
    return [genes[0], f"{genes[0]}+{genes[15]}", f"{genes[1]}+{genes[15]}+{genes[2]}"]


def backbone(kind: str, genes: list[str]) -> Any:
    torch.manual_seed(0)
    if kind == "scfoundation":
        config = ScFoundationConfig.preset("scfoundation-tiny", num_genes=len(genes))
        return ScFoundation(config, genes=genes).eval()
    config = CellFMConfig.preset("tiny", num_layers=1, dim=32, num_heads=1, num_genes=len(genes), read_depth=True)
    return CellFM(config, genes=genes).eval()


@pytest.mark.parametrize(
    ("kind", "method"),
    [("scfoundation", "frozen"), ("scfoundation", "full"), *(("read depth", m) for m in ("frozen", "lora", "full"))],
)
def test_other_backbones(kind: str, method: str, screen_cells: anndata.AnnData, tmp_path: Path) -> None:
    network = backbone(kind, list(screen_cells.var_names))
    before = {name: x.clone() for name, x in network.state_dict().items()}
    screen = GenePerturbation(screen_cells, network, top_genes=30, control_cells=10)
    screen.train(method=method, lora_rank=2, lr=1e-2, **FEW)
    found = screen.predict(asked(screen_cells))
    assert found.shape == (3, len(screen.readout)) and np.isfinite(found.X).all()
    assert np.ptp(found.layers["change"], axis=1).min() > 0
    # Whatever is trained, the backbone that was given is as it was.
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())
    screen.save(tmp_path / "saved", include_model=True)
    loaded = GenePerturbation.load(tmp_path / "saved")
    np.testing.assert_allclose(loaded.predict(asked(screen_cells), screen_cells).X, found.X, atol=1e-6)


def test_what_a_frozen_backbone_says_is_asked_once(screen: GenePerturbation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept encodings give what the network gives, cell by cell."""
    control = screen.control
    control.encode(screen.network)
    plain = ControlCells(screen.screen.cells, control.rows)  # type: ignore[union-attr]
    for (batch, kept), (other, none) in zip(control.parts(), plain.parts(), strict=True):
        assert none is None and kept is not None and torch.equal(batch.gene_ids, other.gene_ids)
        with torch.no_grad():
            found = screen.network.encode(other)
        torch.testing.assert_close(kept.cell, found.cell, atol=1e-5, rtol=0)
        torch.testing.assert_close(kept.genes, found.genes, atol=1e-5, rtol=0)
    calls = []
    encode = type(screen.network).encode
    monkeypatch.setattr(type(screen.network), "encode", lambda self, batch: calls.append(1) or encode(self, batch))
    screen.train(**FEW)
    screen.predict(screen.genes[0])
    assert not calls


def test_single_cells_take_the_networks_own_encodings(screen: GenePerturbation) -> None:
    """One by one on the fly, in the order of the file, and on average what is predicted of these cells."""
    screen.train(**FEW | {"max_epochs": 4}, lr=0.02)
    gene = screen.genes[0]
    single = screen.predict_cells(gene)
    assert screen.screen is not None
    assert list(single.obs_names) == [f"cell{row}" for row in screen.screen.control]
    change = single.layers["change"] if "change" in single.layers else single.X - single.layers["control"]
    up = change[:, change.min(0) > 0]  # where nothing was cut off at zero
    few = np.isin(screen.screen.control, screen.control.rows)
    mean = screen.changes([(gene,)])[0]
    np.testing.assert_allclose(up[few].mean(0), mean[change.min(0) > 0], atol=1e-4)


def test_one_condition(real_cells: anndata.AnnData, network: CellFM, words: list[str]) -> None:
    adata = screen_of(real_cells, words[:2], [12, 8])
    screen = GenePerturbation(adata, network).train(**FEW)
    gene = words[1].removesuffix("+ctrl")
    found = screen.predict([gene, "ACTB", f"{gene}+ACTB"])
    assert found.obs["seen"].tolist() == [1, 0, 1] and np.isfinite(found.X).all()
    with pytest.raises(UserError, match="has no perturbation to learn from"):
        screen.train(make_split("none", 0, (), (), screen.screen.conditions), **FEW)  # type: ignore[union-attr]


def test_three_genes_at_once_and_no_single(real_cells: anndata.AnnData, network: CellFM) -> None:
    """Without a single nothing was measured alone; conditions of three genes are learned from and predicted."""
    g = list(real_cells.var_names[:40:8])
    words = ["ctrl", f"{g[0]}+{g[1]}+{g[2]}", f"{g[2]}+{g[3]}", f"{g[4]}+{g[1]}+{g[3]}"]
    screen = GenePerturbation(screen_of(real_cells, words, [20, 8, 8, 8]), network, coexpression=True).train(**FEW)
    assert screen.saved is not None and len(screen.saved.genes) == 5
    assert not screen.saved.task.head.trust.any()  # type: ignore[operator, union-attr]
    found = screen.predict(["+".join(g[:4]), g[0], words[1]])
    assert found.obs["perturbed"].tolist() == [4, 1, 3] and found.obs["measured"].tolist() == [False, False, True]
    assert np.isfinite(found.X).all()


def test_measured_effects_can_be_left_to_the_network(screen: GenePerturbation) -> None:
    screen.train(measured=False, **FEW)
    assert screen.saved is not None and not screen.saved.task.head.trust.any()  # type: ignore[operator, union-attr]


def test_a_perturbed_gene_that_is_not_read_out(screen_cells: anndata.AnnData, network: CellFM) -> None:
    """No cell shows the gene: it is no column, and its effect is learned all the same."""
    adata = screen_cells.copy()
    gene = str(adata.var_names[0])
    counts = adata.X.tolil()
    counts[:, 0] = 0
    adata.X = counts.tocsr()
    screen = GenePerturbation(adata, network, top_genes=30).train(**FEW)
    assert gene not in screen.genes and gene in screen.saved.genes  # type: ignore[union-attr]
    found = screen.predict([gene])
    assert found.obs["measured"].all() and np.abs(found.layers["change"]).max() > 0.1


def test_control_cells_without_the_genes_that_are_read_out(screen_cells: anndata.AnnData, network: CellFM) -> None:
    screen = GenePerturbation(screen_cells, network, top_genes=3).train(**FEW)
    adata = screen_cells[screen_cells.obs["condition"] == "ctrl"].copy()
    others = [i for i, gene in enumerate(adata.var_names) if gene not in screen.genes]
    found = screen.predict([screen.genes[0]], adata[:, others].copy())
    assert (found.var["control"] == 0).all() and np.isfinite(found.X).all()
    empty = adata.copy()
    empty.X = empty.X * 0
    with pytest.raises(UserError, match="all 40 cells are empty"):
        screen.predict([screen.genes[0]], empty)


def test_states_without_counts_and_equal_ones(screen: GenePerturbation, screen_cells: anndata.AnnData) -> None:
    screen.train(**FEW)
    adata = screen_cells.copy()
    adata.obs["state"] = np.repeat(["a", "b", "empty"], [40, adata.n_obs - 45, 5])
    counts = adata.X.tolil()
    counts[-5:] = 0
    adata.X = counts.tocsr()
    with pytest.raises(UserError) as caught:
        screen.reverse(adata, by="state", start="a", target="empty")
    assert str(caught.value) == "target=empty: its cells have no counts in the model's genes"
    table = screen.reverse(adata, by="state", start="a", target="b")
    assert set(table["condition"]) == set(screen.saved.genes)  # type: ignore[union-attr]


def test_the_cells_own_column_and_word_are_known_later(
    screen_cells: anndata.AnnData, network: CellFM, tmp_path: Path
) -> None:
    """Perturbed cells do not pass for control where conditions have a name and a word of their own."""
    adata = screen_cells.copy()
    words = adata.obs.pop("condition").astype(str)
    adata.obs["guide"] = words.where(words != "ctrl", "vehicle")
    screen = GenePerturbation(adata, network, condition="guide", control="vehicle", control_cells=100).train(**FEW)
    own = screen.predict(screen.genes[:2])
    screen.save(tmp_path / "saved", include_model=True)
    loaded = GenePerturbation.load(tmp_path / "saved")
    for one in (screen, loaded):
        found = one.predict(screen.genes[:2], adata)
        np.testing.assert_allclose(found.X, own.X, atol=1e-6)
        assert one.predict_cells(screen.genes[0], adata).n_obs == 40


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_gives_the_same(seed: int, screen_cells: anndata.AnnData, network: CellFM) -> None:
    found = []
    for _ in range(2):
        torch.rand(3)  # what was drawn before does not matter
        screen = GenePerturbation(screen_cells, network, control_cells=12, seed=seed).train(seed=seed, **FEW)
        found.append(screen.predict(screen.genes[:3]).X)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "lara"}, "method=lara: choose frozen, lora, full; did you mean 'lora'?"),
        ({"width": 20}, "width=20: must be a multiple of 8"),
        ({"lora_rank": 0}, "lora_rank=0: must be at least 1"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str, screen: GenePerturbation) -> None:
    with pytest.raises(UserError) as caught:
        screen.train(**options)
    assert str(caught.value) == message
