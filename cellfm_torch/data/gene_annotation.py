"""What is known of the genes of a vocabulary: Ensembl id and biotype.

Shapes: G genes.
"""

from __future__ import annotations

import functools
import gzip
from collections.abc import Sequence

import pandas as pd

from cellfm_torch.data.gene_table import find_table
from cellfm_torch.paths import VOCAB

UNKNOWN = "unknown"
"""Biotype of a gene that the bundled table does not know."""


def annotate_genes(symbols: Sequence[str], *, table: str | None = None) -> pd.DataFrame:
    """Return a row for each gene, in the order given.

    Parameters
    ----------
    symbols : G gene symbols
    table
        Gene table with Ensembl ids; None: the user's own or the bundled one.

    Returns
    -------
    DataFrame of G rows, its index the symbols: ``ensembl_id`` (the first of several; empty where unknown) and
    ``biotype`` (as GENCODE names them since release 31, where long non-coding RNAs of all kinds are ``lncRNA``; all
    pseudogenes are ``pseudogene``; ``unknown`` for genes that the table does not know).
    """
    genes, biotypes = find_table(table), _biotypes()
    found = [genes.find(symbol)[0] for symbol in symbols]
    ids = [(genes.genes[at].ensembl or ("",))[0] if at >= 0 else "" for at in found]
    kinds = [biotypes.get(symbol, UNKNOWN) for symbol in symbols]
    return pd.DataFrame(
        {"ensembl_id": ids, "biotype": pd.Categorical(kinds)}, index=pd.Index(list(symbols), name="symbol")
    )


def known_biotypes() -> list[str]:
    """Return the biotypes that genes of the vocabularies have."""
    return sorted({*_biotypes().values(), UNKNOWN})


@functools.cache
def _biotypes() -> dict[str, str]:
    with gzip.open(VOCAB / "biotypes.tsv.gz", "rt", encoding="utf-8") as file:
        return dict(line.rstrip("\n").split("\t") for line in file)
