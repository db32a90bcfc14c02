"""Which genes tell groups of cells apart: the table, from weights and values of their cells.

Shapes: B cells, G vocabulary, C groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from cellfm_torch.analysis.markers import benjamini_hochberg
from cellfm_torch.analysis.ranks import RankTest, rank_sums
from cellfm_torch.errors import UserError, nearest

LEAST_EXPRESSING = 10
"""Cells that express a gene below which it is not tested."""

WEIGHTS = "cellfm_cls"
"""Name in ``layers`` of the weights for cls."""


@dataclass(frozen=True)
class SpecificGenes:
    """What tells groups of cells apart.

    Attributes
    ----------
    table : DataFrame
        A row per group and gene, by group and falling `auc`:

        - ``group``, ``gene``, ``ensembl_id``, ``biotype``;
        - ``weight``, ``weight_rest``: mean over cells of the gene's weight for cls, as a multiple of a fair share, 0
          where it is not expressed; ``log2_ratio`` of the two;
        - ``expressing``: cells of the group that express it; ``share``, ``share_rest``: their share there and in the
          rest;
        - ``auc``: effect size, probability that a cell of the group gives the gene more weight than one of the rest
          (0.5: no difference), with ``p`` and ``fdr`` of the rank-sum test (Benjamini-Hochberg within the group). Genes
          that fewer than ten cells of all groups express are not tested, NaN: the test is not exact for so few;
        - ``auc_expressed``, ``fdr_expressed``: the same among cells that express the gene, which says what the model
          adds to expression;
        - ``expression_auc``, ``expression_fdr``: the same test on log1p(CP10K), as scanpy's rank_genes_groups.
    cells : AnnData
        The cells it was found in, ``X`` their log1p(CP10K) and ``layers["cellfm_cls"]`` the weights.
    by : str
        Column of ``obs`` with the groups.
    """

    table: pd.DataFrame = field(repr=False)
    cells: AnnData = field(repr=False)
    by: str

    def top(self, group: str, number: int = 20, *, biotype: str | None = None, fdr: float = 0.05) -> pd.DataFrame:
        """Return the genes highest in a group.

        Parameters
        ----------
        group
            Name of the group.
        number
            How many.
        biotype
            Only genes of this kind, such as ``"lncRNA"``.
        fdr
            Highest false discovery rate.

        Raises
        ------
        UserError
            If there is no such group or biotype.
        """
        groups = list(dict.fromkeys(self.table["group"]))
        if group not in groups:
            raise UserError(f"group={group}: there are {', '.join(groups)}{nearest(group, groups)}")
        rows = self.table[self.table["group"] == group]
        if biotype is not None:
            rows = rows[(rows["biotype"] == check_biotype(biotype, self.table["biotype"])).to_numpy()]
        return rows[(rows["auc"] > 0.5) & (rows["fdr"] <= fdr)].head(number).reset_index(drop=True)

    def agreement(self, number: int = 100) -> pd.DataFrame:
        """Return per group how far ranks by weight and by expression agree.

        Returns
        -------
        DataFrame by group: ``spearman`` (of the two effect sizes) and ``overlap`` (share of the first `number` genes
        that both have).
        """
        rows = {}
        for group, table in self.table.groupby("group", sort=False):
            first = set(table.nlargest(number, "auc")["gene"])
            both = first & set(table.nlargest(number, "expression_auc")["gene"])
            rank = float(table["auc"].corr(table["expression_auc"], method="spearman"))
            rows[group] = {"spearman": rank, "overlap": len(both) / max(len(first), 1)}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("group")


def check_biotype(biotype: str, known: Iterable[str]) -> str:
    """Return a biotype that is known.

    Raises
    ------
    UserError
        With the nearest one.
    """
    there = sorted(set(known))
    if biotype not in there:
        raise UserError(f"biotype={biotype}: genes here are {', '.join(there)}{nearest(biotype, there)}")
    return biotype


def _fdr(p: NDArray[np.float64], tested: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return false discovery rates among the genes that are tested; NaN for others."""
    found = np.full(len(p), np.nan)
    found[tested] = benjamini_hochberg(p[tested])
    return found


def specificity(cells: AnnData, codes: NDArray[np.integer], groups: Sequence[str]) -> pd.DataFrame:
    """Return the table of :class:`SpecificGenes` for cells that have weights; unexpressed genes are not in it."""
    there = np.flatnonzero(cells.X.getnnz(0))
    weights, values = cells.layers[WEIGHTS][:, there], cells.X[:, there]
    number = len(groups)
    tests: dict[str, RankTest] = {
        "": rank_sums(weights, codes, number),
        "_expressed": rank_sums(weights, codes, number, stored_only=True),
        "expression_": rank_sums(values, codes, number),
    }
    member = sp.csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(number, len(codes)))
    sizes = np.bincount(codes, minlength=number)[:, None].astype(np.float64)
    sums, expressing = (member @ weights).toarray(), (member @ (values > 0)).toarray()
    means, shares = sums / sizes, expressing / sizes
    rest = len(codes) - sizes
    means_rest, shares_rest = (sums.sum(0) - sums) / rest, (expressing.sum(0) - expressing) / rest
    often, var = expressing.sum(0) >= LEAST_EXPRESSING, cells.var.iloc[there]
    tables = []
    for i, group in enumerate(groups):
        table = pd.DataFrame(
            {
                "group": group,
                "gene": var.index.to_numpy(),
                "ensembl_id": var["ensembl_id"].to_numpy(),
                "biotype": var["biotype"].astype(str).to_numpy(),
                "weight": means[i],
                "weight_rest": means_rest[i],
                "log2_ratio": np.log2((means[i] + 1e-3) / (means_rest[i] + 1e-3)),
                "auc": tests[""].auc[i],
                "p": np.where(often, tests[""].p[i], np.nan),
                "fdr": _fdr(tests[""].p[i], often),
                "auc_expressed": tests["_expressed"].auc[i],
                "fdr_expressed": _fdr(tests["_expressed"].p[i], often),
                "expressing": expressing[i].astype(np.int64),
                "share": shares[i],
                "share_rest": shares_rest[i],
                "expression_auc": tests["expression_"].auc[i],
                "expression_fdr": _fdr(tests["expression_"].p[i], often),
            }
        )
        tables.append(table.sort_values("auc", ascending=False, kind="stable"))
    return pd.concat(tables, ignore_index=True)
