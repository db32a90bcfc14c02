"""Expression tables of cell lines, as DepMap, CCLE and GDSC lay them out, into cells over a model's genes.

Shapes: L lines, V genes of the table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from pandas.api.types import is_string_dtype

from cellfm_torch.batch import InputSpec
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.labelled import CellSet
from cellfm_torch.errors import UserError, examples, nearest

Floats = NDArray[np.float64]

VALUES = ("auto", "log2", "ln", "linear")
"""log2 and ln are of 1 + TPM, FPKM or CP10K; linear are these themselves, or counts."""

DEPTH = 1e4
"""That a line's values are made to add up to, as those of a cell."""

MOST_LOG = 50.0
"""Larger values are no logarithms."""

FAR = 0.7
"""Decades that the sum of a line may be from a million (TPM) or ten thousand (CP10K), and its unit still be told."""

DEPMAP_GENE = re.compile(r"^(.+?) \((?:\d+|ENSG\d+(?:\.\d+)?|nan|Unknown)\)$")
WORDS = frozenset({"gene_id", "transcript_ids", "gene_symbols", "gene_title", "name", "description", "gene", "symbol"})
"""Columns of tables with genes as rows that are no line."""


@dataclass(frozen=True)
class Expression:
    """Cell lines as cells.

    Attributes
    ----------
    cells : CellSet
        A row per line.
    lines : tuple of str, L
        Names as the table has them.
    source : str
        For messages.
    notes : tuple of str
        How the table was read.
    """

    cells: CellSet
    lines: tuple[str, ...]
    source: str
    notes: tuple[str, ...] = ()


def read_expression(
    given: anndata.AnnData | str | Path, spec: InputSpec, *, values: str = "auto", **reading: Any
) -> Expression:
    """Read expression of cell lines; lines may be the rows or the columns.

    Parameters
    ----------
    given
        A csv, tsv (``.txt``, ``.gct``; ``.gz`` too) or h5ad, or an AnnData with a row per line.
    spec
        ``model.input_spec``.
    values
        Of :data:`VALUES`; ``"auto"`` tells them by their sum.
    reading
        ``genes`` of :class:`~cellfm_torch.data.options.ReadOptions`, and ``token_budget``.

    Raises
    ------
    UserError
        If the table cannot be read, names no gene of the model, or its values cannot be told or used.
    """
    if values not in VALUES:
        raise UserError(f"values={values}: choose {', '.join(VALUES)}{nearest(values, VALUES)}")
    if spec.genes is None:
        raise UserError("the model does not know which genes its rows stand for: give it a genes.txt in its folder")
    vocab = GeneVocab(spec.genes, first_id=spec.first_id)
    if isinstance(given, anndata.AnnData) or str(given).endswith(".h5ad"):
        source = "the expression table" if isinstance(given, anndata.AnnData) else str(given)
        if not isinstance(given, anndata.AnnData) and not Path(given).expanduser().is_file():
            raise UserError(f"expression={given}: there is no such file")
        adata = given if isinstance(given, anndata.AnnData) else anndata.read_h5ad(Path(given).expanduser())
        lines, genes = list(map(str, adata.obs_names)), list(map(str, adata.var_names))
        matrix = adata.X.toarray() if sp.issparse(adata.X) else np.asarray(adata.X)
    else:
        source = str(given)
        lines, genes, matrix = _oriented(_frame(Path(given).expanduser()), vocab, source)
    matrix = np.asarray(matrix, dtype=np.float64)
    if twice := sorted({line for line in lines if lines.count(line) > 1} if len(set(lines)) < len(lines) else ()):
        raise UserError(f"{source}: line {twice[0]} is there more than once: keep one row of it")
    depmap = sum(bool(DEPMAP_GENE.match(gene)) for gene in genes) > len(genes) / 2
    logs, note = _as_log(matrix, lines, values, depmap=depmap, source=source)
    names = [match[1] if (match := DEPMAP_GENE.match(gene)) else gene for gene in genes]
    made = anndata.AnnData(
        sp.csr_matrix(logs, dtype=np.float32), obs=pd.DataFrame(index=lines), var=pd.DataFrame(index=names)
    )
    cells = CellSet.read(made, spec, counts="normalised", **reading)
    return Expression(cells, tuple(lines), source, (note,))


def _frame(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"expression={path}: there is no such file")
    kind = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    try:
        table = pd.read_csv(
            path,
            sep="," if ".csv" in kind else "\t",
            skiprows=2 if ".gct" in kind else 0,
            index_col=0,
            low_memory=False,
        )
    except (UnicodeDecodeError, ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path}: is no csv, tsv, gct or h5ad ({str(error).splitlines()[0][:80]})") from None
    if table.empty:
        raise UserError(f"{path}: holds no values: genes in one direction and cell lines in the other are expected")
    return table


def _oriented(table: pd.DataFrame, vocab: GeneVocab, source: str) -> tuple[list[str], list[str], Floats]:
    """Return lines, genes and values (L, V), wherever the genes are."""
    rows = [_gene(name) for name in table.index]
    columns = [_gene(name) for name in table.columns]
    of_rows, of_columns = (len(vocab.match(names).matched) for names in (rows, columns))
    words = [name for name in table.columns if str(name).lower() in WORDS or is_string_dtype(table[name])]
    symbols = next((n for n in words if str(n).lower() in ("description", "gene_symbols", "symbol", "gene")), None)
    if of_rows <= of_columns and symbols is not None:  # ids that the vocabulary does not know, symbols beside them
        of_rows = max(of_rows, len(vocab.match(table[symbols].astype(str)).matched))
    if not max(of_rows, of_columns):
        raise UserError(
            f"{source}: no gene of the model is in its rows ({examples(rows)}) or columns ({examples(columns)}): give "
            "gene symbols or Ensembl ids"
        )
    values = table.drop(columns=words) if words else table
    if values.shape[1] == 0:
        raise UserError(f"{source}: has no column of numbers (column {table.columns[0]} holds {table.iloc[0, 0]})")
    numbers = values.to_numpy(dtype=np.float64)
    if of_columns >= of_rows:
        return [str(name) for name in values.index], [str(name) for name in values.columns], numbers
    by_symbol = symbols is not None and len(vocab.match(table[symbols].astype(str)).matched) > len(
        vocab.match(rows).matched
    )
    genes = table[symbols].astype(str).tolist() if by_symbol else [str(name) for name in table.index]
    return [str(name) for name in values.columns], genes, numbers.T


def _gene(name: object) -> str:
    match = DEPMAP_GENE.match(str(name))
    return match[1] if match else str(name)


def _as_log(x: Floats, lines: list[str], values: str, *, depmap: bool, source: str) -> tuple[Floats, str]:
    """Return ln(1 + value), each line's values adding up to ten thousand, and what they were taken for."""
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        raise UserError(f"{source}: line {lines[bad[0][0]]} has a value that is no number: fill it in or drop the gene")
    if x.min() < 0:
        line = lines[int(np.argwhere(x < 0)[0][0])]
        raise UserError(
            f"{source}: line {line} has negative values: log2(TPM + 1), TPM or counts are expected, not centred or "
            "scaled ones"
        )
    if values == "auto":
        values = "log2" if depmap and x.max() <= MOST_LOG else _told(x, source)
    if values != "linear" and x.max() > MOST_LOG:
        raise UserError(f"{source}: values={values}: {x.max():.4g} is too large for a logarithm: set values=linear")
    said = {"log2": "log2(1 + value)", "ln": "ln(1 + value)", "linear": "not logarithms"}[values]
    with np.errstate(over="ignore"):
        linear = x if values == "linear" else np.expm1(x * (np.log(2) if values == "log2" else 1.0))
    total = linear.sum(1, keepdims=True)
    if (empty := np.flatnonzero(total[:, 0] <= 0)).size:
        raise UserError(f"{source}: line {lines[empty[0]]} expresses no gene: take it out")
    return np.log1p(linear / total * DEPTH), f"{source}: {len(lines):,} lines; values taken for {said}"


def _told(x: Floats, source: str) -> str:
    """Tell the unit by what it makes a line's values add up to."""
    if x.max() > MOST_LOG or bool(np.all(x == np.floor(x))):
        return "linear"
    some = x[:50]
    sums = {"log2": np.expm1(some * np.log(2)).sum(1), "ln": np.expm1(some).sum(1)}
    far = {
        name: min(abs(float(np.log10(max(np.median(total), 1e-12) / to))) for to in (1e6, 1e4))
        for name, total in sums.items()
    }
    best = min(far, key=lambda name: far[name])
    if far[best] > FAR:
        raise UserError(
            f"{source}: cannot tell whether values are log2(1 + TPM), ln(1 + TPM) or not logarithms: set values=log2, "
            "ln or linear"
        )
    return best
