"""Where in the table of its genes a file has their names.

Shapes: V genes (variables) of a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.data.gene_match import guess_species
from cellfm_torch.data.gene_table import find_table
from cellfm_torch.data.genes import GeneMatch, GeneVocab
from cellfm_torch.data.options import GeneOptions
from cellfm_torch.errors import UserError, examples, nearest

BETTER = 1.1
"""A column is read instead of ``var_names`` where it has so many times as many genes of the vocabulary."""

FOREIGN = 0.1
"""Files are of another species where names look so and fewer than this share is found."""


class FoundGenes(NamedTuple):
    """Genes of a file, and the column that names them; None for ``var_names``."""

    match: GeneMatch
    column: str | None


def find_genes(var: pd.DataFrame, vocab: GeneVocab, options: GeneOptions, *, file: Path) -> FoundGenes:
    """Find the genes of a file in a vocabulary, by the column of names that most of them are found by.

    Raises
    ------
    UserError
        If a column was named that is not there, the genes are of another species, or none is in the vocabulary.
    """
    table = find_table(options.table)
    if options.column is not None and options.column not in var:
        there = [str(name) for name in var.columns]
        raise UserError(
            f"{file}: var has no column '{options.column}' (it has {examples(there, most=20) or 'none'})"
            f"{nearest(options.column, there)}"
        )
    tried = [
        FoundGenes(vocab.match(names, rule=options.match, table=table), column)
        for column, names in _candidates(var, options.column)
    ]
    best = tried[0]  # var_names are always there
    for found in tried[1:]:
        if _distinct(found.match) > BETTER * _distinct(best.match):
            best = found
    few = len(best.match.matched) < FOREIGN * len(best.match.names)
    if few and (species := next(filter(None, (guess_species(found.match.names) for found in tried)), None)):
        names = examples(best.match.names)
        raise UserError(
            f"{file}: its genes look like those of {species} ({names}), the model's are human: map them to their "
            "human orthologues first"
        )
    if not best.match.matched:
        raise _no_gene(best.match, var, vocab, options, file=file)
    return best


def _candidates(var: pd.DataFrame, column: str | None) -> Iterator[tuple[str | None, pd.Index]]:
    if column is not None:
        yield column, pd.Index(var[column].astype(str))
        return
    yield None, var.index.astype(str)
    for name in var.columns:
        if pd.api.types.is_string_dtype(var[name]) or isinstance(var[name].dtype, pd.CategoricalDtype):
            names = pd.Index(var[name].astype(str))
            if names.nunique() > 1 or len(names) == 1:
                yield str(name), names


def _distinct(match: GeneMatch) -> int:
    return len(np.unique(match.rows[match.rows >= 0]))


def _no_gene(match: GeneMatch, var: pd.DataFrame, vocab: GeneVocab, options: GeneOptions, *, file: Path) -> UserError:
    """Return the error for names foreign to the vocabulary, with the option that would do where there is one."""
    shown = examples(match.names) or "it has no genes"
    advice = f"symbols (such as {vocab.symbols[0]}) or Ensembl ids are expected, in var_names or genes.column"
    wider = GeneOptions(match="all", table=options.table)
    if wider != options:
        try:
            found = find_genes(var, vocab, wider, file=file)
        except UserError:
            pass
        else:
            number = f"({len(found.match.matched):,} genes match)"
            named = f"leave genes.column={options.column} out" if found.column is None else None
            named = named or f"use genes.column={found.column}"
            advice = f"{named} {number}" if options.column else f"use genes.match=all {number}"
    return UserError(f"{file}: none of its {len(match.names):,} gene names ({shown}) is in the vocabulary: {advice}")


def is_expression(var: pd.DataFrame) -> NDArray[np.bool_]:
    """Which rows of a table are genes rather than proteins, peaks or hashtags measured with them, (V,)."""
    kinds = var["feature_types"].astype(str).to_numpy() if "feature_types" in var else np.array([])
    expression = kinds == "Gene Expression"
    return expression if expression.any() else np.ones(len(var), dtype=bool)
