"""Make the bundled file of 2,700 blood cells: raw counts, and cell types by a marker rule.

    python -m cellfm_torch.data.bundled.make_pbmc3k COUNTS.h5ad [--labels REFERENCE.h5ad] [--output pbmc3k.h5ad]

The counts are copied as they are. ``obs["cell_type"]`` is the outcome of this rule and of nothing else:

1. Normalise: log1p(count / read depth * 1e4), natural logarithm.
2. Smooth: average every marker over a cell and its nearest neighbours, `NEIGHBOURS` cells in all, in the space of
   `COMPONENTS` principal components of the `VARIABLE_GENES` genes that vary most for their mean. One cell of this
   data holds about 800 genes, so a marker that is not seen in it says little.
3. Lineage: each marker in units of its own 99th percentile, the level of a strongly expressing cell; the mean over
   the markers of a row of `LINEAGES` is the score, and the highest score wins.
4. Type: the cells of the lineage ``"T or NK"`` are put in a space of their own (step 2 again, on these cells only) and
   scored the same way with `T_AND_NK`, each marker now as a z-score among them: the lineage shares most of these
   genes, and what tells its types apart is whether a neighbourhood has more or less of one than usual.

A CD8 T cell is recognised by CD8A and what makes it cytotoxic; a naive CD8 T cell counts as a naive T cell. Nothing in
the rule is random.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import write_elem
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

from cellfm_torch.errors import UserError
from cellfm_torch.files import written_beside
from cellfm_torch.paths import PBMC3K

LINEAGES = {
    "T or NK": ("CD3D", "CD3E", "CD2", "CD7"),
    "B": ("MS4A1", "CD79A", "CD79B"),
    "CD14 monocyte": ("CD14", "LYZ", "S100A8", "S100A9"),
    "FCGR3A monocyte": ("FCGR3A", "MS4A7", "LST1"),
    "dendritic": ("FCER1A", "CST3", "CLEC10A"),
    "platelet": ("PPBP", "PF4"),
}
T_AND_NK = {
    "CD4 T naive": ("CCR7", "LEF1", "SELL"),
    "CD4 T memory": ("S100A4", "IL32", "ITGB1"),
    "CD8 T": ("CD8A", "CCL5", "GZMK", "NKG7"),
    "NK": ("GNLY", "KLRF1", "GZMB", "FCGR3A"),
}
CELL_TYPES = (*T_AND_NK, *list(LINEAGES)[1:])
"""Categories of ``obs["cell_type"]``, in this order."""

NEIGHBOURS = 30
COMPONENTS = 15
VARIABLE_GENES = 2000

REFERENCE_NAMES = {
    "Naive CD4 T": "CD4 T naive",
    "Memory CD4 T": "CD4 T memory",
    "CD8 T": "CD8 T",
    "NK": "NK",
    "B": "B",
    "CD14+ Mono": "CD14 monocyte",
    "FCGR3A+ Mono": "FCGR3A monocyte",
    "DC": "dendritic",
    "Platelet": "platelet",
}
"""What a reference calls our types; its cells of any other name count as unlabelled."""

SOURCE = (
    "10x Genomics, 3k PBMCs from a Healthy Donor (v1 chemistry, Cell Ranger 1.1.0, GRCh37): "
    "filtered gene-barcode matrix"
)
LICENCE = "counts: CC BY 4.0, 10x Genomics; cell_type: Apache-2.0, marker rule of make_pbmc3k.py"


def variable_genes(expression: sp.csr_matrix, count: int) -> np.ndarray:
    """Columns of the `count` genes that vary most for their mean.

    Genes seen in three cells or more are sorted into 20 bins of equal size by mean; within a bin the log of variance
    over mean is compared with the bin's median, in units of its median absolute deviation. Columns come ascending.
    """
    seen = np.flatnonzero(expression.getnnz(axis=0) >= 3)
    mean = np.asarray(expression.mean(axis=0)).ravel()[seen]
    square = np.asarray(expression.power(2).mean(axis=0)).ravel()[seen]
    dispersion = np.log((square - mean**2) / mean)
    bins = np.argsort(np.argsort(mean, kind="stable"), kind="stable") * 20 // len(seen)
    excess = np.empty_like(dispersion)
    for b in range(20):
        members = bins == b
        distance = dispersion[members] - np.median(dispersion[members])
        excess[members] = distance / np.median(np.abs(distance))
    return np.sort(seen[np.argsort(-excess, kind="stable")[:count]])


def smooth_markers(expression: sp.csr_matrix, markers: np.ndarray) -> np.ndarray:
    """Average the columns `markers` of log-normalised counts over each cell's neighbourhood: (cells, markers)."""
    space = expression[:, variable_genes(expression, VARIABLE_GENES)].toarray()
    space -= space.mean(axis=0)
    space /= space.std(axis=0)
    # A gene that one cell in a thousand expresses has huge z-scores, which would claim a component for itself.
    np.clip(space, -10, 10, out=space)
    # ARPACK converges to machine precision, so that the labels do not hang on the machine's linear algebra library.
    parts = PCA(COMPONENTS, svd_solver="arpack", random_state=0).fit_transform(space)
    near = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(parts).kneighbors(parts, return_distance=False)
    return np.asarray(expression[:, markers].toarray()[near].mean(axis=1))


def score_types(
    expression: sp.csr_matrix, genes: pd.Index, table: dict[str, tuple[str, ...]], *, relative_to: str
) -> np.ndarray:
    """Score cells for every row of a marker table.

    Parameters
    ----------
    expression : (cells, genes) log-normalised
    genes
        Symbols of the columns.
    table
        Cell type to marker symbols.
    relative_to
        ``"strong"``: markers in units of their 99th percentile. ``"mean"``: markers as z-scores.

    Returns
    -------
    (cells, types)
    """
    columns = genes.get_indexer([symbol for row in table.values() for symbol in row])
    if (columns < 0).any():
        missing = [symbol for row in table.values() for symbol in row if symbol not in genes]
        raise UserError(f"the marker rule needs {', '.join(missing)} among the var names: give the full count matrix")
    smooth = smooth_markers(expression, columns)
    if relative_to == "strong":
        smooth = smooth / np.quantile(smooth, 0.99, axis=0)
    else:
        smooth = (smooth - smooth.mean(axis=0)) / smooth.std(axis=0)
    ends = np.cumsum([len(row) for row in table.values()])[:-1]
    return np.stack([part.mean(axis=1) for part in np.split(smooth, ends, axis=1)], axis=1)


def assign_cell_types(counts: sp.csr_matrix, genes: pd.Index) -> pd.Categorical:
    """Apply the marker rule of this module.

    Parameters
    ----------
    counts : (cells, genes) raw counts
    genes
        Symbols of the columns.

    Returns
    -------
    (cells,) with the categories `CELL_TYPES`
    """
    depth = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    expression = sp.csr_matrix(sp.diags_array(1e4 / depth) @ counts.astype(np.float64))
    np.log1p(expression.data, out=expression.data)

    lineages = score_types(expression, genes, LINEAGES, relative_to="strong").argmax(axis=1)
    types = np.array(list(LINEAGES), dtype=object)[lineages]
    shared = np.flatnonzero(types == "T or NK")
    winners = score_types(expression[shared], genes, T_AND_NK, relative_to="mean").argmax(axis=1)
    types[shared] = np.array(list(T_AND_NK), dtype=object)[winners]
    return pd.Categorical(types, categories=list(CELL_TYPES))


def read_counts(path: Path) -> anndata.AnnData:
    """Read a count matrix and drop everything but counts, barcodes and gene names."""
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    source = anndata.read_h5ad(path)
    counts = sp.csr_matrix(source.X).astype(np.float32)
    counts.sort_indices()
    if (counts.data < 0).any() or (counts.data != np.floor(counts.data)).any():
        raise UserError(f"{path}: X holds negative or fractional values; the raw counts are needed")
    obs, var = pd.DataFrame(index=source.obs_names), pd.DataFrame(index=source.var_names)
    return anndata.AnnData(counts, obs=obs, var=var)


def write_small(cells: anndata.AnnData, path: Path) -> None:
    """Write an h5ad compressed as far as gzip goes, beside `path` and renamed.

    The count matrix is laid out by hand, as anndata's format describes it: its own writer takes one filter for all
    arrays, and shuffling bytes saves a quarter of the column numbers but costs a fifth of the values.
    """
    counts = cast(sp.csr_matrix, cells.X)
    small = {"compression": "gzip", "compression_opts": 9}
    with written_beside(path) as part, h5py.File(part, "w") as file:
        write_elem(file, "/", anndata.AnnData(obs=cells.obs, var=cells.var, uns=dict(cells.uns)), dataset_kwargs=small)
        if "X" in file:  # AnnData 0.12.0 says there that it has none
            del file["X"]
        matrix = file.create_group("X")
        matrix.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": counts.shape})
        matrix.create_dataset("data", data=counts.data, chunks=(2**16,), **small)
        matrix.create_dataset("indices", data=counts.indices, chunks=(2**16,), shuffle=True, **small)
        matrix.create_dataset("indptr", data=counts.indptr, **small)


def report_agreement(types: pd.Series, reference: pd.Series) -> str:
    """Compare types by barcode with those of a reference, whose names `REFERENCE_NAMES` translates."""
    translated = reference.reindex(types.index).astype(object).map(REFERENCE_NAMES)
    known = translated.notna().to_numpy()
    if not known.any():
        raise UserError("no cell of the reference has a barcode and a type name that are known here")
    ours, theirs = types[known].astype(str), translated[known].astype(str)
    same = (ours == theirs).to_numpy()
    merged = {"CD4 T naive": "CD4 T", "CD4 T memory": "CD4 T"}
    same_merged = (ours.replace(merged) == theirs.replace(merged)).to_numpy()
    table = pd.crosstab(theirs, ours, rownames=["reference"], colnames=["rule"])
    order = [name for name in CELL_TYPES if name in table.index or name in table.columns]
    return "\n".join(
        [
            f"{known.sum()} of {len(types)} cells labelled in the reference",
            f"accuracy {same.mean():.3f} ({same_merged.mean():.3f} with naive and memory CD4 T as one type)",
            f"adjusted Rand index {adjusted_rand_score(theirs, ours):.3f}",
            table.reindex(index=order, columns=order, fill_value=0).to_string(),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file; with a reference, print the agreement."""
    parser = argparse.ArgumentParser(prog="make_pbmc3k", description="Make the bundled file of 2,700 blood cells.")
    parser.add_argument("counts", type=Path, metavar="COUNTS.h5ad", help="raw counts of 10x Genomics PBMC3k in X")
    parser.add_argument("--labels", type=Path, metavar="REFERENCE.h5ad", help="compare with obs['cell_type'] of a file")
    parser.add_argument("--output", type=Path, default=PBMC3K, help="file to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        cells = read_counts(options.counts)
        cells.obs["cell_type"] = assign_cell_types(cast(sp.csr_matrix, cells.X), cells.var_names)
        cells.uns = {"source": SOURCE, "licence": LICENCE}
        write_small(cells, options.output)
        size = options.output.stat().st_size / 1e6
        print(f"{options.output}: {cells.n_obs} cells x {cells.n_vars} genes, {size:.1f} MB")
        if options.labels is not None:
            reference = anndata.read_h5ad(options.labels, backed="r").obs["cell_type"]
            print(report_agreement(cells.obs["cell_type"], reference))
    except UserError as error:
        print(f"make_pbmc3k: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
