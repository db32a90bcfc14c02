"""Control cells as they would be under a compound, as an AnnData.

Shapes: n cells, E width of an embedding, G marker genes.
"""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.analysis.expression import log_normalised
from cellfm_torch.data.labelled import CellSet
from cellfm_torch.perturbation.chem.cells import Rows
from cellfm_torch.perturbation.chem.columns import Columns
from cellfm_torch.perturbation.chem.fitted import Fitted


def predicted_cells(
    fitted: Fitted,
    cells: CellSet,
    rows: Rows,
    embedded: NDArray[np.float32],
    columns: Columns,
    *,
    drug: str,
    dose: float,
    smiles: str,
    feature: NDArray[np.float32],
) -> anndata.AnnData:
    """Return what :meth:`cellfm_torch.ChemicalPerturbation.predict` does.

    Parameters
    ----------
    cells, rows
        The control cells, and which of them have counts.
    embedded : (n, E)
        Embeddings of those.
    columns
        Of the training cells; contexts are told apart where the cells have that column.
    drug, dose, smiles
        What is written beside the cells.
    feature : (F,)
        Of the compound.
    """
    x = fitted.space.coordinates(embedded)
    own = np.asarray(log_normalised(cells.counts[rows])[:, fitted.genes].todense(), dtype=np.float64)
    obs = cells.obs.iloc[rows].copy()
    groups = obs[columns.by].astype(str).to_numpy() if columns.by in obs else np.full(len(rows), "")
    steps, change = np.zeros_like(x), np.zeros_like(own)
    for group in sorted(set(groups)):
        there = groups == group
        steps[there], change[there] = fitted.predict(x[there], feature, dose)
    obs["drug"], obs["dose"], obs["smiles"] = drug, dose, smiles
    genes = cells.spec.genes
    assert genes is not None
    var = pd.DataFrame({"change": change.mean(0)}, index=[genes[i] for i in fitted.genes])
    found = anndata.AnnData(np.maximum(own + change, 0).astype(np.float32), obs=obs, var=var)
    found.layers["control"] = own.astype(np.float32)
    found.obsm["X_cellfm"] = fitted.space.moved(embedded, steps).astype(np.float32)
    found.obsm["X_cellfm_control"] = embedded
    seen = sorted({float(one * fitted.middle) for one in fitted.shift.seen.doses})
    found.uns["cellfm_chem"] = {"drug": drug, "dose": dose, "unit": columns.unit, "doses_seen": seen}
    return found
