"""What is measured of a screen: the same as plain arithmetic on its cells."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
from small_screens import FEW, screen_of

from cellfm_torch import CellFM, GenePerturbation, UserError
from cellfm_torch.perturbation.gene.cells import PerturbedCells
from cellfm_torch.perturbation.gene.effects import MOST_MARKED, condition_name
from cellfm_torch.perturbation.gene.splits import make_split


def dense(adata: anndata.AnnData) -> np.ndarray:
    counts = adata.X.toarray().astype(np.float64)
    return np.log1p(1e4 * counts / counts.sum(1, keepdims=True))


def test_effects_equal_a_plain_recomputation(screen_cells: anndata.AnnData, network: CellFM) -> None:
    cells = PerturbedCells.read(screen_cells, network.input_spec)
    readout = cells.readout(60)
    found = cells.effects(readout)
    x, words = dense(screen_cells)[:, readout], screen_cells.obs["condition"].astype(str).to_numpy()
    control = x[words == "ctrl"]
    # float32 expression, summed in float64.
    np.testing.assert_allclose(found.control, control.mean(0), atol=1e-6)
    assert found.genes == tuple(screen_cells.var_names[readout]) and len(found.conditions) == 10
    for i, condition in enumerate(found.conditions):
        name = condition_name(condition)
        same = [word for word in set(words) if set(word.split("+")) - {"ctrl"} == set(condition)]
        part = x[np.isin(words, same)]
        assert found.cells[i] == len(part) == 8, name
        np.testing.assert_allclose(found.mean[i], part.mean(0), atol=1e-6)
        np.testing.assert_allclose(found.delta[i], part.mean(0) - control.mean(0), atol=2e-6)
        variance, floor = part.var(0, ddof=1), control.var(0, ddof=1)
        noise = np.maximum(variance, floor) / 8 + floor / 40
        np.testing.assert_allclose(found.noise[i], noise, atol=1e-6)  # type: ignore[index]
        t = np.abs(part.mean(0) - control.mean(0)) / np.sqrt(noise + 1e-12)
        marked = found.marked[i]
        assert len(set(marked.tolist())) == MOST_MARKED
        # Ties and rounding may change the order of equals, not how marked they are.
        np.testing.assert_allclose(t[marked], np.sort(t)[::-1][:MOST_MARKED], rtol=1e-4)


def test_effects_of_some_conditions_are_rows_of_all(screen: GenePerturbation) -> None:
    cells = screen.screen
    assert cells is not None
    all_of_them, some = cells.effects(screen.readout), cells.conditions[3:5]
    for part in (cells.effects(screen.readout, some), all_of_them.of(some)):
        assert part.conditions == some
        for name in ("mean", "marked", "cells", "noise", "delta"):
            np.testing.assert_array_equal(getattr(part, name), getattr(all_of_them, name)[3:5], err_msg=name)
    assert cells.effects(screen.readout, ()).mean.shape == (0, len(screen.readout))


def test_fewer_genes_than_are_marked(screen: GenePerturbation) -> None:
    cells = screen.screen
    assert cells is not None
    assert cells.effects(screen.readout[:7]).marked.shape == (10, 7)


def test_cells_that_are_left_out_are_said(real_cells: anndata.AnnData, words: list[str], network: CellFM) -> None:
    adata = screen_of(real_cells, words[:4], [10, 8, 8, 4])
    adata.obs["condition"] = adata.obs["condition"].astype(object)
    adata.obs.iloc[10, 0] = "FOO1+ctrl"
    adata.obs.iloc[11, 0] = None
    adata.obs.iloc[0, 0] = float("nan")
    empty = adata.X.tolil()
    empty[1] = empty[20] = 0
    adata.X = empty.tocsr()
    cells = PerturbedCells.read(adata, network.input_spec)
    small = words[3].removesuffix("+ctrl")
    assert cells.said == [
        "left out: 2 cells without a word in AnnData: obs['condition']",
        "left out: 1 of 5 conditions (1 cells) with genes that the model does not know: FOO1"
        + cells.said[1].partition("FOO1")[2],
        "left out: 2 cells without counts in the model's genes",
        f"left out: 1 conditions of fewer than 5 cells: {small}",
    ]
    assert np.flatnonzero(cells.codes == -2).tolist() == [0, 1, 10, 11, 20, 26, 27, 28, 29]
    assert len(cells.control) == 8 and [(cells.codes == i).sum() for i in range(2)] == [6, 7]
    # Words that name the same genes are one condition.
    assert len(PerturbedCells.read(adata, network.input_spec, least_cells=4).conditions) == 3


def test_too_few_cells(real_cells: anndata.AnnData, words: list[str], network: CellFM) -> None:
    with pytest.raises(UserError) as caught:
        PerturbedCells.read(screen_of(real_cells, words[:2], [4, 8]), network.input_spec)
    assert str(caught.value) == "AnnData: has 4 control cells with counts, it takes 5: give more"
    with pytest.raises(UserError) as caught:
        PerturbedCells.read(screen_of(real_cells, words[:2], [8, 4]), network.input_spec)
    assert str(caught.value) == "AnnData: no perturbation has 5 cells: give more cells, or a lower least_cells"


def test_readout_has_the_perturbed_genes_that_are_expressed(screen_cells: anndata.AnnData, network: CellFM) -> None:
    adata = screen_cells.copy()
    cells = PerturbedCells.read(adata, network.input_spec)
    perturbed = {gene for condition in cells.conditions for gene in condition}
    silent = sorted(perturbed)[0]
    values = adata.X.tolil()
    values[:, list(adata.var_names).index(silent)] = 0
    adata.X = values.tocsr()
    cells = PerturbedCells.read(adata, network.input_spec)
    genes = np.array(network.input_spec.genes)
    few, many = cells.readout(5), cells.readout(5000)
    assert (np.diff(few) > 0).all() and set(few) <= set(many)
    assert perturbed - {silent} <= set(genes[few]) and silent not in genes[many]
    assert len(few) <= 5 + len(perturbed) and len(many) == 119


def test_readout_does_not_depend_on_the_split(screen: GenePerturbation) -> None:
    """All splits are scored on the same genes, chosen before there is any split."""
    cells = screen.screen
    assert cells is not None
    before = screen.readout.copy()
    for train, test in ((cells.conditions[:5], cells.conditions[5:]), (cells.conditions[5:], cells.conditions[:5])):
        screen.train(make_split("given", 0, train, (), test), **FEW)
        assert (screen.readout == before).all() and screen.genes == tuple(np.array(network_genes(screen))[before])


def network_genes(screen: GenePerturbation) -> tuple[str, ...]:
    return tuple(screen.network.input_spec.genes)
