"""The rows of a model's gene embedding, labelled.

Shapes: G vocabulary, D width.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfm_torch.data.gene_annotation import annotate_genes
from cellfm_torch.errors import UserError
from cellfm_torch.model.loading import Backbone

STATIC = "X_static"
"""Key in ``obsm`` of the embedding that knows no cells."""


def static_embeddings(model: Backbone) -> AnnData:
    """Return the gene embedding of a model, one observation per gene.

    Parameters
    ----------
    model
        The network.

    Returns
    -------
    AnnData
        Without a matrix. ``obs`` (G rows, named by symbol): ``ensembl_id`` and ``biotype``, see
        :func:`~cellfm_torch.data.gene_annotation.annotate_genes`; ``obsm["X_static"]``: (G, D) float32.

    Raises
    ------
    UserError
        If the model does not know its genes.
    """
    genes = model.input_spec.genes
    if genes is None:
        raise UserError("the model does not know which genes its rows stand for: give it a genes.txt in its folder")
    rows = model.static_genes.detach().float().cpu().numpy()
    return AnnData(obs=annotate_genes(genes), obsm={STATIC: np.array(rows)}, var=pd.DataFrame(index=[]))
