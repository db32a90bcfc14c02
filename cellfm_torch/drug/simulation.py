"""Cell lines with made-up expression and IC50 in which a family of drugs acts by one gene: what must be recovered.

Shapes: L lines, D drugs, G genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.paths import PBMC3K

FAMILIES: dict[str, tuple[str, ...]] = {
    "quinazoline": (
        "COc1cc2ncnc(Nc3cccc(Cl)c3)c2cc1OC",
        "COc1cc2ncnc(Nc3ccc(F)c(Cl)c3)c2cc1OC",
        "COc1cc2ncnc(Nc3cccc(Br)c3)c2cc1OC",
        "CCOc1cc2ncnc(Nc3cccc(C)c3)c2cc1OCC",
    ),
    "hydroxamate": (
        "ONC(=O)CCCCCCC(=O)Nc1ccccc1",
        "ONC(=O)CCCCCCC(=O)Nc1ccc(C)cc1",
        "ONC(=O)CCCCCCC(=O)Nc1ccc(F)cc1",
        "ONC(=O)CCCCCCC(=O)NCc1ccccc1",
    ),
    "sulfonamide": (
        "Nc1ccc(cc1)S(=O)(=O)Nc1ccccn1",
        "Nc1ccc(cc1)S(=O)(=O)Nc1ncccn1",
        "Nc1ccc(cc1)S(=O)(=O)Nc1nccs1",
        "Cc1ccnc(NS(=O)(=O)c2ccc(N)cc2)n1",
    ),
}
"""SMILES of analogues of three scaffolds. What they do to lines is made up."""

TISSUES = ("lung", "skin", "breast", "ovary", "kidney")
PROGRAMME = 60
"""Genes that follow the driver of a family."""
FOLD = 2.0
"""Standard deviation of a programme over lines, in natural logarithms of expression."""


@dataclass(frozen=True)
class SimulatedLines:
    """Lines and what was planted.

    Attributes
    ----------
    expression : DataFrame (L, G)
        log2(1 + TPM).
    ic50 : DataFrame (D, L)
        ln(uM), NaN where nothing was measured.
    smiles : dict of str to str
        By drug.
    tissue : dict of str to str
        By line.
    family : dict of str to str
        By drug.
    drivers : dict of str to str
        By family: the gene whose expression makes lines sensitive.
    activity : DataFrame (L, families)
        The driver's, standardised over lines.
    base : (G,)
        Logarithm of the usual expression.
    loadings : (families, G)
        What an activity of one adds to it.
    """

    expression: pd.DataFrame
    ic50: pd.DataFrame
    smiles: dict[str, str]
    tissue: dict[str, str]
    family: dict[str, str]
    drivers: dict[str, str]
    activity: pd.DataFrame
    base: NDArray[np.float64]
    loadings: NDArray[np.float64]


def simulated_lines(
    number: int = 80,
    *,
    genes: int = 600,
    strength: float = 1.5,
    noise: float = 0.5,
    missing: float = 0.1,
    seed: int = 0,
    lines: Sequence[str] | None = None,
    drugs: dict[str, tuple[str, str]] | None = None,
) -> SimulatedLines:
    """Return lines whose IC50 to a family of drugs falls with the expression of one gene.

    ln IC50 = mean of the drug + resistance of the line - strength * driver of the family + noise.

    Parameters
    ----------
    number
        L, where there are no names.
    genes
        G, the most abundant of the bundled cells.
    strength, noise
        In ln(uM).
    missing
        Share of pairs that were not measured.
    seed
        Of everything.
    lines
        Names; by default those of DepMap's form.
    drugs
        By name: family and SMILES; by default those of :data:`FAMILIES`, named ``GDSC:1`` and so on.
    """
    rng = np.random.default_rng(seed)
    cells = anndata.read_h5ad(PBMC3K)
    bulk = np.asarray(cells.X.sum(0), dtype=np.float64).ravel()
    chosen = np.sort(np.argsort(-bulk, kind="stable")[:genes])
    base, names = np.log(bulk[chosen]), cells.var_names[chosen].to_numpy(dtype=object)
    lines = [f"ACH-{i + 1:06}" for i in range(number)] if lines is None else list(lines)
    if drugs is None:
        every = [(family, text) for family, texts in FAMILIES.items() for text in texts]
        drugs = {f"GDSC:{i + 1}": one for i, one in enumerate(every)}
    families = sorted({family for family, _ in drugs.values()})
    tissue = rng.permutation(np.resize(np.array(TISSUES, dtype=object), len(lines)))
    log = base + rng.normal(0, 0.4, (len(lines), len(names)))
    for one in TISSUES:  # lines of a tissue are alike
        log[tissue == one] += rng.normal(0, 0.3, len(names))
    activity, loadings, drivers = _programmes(log, names, families, rng)
    tpm = np.exp(log)
    tpm *= 1e6 / tpm.sum(1, keepdims=True)
    effect = pd.DataFrame(activity, lines, families)
    resistance, means = rng.normal(0, 0.4, len(lines)), rng.normal(2, 1.5, len(drugs))
    values = means[:, None] + resistance[None] + rng.normal(0, noise, (len(drugs), len(lines)))
    values -= strength * effect[[family for family, _ in drugs.values()]].to_numpy().T
    values[rng.random(values.shape) < missing] = np.nan
    return SimulatedLines(
        expression=pd.DataFrame(np.log2(1 + tpm), lines, names),
        ic50=pd.DataFrame(values, list(drugs), lines),
        smiles={name: text for name, (_, text) in drugs.items()},
        tissue=dict(zip(lines, tissue.tolist(), strict=True)),
        family={name: family for name, (family, _) in drugs.items()},
        drivers=drivers,
        activity=effect,
        base=base,
        loadings=loadings,
    )


def simulated_cells(
    lines: SimulatedLines, number: int = 200, *, depth: float = 3000, platform: float = 0.5, seed: int = 1
) -> anndata.AnnData:
    """Return single cells with the programmes of the lines, sparse and on another platform.

    Parameters
    ----------
    number
        n.
    depth
        Mean counts of a cell.
    platform
        Standard deviation of what each gene is off by, in natural logarithms, the same in all cells.
    seed
        Of the cells.

    Returns
    -------
    AnnData, counts
        ``obs``: for each family, sensitive where the driver is above its mean, else resistant.
    """
    rng = np.random.default_rng(seed)
    genes = lines.expression.columns
    activity = rng.normal(size=(number, len(lines.loadings)))
    log = lines.base + rng.normal(0, platform, len(genes)) + rng.normal(0, 0.2, (number, len(genes)))
    share = np.exp(log + activity @ lines.loadings)
    share /= share.sum(1, keepdims=True)
    counts = rng.poisson(share * depth * rng.lognormal(0, 0.3, (number, 1)))
    obs = pd.DataFrame(
        {
            family: np.where(activity[:, i] > 0, "sensitive", "resistant")
            for i, family in enumerate(lines.activity.columns)
        },
        index=[f"cell{i}" for i in range(number)],
    )
    return anndata.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs, pd.DataFrame(index=genes))


def _programmes(
    log: NDArray[np.float64], names: NDArray[np.object_], families: Sequence[str], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[str, str]]:
    """Raise and lower genes of each family by line, in place; return activities, loadings and drivers."""
    activity = rng.normal(size=(len(log), len(families)))
    activity = (activity - activity.mean(0)) / activity.std(0)
    usable = rng.permutation(len(names))
    most = min(PROGRAMME, len(names) // (2 * max(len(families), 1)))
    drivers, loadings = {}, np.zeros((len(families), len(names)))
    for i, family in enumerate(families):
        own = usable[i * most : (i + 1) * most]
        loadings[i, own] = FOLD * np.append(1.0, rng.choice([-0.6, 0.6], len(own) - 1))
        drivers[family] = str(names[own[0]])
    log += activity @ loadings
    return activity, loadings, drivers
