"""A prepared store: cells of many sources, checked, compressed, and ready to be read in any order.

    STORE/manifest.jsonl          the store and its sources, see store_manifest.py
    STORE/genes.txt               gene symbols, in the order of the store
    STORE/shards/00000-000.cells  counts: number of the source, number of the shard
    STORE/obs/00000.h5            annotations of the cells of a source

Shapes: n cells of the store, G genes of the store, S shards.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import union_categoricals

from cellfm_torch.data import store_manifest
from cellfm_torch.data.source import SOURCE_COLUMN
from cellfm_torch.data.sources.probe import look_at
from cellfm_torch.data.store_codec import Damaged
from cellfm_torch.data.store_shard import file_sha256
from cellfm_torch.errors import UserError, shortened
from cellfm_torch.files import check_inside


def is_store(path: object) -> bool:
    """Whether a path is a prepared store."""
    return isinstance(path, str | Path) and (Path(path).expanduser() / store_manifest.NAME).is_file()


@dataclass(frozen=True)
class Shard:
    """One file of cells.

    Attributes
    ----------
    path : Path
    cells : int
    sha256 : str
    source : int
        Position of its source among :attr:`Store.sources`.
    """

    path: Path
    cells: int
    sha256: str
    source: int


class Store:
    """A prepared store, open for reading.

    Parameters
    ----------
    path
        Its folder.
    skip_damaged
        Leave out the cells of shards that are damaged, all of which are read to find them; otherwise a damaged shard
        is an error when it is met.

    Attributes
    ----------
    path : Path
    header : dict
        What the store was made with.
    sources : list of dict
        One entry per source, in the order of the cells.
    genes : tuple of str
        Symbols, in the order of the store.
    shards : list of Shard
    skipped : list of str
        Damage of the shards left out.

    Raises
    ------
    UserError
        If the folder is no store, holds no cells, or its lists do not fit together.
    """

    def __init__(self, path: str | Path, *, skip_damaged: bool = False) -> None:
        self.path = Path(path).expanduser()
        entries = store_manifest.read(self.path)
        self.header = entries[0]
        self.sources = sorted((e for e in entries if e["kind"] == "source"), key=lambda entry: entry["number"])
        self.genes = self._read_genes()
        self._check_synonyms()
        self.shards = [
            Shard(self.path / "shards" / shard["file"], shard["cells"], shard["sha256"], i)
            for i, source in enumerate(self.sources)
            for shard in source["shards"]
        ]
        annotations = (self.path / "obs" / source["obs"] for source in self.sources)
        check_inside((self.path / "genes.txt", *(shard.path for shard in self.shards), *annotations), self.path)
        self._looked_at: set[Path] = set()
        self.skipped: list[str] = []
        self._kept = np.ones(sum(shard.cells for shard in self.shards), dtype=bool) if skip_damaged else None
        if skip_damaged:
            self._skip()
        if not len(self):
            raise UserError(f"{self.path}: holds no cells yet: add some with cellfm prepare")

    def _read_genes(self) -> tuple[str, ...]:
        path = self.path / "genes.txt"
        text = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(text).hexdigest() != self.header["genes_sha256"]:
            raise UserError(f"{path}: is not the gene list that the store was made with: restore it from a copy")
        return tuple(text.decode().split())

    def _check_synonyms(self) -> None:
        """Refuse synonyms that are no genes of the store, and sources that name another number of them."""
        among = self.header["synonyms"]
        digits = 2 * -(-len(among) // 8)
        if not set(among) <= set(self.genes) or any(len(source["synonyms"]) != digits for source in self.sources):
            manifest = self.path / store_manifest.NAME
            raise UserError(f"{manifest}: synonyms are not those of the store's genes: restore it from a copy")

    def _skip(self) -> None:
        assert self._kept is not None
        sound, start = [], 0
        for shard in self.shards:
            if problem := damage(shard):
                self.skipped.append(problem)
                self._kept[start : start + shard.cells] = False
            else:
                sound.append(shard)
            start += shard.cells
        self.shards = sound

    def __len__(self) -> int:
        return sum(shard.cells for shard in self.shards)

    @cached_property
    def source_of_cell(self) -> pd.Categorical:
        """The file each cell is from, (n,)."""
        codes = np.repeat([shard.source for shard in self.shards], [shard.cells for shard in self.shards])
        names = [Path(source["source"]).name for source in self.sources]
        if len(set(names)) < len(names):
            names = [source["source"] for source in self.sources]
        return pd.Categorical.from_codes(codes.astype(np.min_scalar_type(max(codes.max(initial=0), 1))), names)

    @cached_property
    def columns(self) -> list[str]:
        """Names of the annotations that any source has."""
        return list(dict.fromkeys(name for source in self.sources for name in source["obs_columns"]))

    def column(self, name: str) -> Any:
        """Return one annotation of all cells, (n,): categories of text, or numbers.

        Raises
        ------
        KeyError
            If no source has it.
        """
        if name == SOURCE_COLUMN and name not in self.columns:
            return self.source_of_cell
        if name not in self.columns:
            raise KeyError(name)
        there = [name in source["obs_columns"] for source in self.sources]
        parts = [
            pd.Series(self.read_obs(i, name) if there[i] else np.full(source["cells"], np.nan))
            for i, source in enumerate(self.sources)
        ]
        joined = join_columns(parts)
        return joined if self._kept is None else joined[self._kept]

    def read_obs(self, source: int, name: str) -> Any:
        """Return an annotation of the cells of a source, as AnnData would."""
        path = self.path / "obs" / self.sources[source]["obs"]
        try:
            if path not in self._looked_at:  # a damaged file can make HDF5 loop for ever
                look_at(path)
                self._looked_at.add(path)
            with h5py.File(path) as file:
                return anndata.io.read_elem(file["obs"][name])
        except Exception as error:  # whatever a damaged part makes h5py or anndata raise
            raise UserError(f"{path}: is missing or damaged ({shortened(error)}): restore it from a copy") from None

    @cached_property
    def obs(self) -> pd.DataFrame:
        """All annotations, n rows, numbered; names of cells are :meth:`names`."""
        table = pd.DataFrame({name: self.column(name) for name in self.columns})
        return table if SOURCE_COLUMN in table else table.assign(**{SOURCE_COLUMN: self.source_of_cell})

    def names(self) -> NDArray[np.object_]:
        """Return the names (barcodes) of all cells, (n,)."""
        names = []
        for i, source in enumerate(self.sources):
            index = source["obs_index"]
            names.append(np.asarray(self.read_obs(i, index), dtype=object))
        joined = np.concatenate(names)
        return joined if self._kept is None else joined[self._kept]


def join_columns(parts: list[pd.Series]) -> Any:
    """Lay columns end to end: as numbers where all are numbers (NaN where there is none), otherwise as categories."""
    if all(pd.api.types.is_numeric_dtype(part.dtype) for part in parts):
        return np.concatenate([part.to_numpy() for part in parts])
    # Files, numbers and pandas 3 have several types for texts, and only one type is joined.
    kept = [part.astype("category") for part in parts]
    texts = [part.cat.rename_categories(part.cat.categories.astype(str).astype(object)) for part in kept]
    return union_categoricals(texts, sort_categories=True)


def damage(shard: Shard) -> str | None:
    """Return what is wrong with a shard, or None; reads all of it."""
    try:
        return None if file_sha256(shard.path) == shard.sha256 else f"{shard.path}: its contents have changed"
    except Damaged as problem:
        return f"{shard.path}: {problem}"
