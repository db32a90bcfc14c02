"""Compare two conditions of annotated cells: enrichment over donors on the embedding, and on PCA beside it.

Shapes: B cells of the AnnData, b of them that take part.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch import __version__
from cellfm_torch.analysis.abundance import Design, design, enrichment, signed_share, swapped
from cellfm_torch.analysis.columns import ANNDATA, column, counts_of, finite_rows, stored_embedding
from cellfm_torch.analysis.expression import log_normalised, pca
from cellfm_torch.analysis.hits import hit_groups, name_neighbourhoods
from cellfm_torch.analysis.neighbourhoods import neighbourhoods
from cellfm_torch.errors import UserError, examples, nearest

CONTROLS = ("ctrl", "control", "controls", "healthy", "normal", "untreated", "unstimulated", "vehicle", "dmso", "wt")
FEW_DONORS = 4
LEAST_K, CELLS_PER_SAMPLE = 30, 5


@dataclass(frozen=True)
class Found:
    """What one embedding says.

    Attributes
    ----------
    embedding : (b, C)
    tested
        One row per neighbourhood, see :func:`~cellfm_torch.analysis.abundance.enrichment`, with ``type`` and
        ``type_share``; ``cell`` is the name of the cell in the middle.
    groups
        Hits by type and direction with their genes, see :func:`~cellfm_torch.analysis.hits.hit_groups`.
    shade : (b,)
        Mean log2 odds of the hits a cell lies in, 0 where in none.
    control_hits
        Hits after swapping the conditions of every other donor, which should be none; None where donors are not
        paired.
    """

    embedding: NDArray[np.float32]
    tested: pd.DataFrame
    groups: pd.DataFrame
    shade: NDArray[np.float64]
    control_hits: int | None


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found: by name of the embedding, for the cells (B,) that were `kept`, in words (`says`)."""

    case: str
    control: str
    kept: NDArray[np.bool_]
    found: dict[str, Found]
    says: list[str]


def compare(
    adata: Any,
    *,
    condition: str,
    donor: str,
    case: str | None = None,
    control: str | None = None,
    label: str | None = None,
    layer: str | None = None,
    k: int | None = None,
    share: float = 0.1,
    fdr: float = 0.1,
    seed: int = 0,
    source: str = ANNDATA,
) -> Comparison:
    """Find neighbourhoods of cells in which one of two conditions is enriched, tested over donors.

    Adds ``obs["cellfm_enrichment"]`` (mean log2 odds of the hits a cell lies in, 0 in none) and
    ``uns["cellfm_compare"]``.

    Parameters
    ----------
    adata
        With ``obsm["X_cellfm"]``, of which cells with NaN take no part.
    condition, donor
        Columns of obs.
    case, control
        The two values compared; they may be left out where there are only two.
    label
        Column of obs with cell types, to name the hits; None: ``cellfm_label`` where it is there.
    layer
        Matrix of counts, for PCA and genes: None for X, ``"raw"``, or the name of a layer.
    k
        Cells of a neighbourhood besides the one in its middle; None: five for each sample, a donor in a condition, and
        30 at least.
    share
        Of the cells around which one is laid, see :func:`~cellfm_torch.analysis.neighbourhoods.neighbourhoods`.
    fdr
        False discovery rate of the hits.
    seed
        Of the sample of cells and PCA.
    source
        Name of the cells in messages.

    Raises
    ------
    UserError
        If a column or the embedding is missing, it is not clear which conditions are meant, or donors are too few.
    """
    if not 0 < fdr < 1:
        raise UserError(f"fdr={fdr}: must be between 0 and 1")
    case, control, plan = planned(adata, condition, donor, case, control, source)
    labels = _labels(adata, label, source)
    embedding = stored_embedding(adata, source)
    kept = finite_rows(embedding, source) & (plan.sample_of_cell >= 0)
    conditions, donors = (column(adata, name, "", source)[kept] for name in (condition, donor))
    plan = design(conditions, donors, case=case, control=control)
    k = max(LEAST_K, CELLS_PER_SAMPLE * (len(plan.case) + len(plan.control))) if k is None else k
    expression = log_normalised(counts_of(adata, layer, source)[kept])
    genes = list((adata.raw if layer == "raw" else adata).var_names)
    names, found = adata.obs_names[kept], {}
    for name, x in (("CellFM", embedding[kept]), ("PCA", pca(expression, seed=seed))):
        areas = neighbourhoods(x, k=k, share=share, seed=seed)
        tested = pd.concat([enrichment(areas, plan), name_neighbourhoods(areas, labels[kept])], axis=1)
        other = swapped(plan)
        found[name] = Found(
            x,
            tested.assign(cell=names[tested["cell"]]),
            hit_groups(areas, tested, expression, genes, labels[kept], fdr=fdr),
            signed_share(areas, tested, fdr),
            None if other is None else int((enrichment(areas, other)["fdr"] <= fdr).sum()),
        )
    says = _words(plan, found, case, control, fdr)
    shade = np.zeros(adata.n_obs)
    shade[kept] = found["CellFM"].shade
    adata.obs["cellfm_enrichment"] = shade
    options = {"condition": condition, "donor": donor, "k": k, "share": share, "fdr": fdr, "seed": seed}
    about = {"version": __version__, "case": case, "control": control, "paired": plan.paired, "donors": plan.donors}
    adata.uns["cellfm_compare"] = json.dumps(options | about | {"says": says})
    return Comparison(case, control, kept, found, says)


def planned(
    adata: Any, condition: str, donor: str, case: str | None, control: str | None, source: str = ANNDATA
) -> tuple[str, str, Design]:
    """Return (case, control, design over all cells), or say what is wrong with the columns.

    Raises
    ------
    UserError
        As :func:`compare`.
    """
    conditions = column(adata, condition, "condition", source)
    donors = column(adata, donor, "donor", source)
    case, control = two_conditions(conditions, case, control, condition)
    return case, control, design(conditions, donors, case=case, control=control)


def two_conditions(conditions: NDArray[Any], case: str | None, control: str | None, name: str) -> tuple[str, str]:
    """Return (case, control).

    Raises
    ------
    UserError
        If it is not clear which two are compared, or one does not occur.
    """
    there = sorted(set(conditions))
    for option, given in (("case", case), ("control", control)):
        if given is not None and str(given) not in there:
            raise UserError(
                f"{option}={given}: no such value in {name} (it has {examples(there, most=12)}){nearest(given, there)}"
            )
    if case is not None and control is not None:
        if case == control:
            raise UserError(f"case and control are both '{case}'; give two conditions")
        return str(case), str(control)
    if len(there) != 2:
        raise UserError(
            f"condition={name}: has {len(there)} values ({examples(there, most=12)}), two are compared: pick them with "
            "case=VALUE and control=VALUE"
        )
    if control is None:
        usual = [value for value in there if value.lower() in CONTROLS]
        control = next(v for v in there if v != case) if case is not None else (usual or there)[0]
    return next(value for value in there if value != control), str(control)


def _labels(adata: Any, name: str | None, source: str) -> NDArray[np.object_]:
    if name is None and "cellfm_label" not in adata.obs:
        return np.full(adata.n_obs, "all cells", dtype=object)
    return column(adata, name or "cellfm_label", "label", source, gaps=True)


def _words(plan: Design, found: dict[str, Found], case: str, control: str, fdr: float) -> list[str]:
    """Say what was tested and what came out."""
    kind = "each compared with itself" if plan.paired else f"{len(plan.case)} {case}, {len(plan.control)} {control}"
    said = [f"{case} against {control}, tested over {len(plan.donors)} donors, {kind}; FDR {fdr:g}"]
    if plan.left_out:
        said.append(f"left out, seen in one condition only: {examples(plan.left_out, most=5)}")
    if len(plan.donors) < FEW_DONORS:
        said.append(
            f"{len(plan.donors)} donors bound the power and what may be concluded: how much donors differ is estimated "
            f"with {plan.freedom} degree{'s' if plan.freedom > 1 else ''} of freedom, helped by other areas"
        )
    for name, one in found.items():
        hits = one.tested[one.tested["fdr"] <= fdr]
        more = int((hits["log2_odds"] > 0).sum())
        text = f"{name}: {len(hits)} of {len(one.tested)} neighbourhoods differ"
        if len(hits):
            text += f", {more} with more {case}, {len(hits) - more} with less"
        if one.control_hits is not None:
            text += f"; {one.control_hits} with the conditions swapped in every other donor (should be none)"
        said.append(text)
    return said
