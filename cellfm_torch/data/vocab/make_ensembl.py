"""Make ensembl.tsv.gz: Ensembl gene id and symbol of every gene in the bundled vocabularies.

Run from a checkout: ``python cellfm_torch/data/vocab/make_ensembl.py gene_info.csv``, where the CSV has the columns
``ensembl_id`` and ``gene_name``. The bundled table was made from Geneformer's ``gene_info_table.csv``; only the pairs
(facts) are kept. Several ids may share a symbol (alternative assemblies); an id has one symbol.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent


def main(gene_info: str) -> None:
    """Write the table beside this script, sorted by id and byte for byte reproducible."""
    symbols = {symbol for file in HERE.glob("genes_*.txt") for symbol in file.read_text().split()}
    table = pd.read_csv(gene_info, usecols=["ensembl_id", "gene_name"])
    real_id = table["ensembl_id"].str.fullmatch(r"ENSG\d{11}")
    table = table[real_id & table["gene_name"].isin(symbols)].drop_duplicates("ensembl_id").sort_values("ensembl_id")
    lines = "".join(f"{gene}\t{symbol}\n" for gene, symbol in table.itertuples(index=False))
    (HERE / "ensembl.tsv.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    print(f"{len(table):,} ids of {table['gene_name'].nunique():,} symbols")


if __name__ == "__main__":
    main(sys.argv[1])
