"""Which genes of a vocabulary a user means.

Shapes: M genes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.errors import UserError, examples, nearest
from cellfm_torch.model.loading import Backbone


def named_genes(model: Backbone, names: Sequence[str] | str, *, option: str = "gene_list") -> NDArray[np.int64]:
    """Return the positions of genes in a model's vocabulary (M,), in the order of the names; one name is a list of one.

    Names are symbols, Ensembl ids, previous symbols or aliases.

    Raises
    ------
    UserError
        If one is unknown, with the nearest name; or two mean the same gene.
    """
    symbols, names = model.input_spec.genes or (), [names] if isinstance(names, str) else list(names)
    match = GeneVocab(symbols, first_id=model.input_spec.first_id).match(names)
    if unknown := match.unmatched:
        hint = nearest(unknown[0].upper(), symbols)
        more = f" (and {len(unknown) - 1} more: {examples(unknown[1:])})" if len(unknown) > 1 else ""
        raise UserError(f"{option}: the model has no gene '{unknown[0]}'{hint}{more}")
    if match.duplicated:
        raise UserError(f"{option}: '{match.duplicated[0]}' is there twice, by this name or another: name it once")
    return match.rows
