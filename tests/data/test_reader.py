"""Files to counts over the vocabulary: every layout, several files, recovery, filter and rescale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from rich.console import Console

from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.reader import read_cells
from cellfm_torch.data.report import print_report
from cellfm_torch.errors import UserError

Make = Callable[..., anndata.AnnData]
Write = Callable[..., Path]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint16])
@pytest.mark.parametrize("layout", [sp.csr_matrix, sp.csc_matrix, sp.csr_array, np.asarray])
def test_layouts(
    layout: Callable, dtype: type, synthetic_counts: np.ndarray, synthetic_cells: Make, write: Write, vocab: GeneVocab
) -> None:
    cells = read_cells(write(synthetic_cells(layout(synthetic_counts.astype(dtype)))), vocab)
    np.testing.assert_array_equal(cells.counts.toarray(), synthetic_counts)
    np.testing.assert_array_equal(cells.totals, synthetic_counts.sum(1))
    np.testing.assert_array_equal(cells.read_depth, synthetic_counts.sum(1))
    assert cells.counts.dtype == np.int32
    assert list(cells.names) == list(synthetic_cells().obs_names)


def test_layer_and_raw(synthetic_counts: np.ndarray, synthetic_cells: Make, write: Write, vocab: GeneVocab) -> None:
    adata = synthetic_cells()
    adata.raw = adata.copy()
    adata.layers["umi"] = adata.X.copy()
    adata = adata[:, 5:30].copy()  # .raw keeps all genes
    adata.X = np.ones(adata.shape)
    path = write(adata)
    np.testing.assert_array_equal(read_cells(path, vocab, layer="raw").counts.toarray(), synthetic_counts)
    in_layer = read_cells(path, vocab, layer="umi", min_genes=0).counts.toarray()
    np.testing.assert_array_equal(in_layer[:, 5:30], synthetic_counts[:, 5:30])
    assert in_layer.sum() == synthetic_counts[:, 5:30].sum()
    with pytest.raises(UserError, match=r"no layer 'umj' \(it has umi, raw\); did you mean 'umi'"):
        read_cells(path, vocab, layer="umj")


def test_several_files(synthetic_counts: np.ndarray, synthetic_cells: Make, write: Write, vocab: GeneVocab) -> None:
    """Files with other genes in another order, as a glob and as a list."""
    write(synthetic_cells(), "a1.h5ad")
    reverse = synthetic_cells()[::2, ::-1].copy()
    reverse.obs["batch"] = "second"
    other = write(reverse, "a2.h5ad")
    cells = read_cells(other.parent / "a*.h5ad", vocab)
    np.testing.assert_array_equal(cells.counts.toarray(), np.vstack([synthetic_counts, synthetic_counts[::2]]))
    assert cells.obs["source_file"].tolist() == ["a1.h5ad"] * 40 + ["a2.h5ad"] * 20
    assert cells.obs["batch"].isna().sum() == 40
    listed = read_cells([other, str(other.parent / "a*.h5ad")], vocab)
    assert [report.file for report in listed.reports] == ["a2.h5ad", "a1.h5ad"]


def test_gene_column(
    synthetic_counts: np.ndarray, synthetic_cells: Make, write: Write, vocab: GeneVocab, ensembl_ids: list[str]
) -> None:
    adata = synthetic_cells(genes=[f"row{i}" for i in range(len(vocab))])
    adata.var["gene_id"] = [f"{gene}.3" for gene in ensembl_ids]
    adata.var["chromosome"] = "1"
    path = write(adata)
    cells = read_cells(path, vocab, genes={"column": "gene_id"})
    np.testing.assert_array_equal(cells.counts.toarray(), synthetic_counts)
    assert cells.reports[0].name_kind == "ensembl"
    found = read_cells(path, vocab)
    np.testing.assert_array_equal(found.counts.toarray(), synthetic_counts)
    assert found.reports[0].gene_column == "gene_id"
    with pytest.raises(
        UserError, match=r"names \(1, 1, 1\) .*leave genes.column=chromosome out|use genes.column=gene_id"
    ):
        read_cells(path, vocab, genes={"column": "chromosome"})
    with pytest.raises(UserError, match="no column 'gene_ids' .*did you mean 'gene_id'"):
        read_cells(path, vocab, genes={"column": "gene_ids"})


def test_duplicates(synthetic_counts: np.ndarray, synthetic_cells: Make, write: Write, vocab: GeneVocab) -> None:
    genes = [*vocab.symbols[:-2], vocab.symbols[0], "unknown"]
    path = write(synthetic_cells(genes=genes))
    added, first = (read_cells(path, vocab, genes={"duplicates": rule}) for rule in ("sum", "unique"))
    np.testing.assert_array_equal(added.counts.toarray()[:, 0], synthetic_counts[:, 0] + synthetic_counts[:, -2])
    np.testing.assert_array_equal(first.counts.toarray()[:, :-2], synthetic_counts[:, :-2])
    for cells in (added, first):
        np.testing.assert_array_equal(cells.totals, synthetic_counts.sum(1))
        report = cells.reports[0]
        assert (report.genes_matched, report.genes_unmatched, report.genes_duplicated) == (59, 1, 1)
        assert report.top_unmatched == (("unknown", synthetic_counts[:, -1].sum()),)
    assert added.reports[0].counts_kept - first.reports[0].counts_kept == synthetic_counts[:, -2].sum()


def test_published_rescale(synthetic_cells: Make, write: Write, vocab: GeneVocab) -> None:
    """Counts / max(1, total / 1e5), the total over all genes of the file, rounded half to even."""
    counts = np.zeros((3, 60))
    counts[0, :4] = [1, 2, 3, 99_994]  # 1e5 in all: stays
    counts[1, :5] = [1, 2, 3, 5, 149_989]  # 1.5e5: 0.67, 1.33, 2, 3.33, ...
    counts[2, :4] = [1, 2, 5, 199_992]  # 2e5: 0.5 and 2.5 round to 0 and 2
    genes = [*vocab.symbols[:59], "unknown"]
    counts[1, [4, 59]] = 0, 149_989
    cells = read_cells(write(synthetic_cells(sp.csr_matrix(counts), genes=genes)), vocab, min_genes=0)
    np.testing.assert_array_equal(
        cells.counts.toarray()[:, :5], [[1, 2, 3, 99_994, 0], [1, 1, 2, 3, 0], [0, 1, 2, 99_996, 0]]
    )
    np.testing.assert_array_equal(cells.totals, [1e5, 1.5e5, 2e5])
    np.testing.assert_array_equal(cells.read_depth, [1e5, 7, 99_999])
    assert cells.counts.nnz == 4 + 4 + 3


@pytest.mark.parametrize("target_sum", [1e4, 1e6, 237.5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_recover_is_exact(
    target_sum: float, dtype: type, synthetic_counts: np.ndarray, synthetic_cells: Make, write: Write, vocab: GeneVocab
) -> None:
    counts = synthetic_counts.copy()
    counts[3, 5] = 5_000  # a large count among small ones is the hard case for float32
    path = write(synthetic_cells(np.log1p(counts / counts.sum(1, keepdims=True) * target_sum).astype(dtype)))
    cells = read_cells(path, vocab, counts="recover")
    np.testing.assert_array_equal(cells.counts.toarray(), counts)
    np.testing.assert_array_equal(cells.totals, counts.sum(1))


def test_filter_and_report(
    synthetic_counts: np.ndarray, synthetic_cells: Make, write: Write, vocab: GeneVocab, capsys: pytest.CaptureFixture
) -> None:
    counts = synthetic_counts.copy()
    counts[4], counts[5, 3:], counts[6] = 0, 0, 2
    path = write(synthetic_cells(sp.csr_matrix(counts), genes=[*vocab.symbols[:58], "MT-X", "MT-Y"]))
    cells = read_cells(path, vocab, min_genes=10, max_genes=50)
    expressed = (counts[:, :58] > 0).sum(1)
    assert list(cells.names) == [f"cell{i}" for i in np.flatnonzero((expressed >= 10) & (expressed <= 50))]
    report = cells.reports[0]
    assert report.dropped["without counts in the vocabulary"] == 1
    assert report.dropped["with fewer than 10 genes"] == (expressed < 10).sum() - 1
    assert report.dropped["with more than 50 genes"] == (expressed > 50).sum()
    assert report.cells_kept + sum(report.dropped.values()) == report.cells_read == 40

    for reports in ([report], [report] * 12):
        print_report(reports, Console(width=80))
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) <= 18 and max(map(len, lines)) <= 80
        text = " ".join(" ".join(lines).split())
        assert "58 of 60" in text and "MT-X" in text and "only 58 of the model's 60 genes" in text
        assert f"{58 * len(reports)} by symbol, 0 duplicated unmatched: 2, of these with most counts: MT-" in text
        assert f"{len(reports)} without counts" in text
    with pytest.raises(
        UserError, match="no cell is left .*1 without counts.*39 with fewer than 90 genes.*data.min_genes"
    ):
        read_cells(path, vocab, min_genes=90)
