"""What a model eats, as it tells the data module: genes, values, how many of them, how it was pretrained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Masking:
    """What pretraining by masked values does to a cell; the defaults are CellFM's.

    Parameters
    ----------
    fraction
        Share of the expressed genes that the loss asks for.
    hidden_share
        Share of the targets whose value is hidden.
    random_share
        Share of the targets that get the value of another gene of the cell.
    zero_fraction
        Share of the unexpressed genes that are targets too.
    least_total
        Cells with fewer counts are never downsampled.
    keep_expressed
        Downsampling leaves at least one count of each gene.
    """

    fraction: float = 0.2
    hidden_share: float = 0.8
    random_share: float = 0.0
    zero_fraction: float = 0.0
    least_total: int = 0
    keep_expressed: bool = True


@dataclass(frozen=True)
class InputSpec:
    """What a model eats; a data module prepares cells accordingly.

    Parameters
    ----------
    genes
        Gene symbols in the order of the model's embedding rows, or None where the model does not know them.
    first_id
        Row of ``genes[0]``: 1 for CellFM, whose row 0 is padding.
    value_transform
        How counts become values. ``"log1p_cp10k"``: log1p(count / read depth * 1e4), natural logarithm.
    expressed_only
        True: a cell's tokens are its expressed genes. False: unexpressed genes fill the cell up to `max_genes`.
    max_genes
        Most gene tokens per cell; None for no limit.
    read_depth
        The model reads the (input, target) read depths S and T.
    most_counts
        Cells with more counts are scaled down to this number and rounded; infinity: none are.
    target_depth
        Rule for T outside of training, such as ``"t4"`` (see :class:`~cellfm_torch.read_depth.TargetDepth`); None: T is
        S.
    masking
        How the model was pretrained.
    """

    genes: tuple[str, ...] | None
    first_id: int = 1
    value_transform: str = "log1p_cp10k"
    expressed_only: bool = True
    max_genes: int | None = 2048
    read_depth: bool = False
    most_counts: float = 1e5
    target_depth: str | None = None
    masking: Masking = field(default_factory=Masking)

    def sampling(self, max_genes: int | None) -> InputSpec:
        """Return the same with at most so many genes of a cell, drawn by its row; None: all, wherever the cell stands.

        A model that eats unexpressed genes too keeps its limit, up to which they are drawn.
        """
        return dataclasses.replace(self, max_genes=max_genes) if self.expressed_only else self
