"""Wrong input: one clear line that says what, where and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.reader import read_cells
from cellfm_torch.errors import UserError

Make = Callable[..., anndata.AnnData]
Write = Callable[..., Path]


def refusal(path: object, vocab: GeneVocab, **options: object) -> str:
    """Return the message, which must be a single line."""
    with pytest.raises(UserError) as caught:
        read_cells(path, vocab, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing(cells_file: Path, vocab: GeneVocab) -> None:
    folder = cells_file.parent
    assert "cell.h5ad: no such file; did you mean 'cells.h5ad'?" in refusal(folder / "cell.h5ad", vocab)
    assert "no file matches; did you mean 'cells.h5ad'?" in refusal(folder / "cell_*.h5ad", vocab)
    assert f"there is no folder {folder}/no" in refusal(folder / "no" / "cells.h5ad", vocab)
    assert "is a folder: give its files as" in refusal(folder, vocab)
    assert "no input file" in refusal([], vocab)


def test_not_h5ad(tmp_path: Path, vocab: GeneVocab) -> None:
    (tmp_path / "text.h5ad").write_text("gene,cell1\nA1BG,3\n")
    assert "text.h5ad: is not an h5ad file" in refusal(tmp_path / "text.h5ad", vocab)
    (tmp_path / "empty.h5ad").touch()
    assert "empty.h5ad: is not an h5ad file" in refusal(tmp_path / "empty.h5ad", vocab)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["matrix"] = np.ones(3)
    assert "other.h5: is HDF5 but not h5ad (no obs and no var)" in refusal(tmp_path / "other.h5", vocab)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_truncated(cells_file: Path, vocab: GeneVocab, share: float) -> None:
    whole = cells_file.read_bytes()
    cells_file.write_bytes(whole[: int(share * len(whole))])
    assert "cells.h5ad: is truncated" in refusal(cells_file, vocab)


def test_damaged(cells_file: Path, vocab: GeneVocab) -> None:
    with h5py.File(cells_file, "r+") as file:
        del file["X/indptr"]
    assert "cells.h5ad: is damaged or not a valid h5ad" in refusal(cells_file, vocab)


def test_unknown_compression(cells_file: Path, vocab: GeneVocab) -> None:
    """As that of files written with a plug-in that is not installed here."""
    with h5py.File(cells_file, "r+") as file:
        values = file["X/data"][:]
        del file["X/data"]
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((len(values),))
        plan.set_filter(32_099, h5py.h5z.FLAG_OPTIONAL, ())
        kind, space = h5py.h5t.py_create(values.dtype), h5py.h5s.create_simple(values.shape)
        made = h5py.h5d.create(file["X"].id, b"data", kind, space, plan)
        made.write_direct_chunk((0,), values.tobytes())
    assert "takes another package to read" in refusal(cells_file, vocab)


def test_no_matching_genes(synthetic_cells: Make, write: Write, vocab: GeneVocab) -> None:
    message = refusal(write(synthetic_cells(genes=[f"XYZ{i}" for i in range(60)])), vocab)
    assert "none of its 60 gene names (XYZ0, XYZ1, XYZ2) is in the vocabulary" in message
    assert vocab.symbols[0] in message and "genes.column" in message


@pytest.mark.parametrize("layout", [sp.csr_matrix, np.asarray])
@pytest.mark.parametrize(("value", "what"), [(-2.5, "-2.5"), (np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_no_count_at_all(
    value: float,
    what: str,
    layout: Callable,
    synthetic_counts: np.ndarray,
    synthetic_cells: Make,
    write: Write,
    vocab: GeneVocab,
) -> None:
    """Names the first such entry, also when the values are to be recovered and when the gene is not in use."""
    counts = synthetic_counts.astype(np.float32)
    counts[7, 9] = counts[8, 2] = value
    path = write(synthetic_cells(layout(counts), genes=[*vocab.symbols[:9], "unknown", *vocab.symbols[10:]]))
    kind = "negative" if value == -2.5 else "not finite"
    for counts_option in ("raw", "recover"):
        message = refusal(path, vocab, counts=counts_option)
        assert f"cells.h5ad: {what} for gene unknown in cell cell7 is {kind} (and 1 more)" in message
        assert "data.layer" in message


@pytest.mark.parametrize("cells", [0, 5])
def test_empty_cells_only(cells: int, synthetic_cells: Make, write: Write, vocab: GeneVocab) -> None:
    message = refusal(write(synthetic_cells(sp.csr_matrix((cells, 60), dtype=np.float32))), vocab)
    assert f"cells.h5ad: all {cells} cells are empty" in message


def test_log_normalised(synthetic_counts: np.ndarray, synthetic_cells: Make, write: Write, vocab: GeneVocab) -> None:
    """Recognised; the advice is the counts where the file has them too, otherwise their recovery."""
    adata = synthetic_cells()
    adata.X = sp.csr_matrix(np.log1p(synthetic_counts / synthetic_counts.sum(1, keepdims=True) * 1e4))
    message = refusal(write(adata), vocab)
    assert "is log-normalised, not counts" in message and message.endswith("data.counts=recover")
    with_layer = adata.copy()
    with_layer.layers["scaled"], with_layer.layers["umi"] = adata.X * 2.0, synthetic_counts
    assert refusal(write(with_layer), vocab).endswith("read its counts with data.layer=umi")
    with_raw = adata.copy()
    with_raw.raw = synthetic_cells()
    assert refusal(write(with_raw), vocab).endswith("read its counts with data.layer=raw")


def test_neither_counts_nor_logarithms(
    synthetic_counts: np.ndarray, synthetic_cells: Make, write: Write, vocab: GeneVocab
) -> None:
    fractions = synthetic_counts * np.random.default_rng(0).uniform(0.5, 1.5, synthetic_counts.shape)
    path = write(synthetic_cells(fractions))
    message = refusal(path, vocab)
    assert "in cell cell0 is no whole count, and no log-normalised one either" in message and "data.layer" in message
    assert "counts cannot be recovered: cell cell" in refusal(path, vocab, counts="recover")
    huge = write(synthetic_cells(synthetic_counts * 1000.5), "huge.h5ad")
    assert "counts cannot be recovered: cell cell" in refusal(huge, vocab, counts="recover")


def test_recover_from_counts(cells_file: Path, vocab: GeneVocab) -> None:
    assert "holds whole counts already: use data.counts=raw" in refusal(cells_file, vocab, counts="recover")


def test_no_layer(synthetic_cells: Make, write: Write, vocab: GeneVocab) -> None:
    adata = synthetic_cells()
    assert "has no layer 'umi' (it has X only: leave data.layer out)" in refusal(write(adata), vocab, layer="umi")
    adata.layers["umi"] = adata.X
    adata.X = None
    assert "has no X (it has umi): choose with data.layer=NAME" in refusal(write(adata), vocab)
