"""Cells to run the official network on: generated from a seed, or the first of an h5ad file.

Needs numpy only; h5py and scipy where an h5ad file is read. Runs on Python 3.8, as the older MindSpore releases do.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

MOST_GENES = 2048  # of a cell, as published
TARGETS = 0.2  # share of the expressed genes that the loss asks for
HIDDEN = 0.8  # share of the targets whose value is masked; the others stay visible
PUBLISHED_LISTS = {24080: "gene_info.csv", 27856: "expand_gene_info.csv"}  # by rows of gene_emb
Arrays = dict  # name -> array


class Refusal(Exception):
    """What the user can put right; shown as one line."""


def generated_counts(rng: Any, *, rows: int, num_cells: int, num_genes: int) -> list[tuple[Any, Any]]:
    """Make (gene ids, counts) of cells of different lengths; the last has a quarter of the genes of the first."""
    known = rows - 8  # the rows are rounded up to a multiple of 8: these exist for certain
    longest = min(num_genes, known)
    if longest < 4:
        raise Refusal(f"--genes-per-cell {num_genes}: a cell needs at least 4 genes, the checkpoint has {known}")
    cells = []
    for length in np.linspace(longest, max(4, longest // 4), num_cells).astype(int):
        ids = np.sort(rng.permutation(known)[:length] + 1)
        cells.append((ids, rng.geometric(0.3, length).astype(np.float64)))
    return cells


def gene_rows(*, official: Path, genes: Path | None, rows: int) -> dict[str, int]:
    """Read which symbol has which row of the gene embedding."""
    if genes is None:
        if rows not in PUBLISHED_LISTS:
            raise Refusal(f"the checkpoint has {rows} gene rows, no published vocabulary; give its list with --genes")
        genes = official / "csv" / PUBLISHED_LISTS[rows]
    if not genes.is_file():
        raise Refusal(f"{genes}: no such file; give the vocabulary, one symbol a line, with --genes")
    with genes.open(encoding="utf-8", newline="") as file:
        symbols = [line[0] for line in csv.reader(file) if line]
    if genes.suffix == ".csv":
        symbols = symbols[1:]  # the heading
    if not 0 <= rows - 1 - len(symbols) < 8:
        raise Refusal(f"{genes}: {len(symbols)} symbols do not fit the {rows} gene rows of the checkpoint")
    return {symbol: row for row, symbol in enumerate(symbols, start=1)}


def h5ad_counts(rng: Any, path: Path, *, known: dict[str, int], num_cells: int) -> list[tuple[Any, Any]]:
    """Read (gene ids, counts) of the first cells of a file, prepared as published."""
    try:
        import h5py
        from scipy.sparse import csr_matrix
    except ImportError as problem:
        raise Refusal(f"--h5ad needs h5py and scipy: pip install h5py scipy ({problem})") from problem
    if not path.is_file():
        raise Refusal(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            x, var = file["X"], file["var"]
            symbols = [s.decode() if isinstance(s, bytes) else s for s in var[var.attrs["_index"]][:]]
            if isinstance(x, h5py.Dataset):
                counts = np.asarray(x[:num_cells], np.float64)
            else:
                if x.attrs.get("encoding-type") != "csr_matrix":
                    raise Refusal(f"{path}: X is stored by column; save it as CSR or dense")
                ends = x["indptr"][: num_cells + 1]
                parts = (x["data"][: ends[-1]], x["indices"][: ends[-1]], ends)
                counts = csr_matrix(parts, shape=(len(ends) - 1, len(symbols))).toarray().astype(np.float64)
    except (OSError, KeyError) as problem:
        raise Refusal(f"{path}: not an h5ad file with counts in X ({problem})") from problem
    columns = [i for i, symbol in enumerate(symbols) if symbol in known]
    ids = np.array([known[symbols[i]] for i in columns])
    cells = []
    for row in counts:
        row = np.round(row / max(1.0, row.sum() / 1e5))[columns]
        expressed = np.flatnonzero(row)
        if len(expressed) > MOST_GENES:
            weight = np.log1p(row[expressed])
            expressed = np.sort(rng.choice(expressed, MOST_GENES, replace=False, p=weight / weight.sum()))
        if len(expressed) < 4:
            raise Refusal(f"{path}: a cell has {len(expressed)} genes of the vocabulary; the others were not looked at")
        cells.append((ids[expressed], row[expressed]))
    return cells


def model_input(rng: Any, cells: list[tuple[Any, Any]], *, zeros: bool, rows: int, num_classes: int) -> Arrays:
    """Normalise, mask and pad cells into the arrays that the official network takes.

    With `zeros` the cells are filled up with unexpressed genes instead of padding.

    Returns
    -------
    dict
        raw, gene, mask_gene (B, L); masked (B, L, 2): visible flag and value; zero_idx (B, L + 1), cls first, or (B, L)
        with `zeros`; ST_feat (B, 2): log1p(read depth / 1000) of input and target; label (B,).
    """
    longest = max(len(ids) for ids, _ in cells)
    if zeros:
        longest = min(longest + max(4, longest // 4), rows - 8)
    shape = (len(cells), longest)
    raw, mask_gene, valid = (np.zeros(shape, np.float32) for _ in range(3))
    gene, flag = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    depth = np.zeros((len(cells), 2))
    for b, (ids, counts) in enumerate(cells):
        num = len(ids)
        depth[b] = counts.sum() * rng.uniform(0.3, 1), counts.sum()
        gene[b, :num], valid[b, :num] = ids, 1
        raw[b, :num] = np.log1p(counts / counts.sum() * 1e4)
        targets = rng.permutation(num)[: max(2, int(TARGETS * num))]
        mask_gene[b, targets] = 1
        flag[b, : None if zeros else num] = 1  # padding counts as hidden, or it enters the first half of the layers
        flag[b, targets[: int(HIDDEN * len(targets))]] = 0
        if zeros:
            others = np.setdiff1d(np.arange(1, rows - 7), ids)
            gene[b, num:] = rng.permutation(others)[: longest - num]
    return {
        "raw": raw,
        "masked": np.stack([flag, raw * flag], -1),
        "gene": gene,
        "mask_gene": mask_gene,
        "zero_idx": valid if zeros else np.concatenate([np.ones((len(cells), 1), np.float32), valid], 1),
        "ST_feat": np.log1p(depth / 1000).astype(np.float32),
        "label": rng.integers(0, max(1, num_classes), len(cells)).astype(np.int32),
    }
