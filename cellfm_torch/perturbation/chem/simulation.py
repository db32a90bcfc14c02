"""Cells of PBMC3k as if compounds with known effects had acted on them: what a correct model must be able to learn.

Shapes: n cells, G genes of the file.
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
    "hydroxamate": (
        "ONC(=O)CCCCCCC(=O)Nc1ccccc1",
        "ONC(=O)CCCCCCC(=O)Nc1ccc(C)cc1",
        "ONC(=O)CCCCCCC(=O)Nc1ccc(F)cc1",
        "ONC(=O)CCCCCCC(=O)Nc1ccc(OC)cc1",
        "ONC(=O)CCCCCCC(=O)NCc1ccccc1",
    ),
    "quinazoline": (
        "COc1cc2ncnc(Nc3cccc(Cl)c3)c2cc1OC",
        "COc1cc2ncnc(Nc3ccc(F)c(Cl)c3)c2cc1OC",
        "COc1cc2ncnc(Nc3cccc(Br)c3)c2cc1OC",
        "COc1cc2ncnc(Nc3cccc(C#C)c3)c2cc1OCCOC",
        "CCOc1cc2ncnc(Nc3cccc(C)c3)c2cc1OCC",
    ),
    "steroid": (
        "CC12CCC(=O)C=C1CCC1C2C(O)CC2(C)C1CCC2(O)C(=O)CO",
        "CC12C=CC(=O)C=C1CCC1C2C(O)CC2(C)C1CCC2(O)C(=O)CO",
        "CC1CC2C3CCC4=CC(=O)C=CC4(C)C3(F)C(O)CC2(C)C1(O)C(=O)CO",
        "CC12CCC(=O)C=C1CCC1C2C(=O)CC2(C)C1CCC2(O)C(=O)CO",
        "CC1CC2C(CCC3(C)C2CCC3(O)C(=O)CO)C2(C)C=CC(=O)C=C12",
    ),
    "statin": (
        "CCC(C)C(=O)OC1CCC=C2C=CC(C)C(CCC3CC(O)CC(=O)O3)C21",
        "CCC(C)C(=O)OC1CC(C)C=C2C=CC(C)C(CCC3CC(O)CC(=O)O3)C21",
        "CCC(C)(C)C(=O)OC1CC(C)C=C2C=CC(C)C(CCC3CC(O)CC(=O)O3)C21",
        "CCC(C)C(=O)OC1CC(O)C=C2C=CC(C)C(CCC(O)CC(O)CC(=O)O)C21",
        "CC(C)C(=O)OC1CC(C)C=C2C=CC(C)C(CCC3CC(O)CC(=O)O3)C21",
    ),
}
"""SMILES of five analogues of each of four scaffolds, without stereochemistry. What they do to the cells is made up."""

DOSES = (0.3, 1.0, 10.0)
"""Micromolar."""

RESPONSE = {"CD14 monocyte": 1.0, "FCGR3A monocyte": 1.0, "B": 0.8, "NK": 0.7}
"""How strongly a type of cell responds, of those that do not respond as most do."""
USUAL_RESPONSE = 0.5
CONTROL_SHARE = 0.25
PROGRAMME_GENES = 80
"""That a family raises, and as many that it lowers."""
LEAST_MEAN = 0.3
"""Counts per cell of the genes that programmes are made of."""
HILL_SLOPE = 1.5


@dataclass(frozen=True)
class Programme:
    """What a compound does at full effect.

    Attributes
    ----------
    up, down : int arrays
        Genes.
    gain : one number for each of `up`
        Counts added, in means of the gene over the cells.
    loss : one number for each of `down`
        Share of counts lost.
    half : float
        Dose of half the effect.
    """

    up: NDArray[np.int64]
    down: NDArray[np.int64]
    gain: NDArray[np.float64]
    loss: NDArray[np.float64]
    half: float

    def effect(self, dose: float) -> float:
        """Return the share of the full effect at a dose."""
        return float(dose**HILL_SLOPE / (dose**HILL_SLOPE + self.half**HILL_SLOPE))


def simulated_treatment(
    *,
    seed: int = 0,
    strength: float = 1.0,
    families: Sequence[str] = tuple(FAMILIES),
    doses: Sequence[float] = DOSES,
) -> anndata.AnnData:
    """Return the bundled cells, a quarter of them control, the others each under one compound at one dose.

    Each family of compounds raises 80 genes, by added Poisson counts, and lowers 80, by binomial thinning; a compound
    of it does so with its own potency and with small deviations, by a Hill curve of the dose and as strongly as its
    type of cell responds. A cell is used once.

    Parameters
    ----------
    seed
        Of the programmes and of the cells.
    strength
        Of all effects; 0 leaves the cells as they were.
    families, doses
        Which; fewer conditions have more cells each.

    Returns
    -------
    AnnData, counts
        ``obs``: drug (``DMSO`` for control), dose (micromolar, 0 for control), smiles, family, cell_type;
        ``uns["effects"]``: by family the genes that go ``up`` and ``down``.
    """
    rng = np.random.default_rng(seed)
    cells = anndata.read_h5ad(PBMC3K)
    counts = sp.csr_matrix(cells.X).astype(np.int64)
    mean = np.asarray(counts.mean(0)).ravel()
    programmes = _programmes(mean, rng)
    names = [name for family in families for name in _names(family)]
    conditions = [(name, dose) for name in names for dose in doses]
    order = rng.permutation(cells.n_obs)
    given = np.full(cells.n_obs, -1)
    treated = order[round(CONTROL_SHARE * cells.n_obs) :]
    given[treated] = np.arange(len(treated)) % len(conditions)
    response = cells.obs["cell_type"].astype(str).map(RESPONSE).fillna(USUAL_RESPONSE).to_numpy(dtype=float)
    depth = np.asarray(counts.sum(1)).ravel()
    changed = counts.tolil()
    for number, (name, dose) in enumerate(conditions):
        rows, programme = np.flatnonzero(given == number), programmes[name]
        share = (strength * programme.effect(dose) * response[rows])[:, None]
        scale = (depth[rows] / depth.mean())[:, None]
        added = rng.poisson(share * scale * programme.gain * mean[programme.up])
        kept = rng.binomial(counts[np.ix_(rows, programme.down)].toarray(), 1 - np.clip(share * programme.loss, 0, 1))
        changed[np.ix_(rows, programme.up)] = counts[np.ix_(rows, programme.up)].toarray() + added
        changed[np.ix_(rows, programme.down)] = kept
    drugs = [conditions[i][0] if i >= 0 else "DMSO" for i in given]
    smiles = {name: text for family in FAMILIES for name, text in zip(_names(family), FAMILIES[family], strict=True)}
    obs = pd.DataFrame(
        {
            "drug": pd.Categorical(drugs),
            "dose": [conditions[i][1] if i >= 0 else 0.0 for i in given],
            "smiles": pd.Categorical([smiles.get(name, "") for name in drugs]),
            "family": pd.Categorical([name.rpartition(" ")[0] for name in drugs]),
            "cell_type": cells.obs["cell_type"].to_numpy(),
        },
        index=cells.obs_names,
    )
    genes = cells.var_names.to_numpy(dtype=object)
    first = {family: programmes[_names(family)[0]] for family in families}
    effects = {family: {"up": genes[one.up], "down": genes[one.down]} for family, one in first.items()}
    return anndata.AnnData(
        sp.csr_matrix(changed, dtype=np.float32), obs=obs, var=cells.var, uns={"effects": effects, "strength": strength}
    )


def _names(family: str) -> list[str]:
    return [f"{family} {i + 1}" for i in range(len(FAMILIES[family]))]


def _programmes(mean: NDArray[np.float64], rng: np.random.Generator) -> dict[str, Programme]:
    """Return what each compound does; families share no gene."""
    usable = rng.permutation(np.flatnonzero(mean >= LEAST_MEAN))
    found = {}
    for family in FAMILIES:
        up, down, usable = np.split(usable, [PROGRAMME_GENES, 2 * PROGRAMME_GENES])
        gain, loss = rng.uniform(2, 10, len(up)), rng.uniform(0.6, 1, len(down))
        for name in _names(family):
            own = rng.lognormal(0, 0.3, len(up)), rng.uniform(0.8, 1, len(down))
            half = float(10 ** rng.uniform(-0.7, 0.3))
            found[name] = Programme(up, down, gain * own[0], loss * own[1], half)
    return found
