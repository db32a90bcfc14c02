"""What a backbone returns, the same for every model.

Shapes: B cells, N genes of all cells together, R <= N genes that were decoded, P prefix tokens per cell, D width,
C width of the cell embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Encoding:
    """What the encoder makes of a batch.

    Attributes
    ----------
    cell : (B, C)
        The cell's embedding.
    genes : (N, D)
        Encodings of the gene tokens, in the order of the batch.
    prefix : (B, P, D)
        Encodings of the prefix tokens, cls first.
    gene_embedding : (N, D)
        Rows of the gene embedding that went in, without value or context.
    """

    cell: Tensor
    genes: Tensor
    prefix: Tensor
    gene_embedding: Tensor


@dataclass
class Prediction:
    """Expression as the decoders see it, in the units of ``CellBatch.values``.

    Attributes
    ----------
    by_gene, by_cell : (R,) or None
        Value of each gene from its own token, and from the cell's embedding.
    expressed_by_gene, expressed_by_cell : (R,) or None
        Probability that the gene is expressed at all; None without such heads.
    expression : (B, G) or None
        All genes of the vocabulary, for models that predict them all at once.
    encoding
        What the decoders read.
    rows : (R,) int64 or None
        Which genes of the batch were decoded; None: all of them, R = N.
    """

    by_gene: Tensor | None
    by_cell: Tensor | None
    expressed_by_gene: Tensor | None
    expressed_by_cell: Tensor | None
    expression: Tensor | None
    encoding: Encoding
    rows: Tensor | None = None
