"""A prepared store seen over a model's vocabulary.

Shapes: n cells kept, m cells of the store, r rows asked for, K blocks of the store, G genes of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.data import counts as ops
from cellfm_torch.data import store_codec
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.store import Store
from cellfm_torch.data.store_codec import Damaged
from cellfm_torch.data.store_genes import Lookups, lookup_name
from cellfm_torch.data.store_shard import block_starts, read_blocks, read_index
from cellfm_torch.data.table import Rows
from cellfm_torch.errors import UserError


class StoreTable:
    """Cells of a store as batches are made from them (:class:`~cellfm_torch.data.table.CellTable`).

    In memory are a few bytes per cell (its number of genes; its total where that is beyond 1e5 counts) and per block.

    Parameters
    ----------
    store
        Open for reading.
    vocab
        The model's genes.
    min_genes, max_genes
        Cells with fewer or more expressed genes of the vocabulary are left out; None for no upper limit.
    most_counts
        Cells with more counts are scaled down to this number.
    block_size
        Cells that stay together in a shuffle, at least those that were compressed together.

    Attributes
    ----------
    rows : (n,) int64 or None
        Rows of the store that are kept; None for all.

    Raises
    ------
    UserError
        If a shard is damaged, no gene of the store is in the vocabulary, or no cell is kept.
    """

    def __init__(
        self,
        store: Store,
        vocab: GeneVocab,
        *,
        min_genes: int = 0,
        max_genes: int | None = None,
        most_counts: float = ops.MOST_COUNTS,
        block_size: int = 1,
    ) -> None:
        self.store = store
        self.most_counts = most_counts
        self.num_genes = len(vocab)
        lookups = Lookups(store.genes, store.header["synonyms"], vocab)
        self._lookups = [lookups.of(source["synonyms"]) for source in store.sources]
        if not any((lookup >= 0).any() for lookup, _ in self._lookups):
            raise UserError(
                f"{store.path}: none of its {len(store.genes):,} genes (such as {store.genes[0]}) is in the vocabulary "
                f"(such as {vocab.symbols[0]}): it was prepared for other models"
            )
        lengths = self._open()
        kept = lengths >= min_genes
        if max_genes is not None:
            kept &= lengths <= max_genes
        if not kept.any():
            raise UserError(
                f"{store.path}: none of its {len(kept):,} cells has the number of genes asked for: change "
                "data.min_genes or data.max_genes"
            )
        self.rows = None if kept.all() else np.flatnonzero(kept)
        self.lengths = lengths if self.rows is None else lengths[self.rows]
        joined = max(1, block_size // store.header["block_cells"])
        first = np.append(self._first[:-1][::joined], self._first[-1])
        self.blocks = first if self.rows is None else np.unique(np.searchsorted(self.rows, first))

    def _open(self) -> NDArray[np.uint16]:
        """Read the indices of all shards; returns the genes of each cell of the store over the vocabulary, (m,)."""
        names = {id(lookup): lookup_name(lookup) for lookup, _ in self._lookups}
        shard: list[NDArray[Any]] = []
        begin, end, checksum, size, lengths = shard[:], shard[:], shard[:], shard[:], shard[:]
        deep_rows, deep_divisors, first = shard[:], shard[:], 0
        for i, one in enumerate(self.store.shards):
            try:
                index = read_index(one.path, one.cells)
            except Damaged as problem:
                raise self._damaged(i, str(problem)) from None
            shard.append(np.full(len(index["ends"]), i, dtype=np.int32))
            begin.append(block_starts(index["ends"]))
            end.append(index["ends"].astype(np.int64))
            checksum.append(index["checksums"])
            size.append(index["sizes"])
            divisors = np.maximum(1.0, index["totals"] / self.most_counts)
            deep = np.flatnonzero(divisors > 1)
            # The numbers of genes in the index are those after the published rescale.
            as_published = self.most_counts == ops.MOST_COUNTS or index["totals"].max(initial=0) <= ops.MOST_COUNTS
            deep_rows.append(deep + first)
            deep_divisors.append(divisors[deep])
            first += one.cells
            name = names[id(self._lookups[one.source][0])]
            lengths.append(index[name] if name in index and as_published else self._count(i, index, divisors))
        self._shard, self._begin, self._end = map(np.concatenate, (shard, begin, end))
        self._checksum = np.concatenate(checksum)
        self._first = np.concatenate([[0], np.cumsum(np.concatenate(size), dtype=np.int64)])  # (K + 1,) rows
        self._deep_rows, self._deep_divisors = np.concatenate(deep_rows), np.concatenate(deep_divisors)
        return np.concatenate(lengths)

    def _count(self, shard: int, index: dict[str, NDArray[Any]], divisors: NDArray[np.float64]) -> NDArray[np.uint16]:
        """Count the genes of cells over a vocabulary that the shard has no numbers of."""
        ends = np.asarray(index["ends"], dtype=np.int64)
        source = self.store.shards[shard].source
        same = np.arange(len(self.store.genes), dtype=np.int32)
        none = np.zeros(len(same), dtype=bool)
        found, first = [], 0
        for i in range(len(ends)):
            own = slice(i, i + 1)
            try:
                block = read_blocks(
                    self.store.shards[shard].path, block_starts(ends)[own], ends[own], index["checksums"][own]
                )[0]
            except Damaged as problem:
                raise self._damaged(shard, str(problem)) from None
            cells = int(index["sizes"][i])
            if len(block.lengths) != cells:
                raise self._damaged(shard, f"block {i} is of other cells")
            offsets = np.concatenate([[0], np.cumsum(block.lengths, dtype=np.int64)])
            genes, counts = np.empty(offsets[-1], dtype=np.int32), np.empty(offsets[-1], dtype=np.int32)
            if not store_codec.decode(*block, np.arange(cells), np.ones(cells), same, none, offsets, genes, counts):
                raise self._damaged(shard, f"block {i} does not decode")
            own_divisors = divisors[first : first + cells]
            found.append(store_codec.count_expressed(offsets, genes, counts, own_divisors, *self._lookups[source]))
            first += cells
        return np.concatenate(found).astype(np.uint16)

    def _damaged(self, shard: int, problem: str) -> UserError:
        return UserError(
            f"{self.store.shards[shard].path}: is damaged ({problem}): restore it from a copy, prepare its source "
            "again, or leave its cells out with data.skip_damaged=true"
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, rows: NDArray[np.int64]) -> Rows:
        """Return the cells of ascending row numbers (r,).

        Raises
        ------
        UserError
            If a shard is damaged.
        """
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows], dtype=np.int64)])
        genes, counts = np.empty(offsets[-1], dtype=np.int32), np.empty(offsets[-1], dtype=np.int32)
        stored = rows if self.rows is None else self.rows[rows]
        block = np.searchsorted(self._first, stored, side="right") - 1  # (r,)
        wanted = stored - self._first[block]
        divisors = np.ones(len(rows))
        deep = np.searchsorted(self._deep_rows, stored)
        found = np.flatnonzero(np.append(self._deep_rows, -1)[deep] == stored)
        divisors[found] = self._deep_divisors[deep[found]]

        used, starts = np.unique(block, return_index=True)
        stops = np.append(starts[1:], len(rows))
        by_shard = np.flatnonzero(np.diff(self._shard[used], prepend=-1, append=-1))
        for a, b in zip(by_shard[:-1], by_shard[1:], strict=True):
            own = used[a:b]
            shard = int(self._shard[own[0]])
            lookup = self._lookups[self.store.shards[shard].source]
            try:
                blocks = read_blocks(
                    self.store.shards[shard].path, self._begin[own], self._end[own], self._checksum[own]
                )
                for i, one in zip(range(a, b), blocks, strict=True):
                    cells = slice(starts[i], stops[i])
                    if not store_codec.decode(
                        *one,
                        wanted[cells],
                        divisors[cells],
                        *lookup,
                        offsets[cells.start : cells.stop + 1],
                        genes,
                        counts,
                    ):
                        raise Damaged(f"block {used[i]} does not decode")
            except Damaged as problem:
                raise self._damaged(shard, str(problem)) from None
        return Rows(offsets, genes, counts)
