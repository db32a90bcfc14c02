"""Modules of genes with all that is known of them.

Shapes: G genes of the vocabulary, M genes clustered, n cells, C modules.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray


@dataclass
class ModulesResult:
    """What :func:`gene_modules` found.

    Attributes
    ----------
    genes : AnnData
        The M genes: ``obs["module"]`` (``M1`` the largest, empty for none), ``obsm`` as given,
        ``obsp["connectivities"]``.
    resolutions : DataFrame
        Of each embedding (``features``) and resolution: modules, stability, and ``enriched`` modules where there are
        sets.
    comparison : DataFrame
        The chosen resolution of each embedding, one row each.
    enrichment : DataFrame
        Sets of each module, at any false discovery rate.
    cells : AnnData or None
        ``obsm["X_modules"]`` (n, C), columns as ``uns["cellfm_modules"]`` names them.
    activity : DataFrame or None
        Mean activity of each module by group of cells.
    unit : (M, E)
        Directions of the embedding, whose distances were clustered.
    key : str
        Its name in ``obsm``.
    fdr : float
        Where a set counts.
    """

    genes: AnnData = field(repr=False)
    resolutions: pd.DataFrame = field(repr=False)
    comparison: pd.DataFrame = field(repr=False)
    enrichment: pd.DataFrame = field(repr=False)
    cells: AnnData | None = field(repr=False)
    activity: pd.DataFrame | None = field(repr=False)
    unit: NDArray[np.float32] = field(repr=False)
    key: str
    fdr: float

    @property
    def names(self) -> list[str]:
        """Names of the modules, C."""
        return list(self.genes.obs["module"].cat.categories)

    def members(self, module: str) -> list[str]:
        """Return the genes of a module."""
        return list(self.genes.obs_names[self.genes.obs["module"] == module])

    def overview(self) -> pd.DataFrame:
        """Return a row for each module.

        Columns: ``genes``, ``enriched`` (sets), ``first`` (the set of the least p), ``fdr`` (of it), and ``active_in``
        where cells are in groups: the group with the highest activity.
        """
        rows = []
        for name in self.names:
            own = self.enrichment[(self.enrichment["module"] == name) & (self.enrichment["fdr"] <= self.fdr)]
            best = own.iloc[0] if len(own) else None
            rows.append(
                {
                    "module": name,
                    "genes": len(self.members(name)),
                    "enriched": len(own),
                    "first": "" if best is None else best["set"],
                    "fdr": np.nan if best is None else float(best["fdr"]),
                    "active_in": "" if self.activity is None else str(self.activity.loc[name].idxmax()),
                }
            )
        return pd.DataFrame(rows)

    def edges(self, module: str, *, most: int = 60) -> pd.DataFrame:
        """Return the most similar pairs of genes of a module: ``a``, ``b``, ``weight`` (cosine), highest first."""
        rows = np.flatnonzero(self.genes.obs["module"] == module)
        cosine = self.unit[rows] @ self.unit[rows].T
        i, j = np.triu_indices(len(rows), k=1)
        order = np.argsort(-cosine[i, j], kind="stable")[:most]
        names = self.genes.obs_names[rows]
        return pd.DataFrame({"a": names[i[order]], "b": names[j[order]], "weight": cosine[i[order], j[order]]})


def module_names(labels: NDArray[np.int64]) -> pd.Categorical:
    """Return ``M1``, ``M2`` ... for 0, 1 ..., no value for -1."""
    number = int(labels.max(initial=-1)) + 1
    return pd.Categorical.from_codes(labels, [f"M{i + 1}" for i in range(number)])


def describe(settings: dict[str, Any], names: Sequence[str], resolution: float) -> str:
    """Return what ``uns["cellfm_modules"]`` holds, as JSON."""
    return json.dumps({"modules": list(names), "resolution": resolution, **settings}, default=str)
