"""Cells with known effects of perturbations: real control cells whose counts are thinned and added to.

What cannot be tested on real screens can be here: which genes change and how much is known, doubles add up unless an
interaction was planted, and the noise is that of real cells.

Shapes: B cells, M conditions, G genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellfm_torch.analysis.expression import is_counts
from cellfm_torch.errors import UserError
from cellfm_torch.perturbation.gene.effects import CONTROL_NAME, MOST_MARKED, Condition, Effects
from cellfm_torch.perturbation.gene.planted import ANCHORS, Floats, Planted, coexpressed, plant

if TYPE_CHECKING:
    from anndata import AnnData

SEEN_IN = (0.15, 0.9)
"""Share of cells with counts of a gene within which both a rise and a fall of one natural unit can be seen."""

FEWEST_CELLS = 50


@dataclass(frozen=True)
class Simulated:
    """Cells and what was planted into them.

    Attributes
    ----------
    adata : (B, G)
        Counts; ``obs["condition"]`` has words as GEARS writes them (``ctrl``, ``KLF1+ctrl``, ``CEBPA+KLF1``),
        ``uns["simulation"]`` the truth.
    truth
        What was planted.
    """

    adata: AnnData
    truth: Planted


def simulate(
    adata: AnnData,
    *,
    singles: int = 30,
    doubles: int = 40,
    cells_per_condition: int = 60,
    control_cells: int = 600,
    modules: int = 6,
    interactions: int = 2,
    num_genes: int = 5000,
    population: str = "CD4 T",
    seed: int = 0,
) -> Simulated:
    """Return a screen of knock-downs in cells that were drawn, with replacement, from real ones.

    A perturbed cell is a real cell of which the counts of a gene that falls are kept with the probability exp(lfc)
    each, and to the counts of a gene that rises a Poisson number is added: (exp(lfc) - 1) times what the gene is
    expected to have at this depth, so that zeros rise as well. A perturbed gene's own counts fall by exp(-2); each
    moves the 40 targets of its module (lfc 1 up or down, times its own strength of 0.7 to 1.3) and 10 of its own.
    Effects of two genes add; pairs of certain modules move 30 further genes (lfc 1.5). Targets are disjoint.

    Parameters
    ----------
    adata
        Raw counts of cells of several types, by gene symbol, such as the bundled PBMC3k.
    singles
        Perturbed genes, about as many of each module.
    doubles
        Pairs of genes of different modules, half of them of interacting ones.
    cells_per_condition, control_cells
        Cells that are drawn.
    modules
        Groups of genes that go together in the real cells, at most 8.
    interactions
        Pairs of modules that interact.
    num_genes
        Genes that are read out: those with most counts, and the perturbed ones.
    population
        How the cell types to draw from begin, in ``obs["cell_type"]``; empty: all cells.
    seed
        Of everything.

    Raises
    ------
    UserError
        If the cells are no counts or too few, or do not have the genes for what is asked.
    """
    if not 1 <= modules <= len(ANCHORS) or singles < modules:
        raise UserError(
            f"simulation: modules={modules}, singles={singles}: 1 to {len(ANCHORS)} modules of a gene or more"
        )
    if not is_counts(adata.X):
        raise UserError("simulation: needs raw counts, the cells hold other numbers")
    rng = np.random.default_rng(seed)
    counts, names = _distinct(adata)
    chosen = _population(adata, population)
    names_of_modules = list(ANCHORS)[:modules]
    sizes = {name: singles // modules + (i < singles % modules) for i, name in enumerate(names_of_modules)}
    groups = coexpressed(counts, names, sizes)
    pool = counts[chosen]
    sums = np.asarray(pool.sum(0), dtype=np.float64).ravel()
    most = set(np.argsort(-sums, kind="stable")[:num_genes].tolist())
    perturbed = {gene for group in groups.values() for gene in group}
    kept = np.array([i for i, name in enumerate(names) if i in most or name in perturbed])
    pool, genes = pool[:, kept], tuple(str(name) for name in names[kept])
    share = sums[kept] / sums[kept].sum()
    seen = np.asarray((pool > 0).mean(0)).ravel()
    usable = (seen >= SEEN_IN[0]) & (seen <= SEEN_IN[1])
    truth = plant(groups, genes, share, usable, doubles=doubles, interactions=interactions, rng=rng)
    words = [CONTROL_NAME, *map(_word, truth.conditions)]
    numbers = [control_cells, *[cells_per_condition] * len(truth.conditions)]
    effects = [np.zeros(len(genes)), *truth.lfc]
    blocks = [_cells(pool, lfc, share, number, rng) for lfc, number in zip(effects, numbers, strict=True)]
    return Simulated(_anndata(sp.vstack(blocks, format="csr"), np.repeat(words, numbers), truth, seed), truth)


def exact_effects(
    truth: Planted, conditions: tuple[Condition, ...] | None = None, *, cells: int = 60, marked: int = MOST_MARKED
) -> Effects:
    """Return what was planted as effects without noise, in which doubles add up exactly unless they interact.

    The control is log1p of each gene's expected counts per 10,000, a single's difference that of the moved
    expectation, a double's the sum of its singles' and, of modules that interact, of the interaction's alone.

    Parameters
    ----------
    conditions
        None: those of the simulation.
    cells
        What the effects say of the number of cells.
    marked
        Genes per condition, by absolute difference since there is no noise to divide by.
    """
    conditions = truth.conditions if conditions is None else conditions
    expected = 1e4 * truth.share
    control = np.log1p(expected)

    def moved(lfc: Floats) -> Floats:
        return np.log1p(expected * np.exp(lfc)) - control

    delta = np.stack(
        [
            sum((moved(truth.lfc_of((gene,))) for gene in condition), moved(truth.interaction_lfc(condition)))
            for condition in conditions
        ]
    )
    order = np.argsort(-np.abs(delta), axis=1, kind="stable")[:, :marked]
    return Effects(
        truth.genes, conditions, control + delta, control, order, np.full(len(conditions), cells, dtype=np.int64)
    )


def _word(condition: Condition) -> str:
    """Return a condition as GEARS writes it."""
    return f"{condition[0]}+{CONTROL_NAME}" if len(condition) == 1 else "+".join(condition)


def _distinct(adata: AnnData) -> tuple[sp.csr_matrix, np.ndarray]:
    """Return counts and symbols without those genes whose symbol came before."""
    first = ~adata.var_names.duplicated()
    return sp.csr_matrix(adata.X)[:, np.flatnonzero(first)], np.asarray(adata.var_names[first], dtype=str)


def _population(adata: AnnData, population: str) -> np.ndarray:
    """Return the rows of one type of cells."""
    if population and "cell_type" not in adata.obs:
        raise UserError("simulation: no column 'cell_type' to choose cells by; give population='' to draw from all")
    types = adata.obs["cell_type"].astype(str) if population else pd.Series([""] * adata.n_obs)
    rows = np.flatnonzero(types.str.startswith(population).to_numpy())
    if len(rows) < FEWEST_CELLS:
        raise UserError(f"simulation: {len(rows)} cells of type '{population}', {FEWEST_CELLS} are needed to draw from")
    return rows


def _cells(pool: sp.csr_matrix, lfc: Floats, share: Floats, number: int, rng: np.random.Generator) -> sp.csr_matrix:
    """Draw cells and move their counts, (number, G)."""
    drawn = pool[rng.integers(pool.shape[0], size=number)]
    totals = np.asarray(drawn.sum(1), dtype=np.float64).ravel()
    kept = np.exp(np.minimum(lfc, 0))
    drawn.data = rng.binomial(drawn.data.astype(np.int64), kept[drawn.indices]).astype(np.float32)
    up = np.flatnonzero(lfc > 0)
    added = sp.coo_matrix(rng.poisson(np.outer(totals, share[up] * np.expm1(lfc[up]))).astype(np.float32))
    cells = drawn + sp.csr_matrix((added.data, (added.row, up[added.col])), shape=drawn.shape, dtype=np.float32)
    cells.eliminate_zeros()
    return cells


def _anndata(counts: sp.csr_matrix, words: Any, truth: Planted, seed: int) -> AnnData:
    from anndata import AnnData

    obs = pd.DataFrame(
        {"condition": pd.Categorical(words)}, index=pd.Index([f"cell{i}" for i in range(len(words))], name="cell")
    )
    var = pd.DataFrame({"gene_name": list(truth.genes)}, index=pd.Index(list(truth.genes), name="gene"))
    described: dict[str, Any] = {
        "seed": seed,
        "conditions": np.array([_word(condition) for condition in truth.conditions]),
        "lfc": sp.csr_matrix(truth.lfc),
        "strength": dict(truth.strength),
        "modules": {
            module.name: {"genes": np.array(module.genes), "targets": np.array(module.programme.targets)}
            for module in truth.modules
        },
        "interactions": {
            f"{a} x {b}": {"targets": np.array(programme.targets), "lfc": np.array(programme.lfc)}
            for (a, b), programme in truth.interactions.items()
        },
        "private": {gene: np.array(programme.targets) for gene, programme in truth.private.items()},
    }
    return AnnData(counts, obs=obs, var=var, uns={"simulation": described})
