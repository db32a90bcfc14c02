"""Quality of cells, the filters on it, what the report warns of, and what is refused as a whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.hgnc import read_hgnc
from cellfm_torch.data.options import ReadOptions
from cellfm_torch.data.reader import read_cells
from cellfm_torch.data.report import ReadReport
from cellfm_torch.data.source import open_source
from cellfm_torch.errors import UserError
from cellfm_torch.paths import PBMC3K

Make = Callable[..., anndata.AnnData]
Write = Callable[..., Path]


@pytest.fixture
def with_mito(synthetic_cells: Make, write: Write, vocab: GeneVocab) -> Path:
    """A file whose last two genes are mitochondrial ones that the vocabulary lacks."""
    return write(synthetic_cells(genes=[*vocab.symbols[:58], "MT-CO1", "MT-ND1"]))


def test_lands_in_obs(with_mito: Path, synthetic_counts: np.ndarray, vocab: GeneVocab) -> None:
    obs = read_cells(with_mito, vocab).obs
    np.testing.assert_array_equal(obs["total_counts"], synthetic_counts.sum(1))
    np.testing.assert_array_equal(obs["n_genes_by_counts"], (synthetic_counts > 0).sum(1))
    share = 100 * synthetic_counts[:, 58:].sum(1) / synthetic_counts.sum(1)
    np.testing.assert_allclose(obs["pct_counts_mt"], share, rtol=1e-12)  # one division in float64


def test_what_the_file_says_stays(synthetic_cells: Make, write: Write, vocab: GeneVocab) -> None:
    adata = synthetic_cells()
    adata.obs["total_counts"] = -1.0
    assert set(read_cells(write(adata), vocab).obs["total_counts"]) == {-1.0}


@pytest.mark.parametrize("option", ["min_counts", "max_counts", "max_mito", "min_genes", "max_genes"])
def test_filters(option: str, with_mito: Path, synthetic_counts: np.ndarray, vocab: GeneVocab) -> None:
    values = {
        "counts": synthetic_counts.sum(1),
        "mito": 100 * synthetic_counts[:, 58:].sum(1) / synthetic_counts.sum(1),
        "genes": (synthetic_counts[:, :58] > 0).sum(1),
    }[option[4:]]
    limit = int(np.median(values))
    cells = read_cells(with_mito, vocab, **{option: limit})
    wanted = values >= limit if option.startswith("min") else values <= limit
    assert list(cells.names) == [f"cell{i}" for i in np.flatnonzero(wanted)]
    report = cells.reports[0]
    assert 0 < report.cells_kept < 40 and sum(report.dropped.values()) == 40 - report.cells_kept
    assert report.median_counts == np.median(synthetic_counts.sum(1)[wanted])


def test_at_least_ten_genes_by_default(synthetic_cells: Make, write: Write, vocab: GeneVocab) -> None:
    counts = np.zeros((3, 60))
    counts[0, :9], counts[1, :10], counts[2, :30] = 1, 1, 1
    assert ReadOptions().min_genes == 10
    assert list(read_cells(write(synthetic_cells(sp.csr_matrix(counts))), vocab).names) == ["cell1", "cell2"]


def report_of(path: Path, vocab: GeneVocab) -> ReadReport:
    with open_source(path, vocab) as source:
        assert list(source.blocks())
        return source.report()


def test_warnings(synthetic_counts: np.ndarray, synthetic_cells: Make, write: Write, vocab: GeneVocab) -> None:
    """Few genes of the model, few of the counts, and files that were filtered before, with their raw counts named."""
    few = report_of(write(synthetic_cells(genes=[*vocab.symbols[:30], *[f"XX{i}" for i in range(30)]])), vocab)
    share = synthetic_counts[:, :30].sum() / synthetic_counts.sum()
    assert few.warnings == (
        f"cells.h5ad: only {share:.0%} of the counts are in genes of the model",
        "cells.h5ad: only 30 of the model's 60 genes are in it",
    )
    bundled = GeneVocab.bundled(24078)
    counts = sp.random(20, 300, density=0.5, format="csr", random_state=0, data_rvs=lambda n: np.ones(n))
    adata = synthetic_cells(counts, genes=list(bundled.symbols[:300]))
    adata.raw = adata
    path = write(adata[:, :250].copy())
    (warning,) = report_of(path, bundled).warnings
    assert warning == "cells.h5ad: has 250 genes only, as if filtered before (raw has more: data.layer=raw)"
    assert report_of(PBMC3K, bundled).warnings == ()


def test_scaled_values_are_refused(synthetic_counts: np.ndarray, synthetic_cells: Make, write: Write) -> None:
    """Also with the counts in another layer, which is then named."""
    vocab = GeneVocab(synthetic_cells().var_names)
    scaled = (synthetic_counts - synthetic_counts.mean(0)) / (synthetic_counts.std(0) + 1)
    adata = synthetic_cells(scaled)
    adata.layers["umi"] = sp.csr_matrix(synthetic_counts)
    with pytest.raises(UserError, match=r"holds scaled values \(z-scores\), not counts: .*use data.layer=umi"):
        read_cells(write(adata), vocab)


@pytest.mark.parametrize("genes", [[f"ENSMUSG{i:011}" for i in range(60)], [f"Sox{i}" for i in range(60)]])
@pytest.mark.parametrize("rule", ["all", "exact"])
def test_other_species_are_refused(
    genes: list[str], rule: str, synthetic_cells: Make, write: Write, vocab: GeneVocab
) -> None:
    with pytest.raises(UserError, match=r"cells.h5ad: its genes look like those of mouse \(.*, the model's are human"):
        read_cells(write(synthetic_cells(genes=genes)), vocab, genes={"match": rule})


def test_mouse_model_reads_mouse(synthetic_cells: Make, write: Write, synthetic_counts: np.ndarray) -> None:
    """The guess refuses only what the vocabulary does not know."""
    genes = [f"Sox{i}" for i in range(60)]
    cells = read_cells(write(synthetic_cells(genes=genes)), GeneVocab(genes))
    np.testing.assert_array_equal(cells.counts.toarray(), synthetic_counts)


def test_exact_on_ids_names_what_would_do(
    synthetic_cells: Make, write: Write, vocab: GeneVocab, ensembl_ids: list[str]
) -> None:
    path = write(synthetic_cells(genes=ensembl_ids))
    with pytest.raises(UserError, match=r"is in the vocabulary: use genes.match=all \(60 genes match\)"):
        read_cells(path, vocab, genes={"match": "exact"})


def test_old_symbols_of_real_cells(tmp_path: Path) -> None:
    """PBMC3k was annotated in 2013: five rows of HGNC's set bring back the five largest of its renamed genes."""
    renamed = {"GNB2L1": "RACK1", "H3F3B": "H3-3B", "GLTSCR2": "NOP53", "ATP5G2": "ATP5MC2", "TMEM66": "SARAF"}
    rows = [f"HGNC:{i}\t{now}\tApproved\t\t{then}\t" for i, (then, now) in enumerate(renamed.items())]
    header = "hgnc_id\tsymbol\tstatus\talias_symbol\tprev_symbol\tensembl_gene_id"
    (tmp_path / "hgnc.txt").write_text("\n".join([header, *rows, ""]))
    read_hgnc(tmp_path / "hgnc.txt").save(tmp_path / "genes.tsv.gz")

    vocab = GeneVocab.bundled(27855)
    bundled = read_cells(PBMC3K, vocab).reports[0]
    full = read_cells(PBMC3K, vocab, genes={"table": tmp_path / "genes.tsv.gz"}).reports[0]
    assert {gene for gene, _ in bundled.top_unmatched} == set(renamed)
    assert not {gene for gene, _ in full.top_unmatched} & set(renamed)
    assert full.matched_by["previous"] == len(renamed)
    gained = sum(counts for _, counts in bundled.top_unmatched)
    assert full.counts_kept == bundled.counts_kept + gained
