"""One source into shards of a prepared store.

Shapes: b cells of a block, G genes of the store, V genes of a vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.data import counts as ops
from cellfm_torch.data.fingerprint import checksum, fingerprint
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.options import ReadOptions
from cellfm_torch.data.quality import annotated
from cellfm_torch.data.source import SOURCE_COLUMN, Source, open_source
from cellfm_torch.data.store_codec import count_expressed
from cellfm_torch.data.store_genes import Lookups, lookup_name, named
from cellfm_torch.data.store_quality import Quality
from cellfm_torch.data.store_shard import ShardWriter
from cellfm_torch.errors import UserError
from cellfm_torch.h5_files import open_h5
from cellfm_torch.paths import VOCAB

READ_CELLS = 4096
"""Cells of a source that are in memory at a time, where its format permits."""


@dataclass(frozen=True)
class Job:
    """What it takes to prepare one source.

    Attributes
    ----------
    number : int
        Its place in the store.
    source : Path
    obs : dict
        Annotations to give to each of its cells.
    folder : Path
        The store.
    genes, synonyms : tuple of str
        Symbols of the store, and those among them that are names of one gene.
    options : ReadOptions
        How it is read.
    known : dict
        Sources that the store has already, by checksum.
    shard_cells, block_cells : int
        Cells per shard and per block.
    """

    number: int
    source: Path
    obs: dict[str, Any] = field(repr=False)
    folder: Path
    genes: tuple[str, ...] = field(repr=False)
    synonyms: tuple[str, ...] = field(repr=False)
    options: ReadOptions
    known: dict[str, str] = field(repr=False)
    shard_cells: int
    block_cells: int


@functools.lru_cache(maxsize=1)
def _bundled_lookups(genes: tuple[str, ...], synonyms: tuple[str, ...]) -> list[Lookups]:
    return [Lookups(genes, synonyms, GeneVocab.from_file(path)) for path in sorted(VOCAB.glob("genes_*.txt"))]


class VocabularyLengths:
    """Numbers of expressed genes over the bundled vocabularies, so that loading need not count them."""

    def __init__(self, genes: tuple[str, ...], synonyms: tuple[str, ...], bits: str) -> None:
        made = [lookups.of(bits) for lookups in _bundled_lookups(genes, synonyms)]
        self._lookups = {lookup_name(lookup): (lookup, shared) for lookup, shared in made}

    def columns(self, counts: sp.csr_matrix, totals: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        """Return what the index of a shard keeps of cells, given their counts (b, G) and totals (b,)."""
        columns: dict[str, NDArray[Any]] = {"totals": totals.astype("<f8")}
        indptr, genes = counts.indptr.astype(np.int64), counts.indices.astype(np.int32, copy=False)
        numbers, divisors = counts.data.astype(np.int32), np.maximum(1.0, totals / ops.MOST_COUNTS)
        for name, (lookup, shared) in self._lookups.items():
            columns[name] = count_expressed(indptr, genes, numbers, divisors, lookup, shared).astype("<u2")
        return columns


def prepare_source(job: Job, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Write the shards and annotations of a source, and return its entry of the manifest.

    Every file appears complete or not at all; until the entry is in the manifest, the store does not know them.

    Parameters
    ----------
    progress
        Called with cells done and cells of the source.

    Raises
    ------
    UserError
        If the source cannot be used, or has changed while it was read.
    """
    before, sha256 = fingerprint(job.source), checksum(job.source)
    if sha256 in job.known:
        return repeat(job, sha256, before)
    with open_source(job.source, GeneVocab(job.genes), job.options, obs=job.obs) as source:
        made = _write_shards(job, source, progress)
    if fingerprint(job.source) != before:
        raise UserError(f"{job.source}: has changed while it was read: prepare it again when it is complete")
    return {
        "kind": "source",
        "number": job.number,
        "source": str(job.source),
        "sha256": sha256,
        **before,
        "options": dataclasses.asdict(job.options),
        **made,
    }


def _write_shards(job: Job, source: Source, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Write what a source holds, and return what the manifest says of it."""
    progress(0, source.n_cells)
    bits = named(job.genes, job.synonyms, source.match.rows)
    lengths, quality = VocabularyLengths(job.genes, job.synonyms, bits), Quality()
    kept: list[NDArray[np.bool_]] = []
    measured: list[pd.DataFrame] = []
    shards: list[dict[str, Any]] = []
    writer: ShardWriter | None = None
    for block in source.blocks(READ_CELLS):
        kept.append(block.kept)
        counts, totals = block.counts[block.kept], block.totals[block.kept]
        measured.append(block.quality[block.kept])
        quality.add(measured[-1], counts)
        while counts.shape[0]:
            writer = writer or _new_shard(job, len(shards))
            room = job.shard_cells - writer.cells
            writer.add(counts[:room], lengths.columns(counts[:room], totals[:room]))
            counts, totals = counts[room:], totals[room:]
            if writer.cells == job.shard_cells:
                shards.append(_finish(writer))
                writer = None
        progress(block.start + len(block.kept), source.n_cells)
    if writer is not None:
        shards.append(_finish(writer))
    rows = np.concatenate(kept)
    if not shards:
        raise UserError(
            f"{job.source}: none of its {len(rows):,} cells passes the filters: lower them, e.g. data.min_genes=1"
        )
    obs = annotated(source.obs[rows].drop(columns=SOURCE_COLUMN), measured)
    return {
        "cells": int(rows.sum()),
        "synonyms": bits,
        "shards": shards,
        **_write_obs(job, obs),
        "report": dataclasses.asdict(source.report()),
        "quality": quality.summary(),
    }


def repeat(job: Job, sha256: str, found: dict[str, int], of: str | None = None) -> dict[str, Any]:
    """Return the entry of a source with the same contents as one that the store has."""
    of = job.known[sha256] if of is None else of
    return {"kind": "repeat", "source": str(job.source), "sha256": sha256, **found, "of": of}


def _new_shard(job: Job, index: int) -> ShardWriter:
    name = f"{job.number:05}-{index:03}.cells"
    # The process is part of the name: one that outlives a killed parent must not write into its successor's file.
    return ShardWriter(job.folder / "shards" / f"{name}.{os.getpid()}.part", block_cells=job.block_cells)


def _finish(writer: ShardWriter) -> dict[str, Any]:
    sha256 = writer.close()
    final = writer.path.with_suffix("").with_suffix("")
    os.replace(writer.path, final)
    return {"file": final.name, "cells": writer.cells, "bytes": final.stat().st_size, "sha256": sha256}


def _write_obs(job: Job, obs: pd.DataFrame) -> dict[str, Any]:
    """Write the annotations in AnnData's layout, and return what the manifest says of them."""
    obs = obs.copy()
    obs.columns = obs.columns.astype(str)
    for name in obs.columns:
        if pd.api.types.is_string_dtype(obs[name].dtype):  # object, or pandas 3's own type
            obs[name] = obs[name].astype(str).where(obs[name].notna()).astype("category")
    if obs.index.name is None or obs.index.name in obs.columns:
        obs.index.name = "_index"
    final = job.folder / "obs" / f"{job.number:05}.h5"
    part = final.with_name(f"{final.name}.{os.getpid()}.part")
    with open_h5(part) as file:
        anndata.io.write_elem(file, "obs", obs, dataset_kwargs={"compression": "gzip"})
    with part.open("rb+") as written:
        os.fsync(written.fileno())
    os.replace(part, final)
    return {"obs": final.name, "obs_columns": list(obs.columns), "obs_index": str(obs.index.name)}
