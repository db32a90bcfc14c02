"""How files are read: the options that every command shares, checked once.

Each field of :class:`ReadOptions` is a ``data.`` option of the configuration, each of :class:`GeneOptions` a ``genes.``
option.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from cellfm_torch.errors import UserError, nearest

CountsKind = Literal["raw", "recover", "normalised"]
DuplicatesRule = Literal["sum", "unique"]
MatchRule = Literal["all", "exact"]


def _choice(name: str, word: str, kind: Any) -> None:
    if word not in (choices := get_args(kind)):
        raise UserError(f"{name}={word}: choose {' or '.join(choices)}{nearest(str(word), choices)}")


@dataclass(frozen=True, kw_only=True)
class GeneOptions:
    """How the genes of a file are found in a vocabulary.

    Attributes
    ----------
    match : "all" or "exact"
        ``"all"``: symbols, previous symbols, aliases and Ensembl ids. ``"exact"``: symbols as the vocabulary has them.
    duplicates : "sum" or "unique"
        Several genes of the file that are one of the vocabulary: add them up, or take the first.
    column : str, optional
        Column of ``var`` with gene names; None for the one that knows most genes, ``var_names`` where in doubt.
    table : str, optional
        Gene table made by ``cellfm genes build``; None for the user's own one where there is one, else the bundled one.
    """

    match: MatchRule = "all"
    duplicates: DuplicatesRule = "sum"
    column: str | None = None
    table: str | None = None

    def __post_init__(self) -> None:
        _choice("genes.match", self.match, MatchRule)
        _choice("genes.duplicates", self.duplicates, DuplicatesRule)


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How files are read, and which of their cells are kept.

    Attributes
    ----------
    layer : str, optional
        Which matrix holds the counts: None for ``X``, ``"raw"`` for ``raw.X``, else a name in ``layers``.
    counts : "raw", "recover" or "normalised"
        ``"raw"``: the matrix holds counts. ``"recover"``: it holds log-normalised values, whose counts are recovered.
        ``"normalised"``: it holds log1p values whose counts are lost; the model gets them as they are, relative to the
        genes it knows.
    genes : GeneOptions or mapping of its fields
    min_genes, max_genes : int, int or None
        Cells with fewer or more expressed genes of the vocabulary are dropped; None for no upper limit. 0 keeps cells
        without counts too, of which training makes no use. Published pretraining: 200 and 2,048.
    min_counts, max_counts : int or None
        Cells with fewer or more counts, over all genes of the file, are dropped.
    max_mito : float or None
        Cells with a larger share of counts in mitochondrial genes, in per cent, are dropped. Usual for blood: 5.
    most_counts : float or None
        Cells with more counts are scaled down to this number; None: the model's, or that of CellFM's published recipe.

    Raises
    ------
    UserError
        If an option is out of its range.
    """

    layer: str | None = None
    counts: CountsKind = "raw"
    genes: GeneOptions = field(default_factory=GeneOptions)
    min_genes: int = 10
    max_genes: int | None = None
    min_counts: int | None = None
    max_counts: int | None = None
    max_mito: float | None = None
    most_counts: float | None = None

    @property
    def limit(self) -> float:
        """Counts that cells are scaled down to; infinity where the numbers are no counts."""
        if self.counts == "normalised":
            return math.inf
        return 1e5 if self.most_counts is None else self.most_counts

    def __post_init__(self) -> None:
        if isinstance(self.genes, Mapping):
            object.__setattr__(self, "genes", GeneOptions(**self.genes))
        _choice("data.counts", self.counts, CountsKind)
        if self.min_genes < 0:
            raise UserError(f"data.min_genes={self.min_genes}: must be at least 0")
        if self.max_genes is not None and self.max_genes < max(self.min_genes, 1):
            raise UserError(
                f"data.max_genes={self.max_genes}: must be at least data.min_genes={self.min_genes}, or null"
            )
        least = max(self.min_counts or 0, 1)
        if self.min_counts is not None and self.min_counts < 0:
            raise UserError(f"data.min_counts={self.min_counts}: must be at least 0, or null")
        if self.max_counts is not None and self.max_counts < least:
            raise UserError(f"data.max_counts={self.max_counts}: must be at least {least:,}, or null")
        if self.most_counts is not None and not self.most_counts >= 1:
            raise UserError(f"data.most_counts={self.most_counts}: must be at least 1, or null")
        if self.max_mito is not None and not 0 <= self.max_mito <= 100:
            raise UserError(f"data.max_mito={self.max_mito}: must be a percentage between 0 and 100, or null")
