"""The genes of a store: of all vocabularies at once, ordered by how many cells express them.

A gene that one vocabulary has under an older symbol than another stands in a store under both. Which of them a source
names is kept with it, so that its cells are matched to a vocabulary as if they were read from the file.
Shapes: G genes of the store, g of them synonyms, V genes of a vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.data.gene_table import find_table
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.errors import UserError
from cellfm_torch.paths import VOCAB

MOST_GENES = 65_536
"""Numbers of genes are kept in two bytes."""


def store_genes(extra: str | None = None) -> tuple[str, ...]:
    """Return the symbols of all bundled vocabularies and of a file of one's own, in alphabetical order."""
    symbols = {s for path in VOCAB.glob("genes_*.txt") for s in GeneVocab.from_file(path).symbols}
    if extra is not None:
        symbols |= set(GeneVocab.from_file(extra).symbols)
    if len(symbols) > MOST_GENES:
        raise UserError(f"extra_genes={extra}: makes {len(symbols):,} genes, a store holds at most {MOST_GENES:,}")
    return tuple(sorted(symbols))


def synonyms(genes: Sequence[str]) -> list[str]:
    """Return the genes that another name among them stands for too, in their order."""
    table = find_table()
    numbers = np.array([table.find(gene)[0] for gene in genes])
    known = numbers[numbers >= 0]
    several = np.flatnonzero(np.bincount(known, minlength=1) > 1)
    return [gene for gene, one in zip(genes, np.isin(numbers, several), strict=True) if one]


def named(genes: Sequence[str], of: Sequence[str], rows: NDArray[np.integer]) -> str:
    """Return which synonyms a source names, as hexadecimal bits.

    Parameters
    ----------
    genes, of
        Those of the store (G,), and the synonyms among them (g,).
    rows
        Genes of the store that the source has; -1 for none.
    """
    there = {genes[i] for i in rows[rows >= 0]}
    return np.packbits(np.array([gene in there for gene in of], dtype=bool)).tobytes().hex()


class Lookups:
    """Where the genes of a store are in a vocabulary.

    Parameters
    ----------
    genes, of
        Those of the store (G,), and the synonyms among them (g,).
    vocab
        The model's genes, (V,).
    """

    def __init__(self, genes: Sequence[str], of: Sequence[str], vocab: GeneVocab) -> None:
        self._vocab = vocab
        self._at = {gene: i for i, gene in enumerate(genes)}
        self._synonyms = list(of)
        self._single = np.full(len(genes), -1, dtype=np.int32)
        self._match([gene for gene in genes if gene not in set(of)], self._single)
        self._made: dict[str, tuple[NDArray[np.int32], NDArray[np.bool_]]] = {}

    def _match(self, names: Iterable[str], rows: NDArray[np.int32]) -> None:
        names = list(names)
        rows[[self._at[name] for name in names]] = self._vocab.match(names).rows

    def of(self, bits: str) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Return the position of each gene of the store, or -1, (G,), and which positions several genes have, (V,).

        Parameters
        ----------
        bits
            What :func:`named` said of the source.
        """
        if bits not in self._made:
            there = np.unpackbits(np.frombuffer(bytes.fromhex(bits), dtype=np.uint8))[: len(self._synonyms)]
            lookup = self._single.copy()
            self._match((gene for gene, is_there in zip(self._synonyms, there, strict=True) if is_there), lookup)
            used = np.bincount(lookup[lookup >= 0], minlength=len(self._vocab))
            self._made[bits] = lookup, used > 1
        return self._made[bits]


def lookup_name(lookup: NDArray[np.int32]) -> str:
    """Return the name under which shards keep the number of expressed genes of a vocabulary."""
    return f"expressed_{hashlib.sha256(lookup.astype('<i4').tobytes()).hexdigest()[:16]}"
