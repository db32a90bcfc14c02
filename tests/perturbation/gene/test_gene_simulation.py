"""Cells with planted effects: what was planted is what can be measured."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from cellfm_torch.errors import UserError
from cellfm_torch.paths import PBMC3K
from cellfm_torch.perturbation.gene.simulation import Simulated, exact_effects, simulate


@pytest.fixture(scope="module")
def real() -> anndata.AnnData:
    return anndata.read_h5ad(PBMC3K)


@pytest.fixture(scope="module")
def simulated(real: anndata.AnnData) -> Simulated:
    return simulate(real, seed=3)


def cells_of(simulated: Simulated, word: str) -> sp.csr_matrix:
    return sp.csr_matrix(simulated.adata.X)[(simulated.adata.obs["condition"] == word).to_numpy()]


def test_has_what_was_asked_for(simulated: Simulated) -> None:
    truth, words = simulated.truth, simulated.adata.obs["condition"].value_counts()
    assert [len(module.genes) for module in truth.modules] == [5] * 6
    singles = [c for c in truth.conditions if len(c) == 1]
    doubles = [c for c in truth.conditions if len(c) == 2]
    assert (len(singles), len(doubles), len(set(truth.conditions))) == (30, 40, 70)
    assert sum(truth.interacts(c) for c in doubles) == 20
    assert all(c == tuple(sorted(c)) for c in doubles)
    assert words["ctrl"] == 600 and words["LYZ+ctrl"] == 60
    assert set(words) == {60, 600} and words["+".join(doubles[0])] == 60
    assert not any(truth.module_of(a) is truth.module_of(b) for a, b in doubles)


def test_modules_are_genes_known_to_go_together(simulated: Simulated) -> None:
    genes = {module.name: set(module.genes) for module in simulated.truth.modules}
    assert genes["myeloid"] > {"LYZ", "S100A8", "S100A9"}
    assert genes["B cell"] > {"CD79A", "CD79B", "MS4A1"}
    assert genes["cytotoxic"] > {"NKG7", "PRF1", "GZMB"}
    assert genes["early response"] > {"FOS", "JUN", "DUSP1"}


def test_targets_are_disjoint(simulated: Simulated) -> None:
    truth = simulated.truth
    programmes = [
        *(module.programme for module in truth.modules),
        *truth.private.values(),
        *truth.interactions.values(),
    ]
    targets = [gene for programme in programmes for gene in programme.targets]
    assert len(targets) == len(set(targets)) == 6 * 40 + 30 * 10 + 2 * 30
    assert not set(targets) & set(truth.private)


def test_the_seed_says_it_all(real: anndata.AnnData, simulated: Simulated) -> None:
    again, other = simulate(real, seed=3), simulate(real, seed=4)
    assert (again.adata.X != simulated.adata.X).nnz == 0
    assert again.truth.conditions == simulated.truth.conditions
    assert other.truth.conditions != simulated.truth.conditions


def test_counts_move_by_what_was_planted(real: anndata.AnnData) -> None:
    simulated = simulate(real, singles=6, doubles=2, cells_per_condition=3000, control_cells=3000, seed=1)
    truth = simulated.truth
    control = cells_of(simulated, "ctrl")
    expected = np.asarray(control.mean(0)).ravel()
    spread = np.sqrt(np.asarray(control.multiply(control).mean(0)).ravel() - expected**2)
    word = "+".join(next(c for c in truth.conditions if len(c) == 2 and truth.interacts(c)))
    lfc = truth.lfc_of(tuple(word.split("+")))
    moved = np.flatnonzero(np.abs(lfc) > 0.5)
    assert len(moved) >= 2 * 50 + 30
    got = np.asarray(cells_of(simulated, word).mean(0)).ravel()
    fold = np.exp(lfc[moved])
    # Errors of two means of 3,000 cells; added counts have the spread of Poisson, at most that of the cells' own.
    error = np.sqrt((fold * spread[moved]) ** 2 + fold * expected[moved] + (fold * spread[moved]) ** 2) / np.sqrt(3000)
    z = (got[moved] - fold * expected[moved]) / error
    assert np.abs(z).max() < 4.5  # 140 genes: a normal number beyond it once in 1,000 draws
    assert abs(z.mean()) < 0.5  # no common shift
    up = moved[lfc[moved] > 0]
    zeros = [np.asarray((cells > 0).mean(0)).ravel()[up] for cells in (control, cells_of(simulated, word))]
    assert (zeros[1] > zeros[0]).all()


def test_what_was_not_touched_is_a_real_cell(real: anndata.AnnData, simulated: Simulated) -> None:
    truth = simulated.truth
    still = np.flatnonzero(truth.lfc_of(("LYZ",)) == 0)
    rows = real[real.obs["cell_type"].astype(str).str.startswith("CD4 T"), list(truth.genes)].X[:, still]
    known = {row.tobytes() for row in rows.toarray()}
    assert all(row.tobytes() in known for row in cells_of(simulated, "LYZ+ctrl")[:, still].toarray())


def test_exact_doubles_add_up_but_for_the_planted_interaction(simulated: Simulated) -> None:
    truth = simulated.truth
    effects = exact_effects(truth)
    for condition in truth.conditions:
        if len(condition) == 1:
            continue
        together = effects.delta[effects.row(condition)]
        apart = sum(effects.delta[effects.row((gene,))] for gene in condition)
        planted = truth.interaction_lfc(condition)
        # Float64 rounding of sums of numbers below 10.
        np.testing.assert_allclose(together[planted == 0], np.asarray(apart)[planted == 0], rtol=0, atol=1e-12)
        assert truth.interacts(condition) == bool((np.abs(together - apart) > 1e-3).any())
        assert (planted != 0).sum() in {0, 30}
    assert (effects.mean > 0).all()
    single = effects.row(("FOS",))
    fos = truth.genes.index("FOS")
    assert effects.mean[single, fos] == pytest.approx(np.log1p(1e4 * truth.share[fos] * np.exp(-2)), rel=1e-12)
    assert (np.abs(effects.delta[single][effects.marked[single]]) > 0).all()


def test_the_truth_is_kept_with_the_cells(simulated: Simulated, tmp_path: Path) -> None:
    simulated.adata.write_h5ad(tmp_path / "sim.h5ad")
    kept = anndata.read_h5ad(tmp_path / "sim.h5ad").uns["simulation"]
    np.testing.assert_array_equal(kept["lfc"].toarray(), simulated.truth.lfc)
    assert tuple(kept["modules"]["myeloid"]["genes"]) == simulated.truth.modules[0].genes
    assert kept["conditions"][list(simulated.truth.conditions).index(("LYZ",))] == "LYZ+ctrl"


def test_says_what_is_wrong(real: anndata.AnnData) -> None:
    with pytest.raises(UserError, match="1 to 8 modules"):
        simulate(real, modules=9)
    with pytest.raises(UserError, match="2 interacting pairs need 4 modules"):
        simulate(real, modules=3)
    with pytest.raises(UserError, match="of type 'T cell of no kind', 50 are needed"):
        simulate(real, population="T cell of no kind")
    with pytest.raises(UserError, match="cells lack LYZ"):
        simulate(real[:, real.var_names != "LYZ"].copy())
    with pytest.raises(UserError, match="9999 doubles are asked for, 375 are possible"):
        simulate(real, doubles=9999)
    with pytest.raises(UserError, match="target genes are needed"):
        simulate(real, singles=120, num_genes=500)
    logged = real[:300].copy()
    logged.X = logged.X * 0.5
    with pytest.raises(UserError, match="raw counts"):
        simulate(logged)
