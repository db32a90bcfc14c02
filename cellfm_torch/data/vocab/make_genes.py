"""Make genes.tsv.gz: names and Ensembl ids of the genes in the published vocabularies.

    python -m cellfm_torch.data.vocab.make_genes NEWEST.csv OLDER.csv ... [--also genes.txt ...] --source TEXT

Each CSV lists Ensembl gene ids and the symbols they had in one release: columns ``ensembl_id`` and ``gene_name``, or no
header and these two first. A gene is an id; its symbol is that of the newest release, its previous symbols are those
of the older ones. Kept are genes with a name in a vocabulary: those beside this script and those of ``--also``.

The bundled table was made from Geneformer's ``gene_info_table.csv`` alone; only the pairs (facts) are kept. Previous
symbols and aliases come with HGNC's table, which users compile themselves (``cellfm genes build``).
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cellfm_torch.data.gene_table import Gene, GeneTable

HERE = Path(__file__).resolve().parent


def read_release(path: str) -> dict[str, str]:
    """Return the symbol of each Ensembl gene id."""
    table = pd.read_csv(path, header=None, dtype=str)
    if "ensembl_id" in set(table.iloc[0]):
        table.columns = pd.Index(table.iloc[0])
        table = table[["ensembl_id", "gene_name"]]
    pairs = table.iloc[:, :2].dropna()
    # Some lists make repeated symbols unique by adding the id.
    symbols = (re.sub(r"_ENSG\d+$", "", symbol) for symbol in pairs.iloc[:, 1])
    named = zip(pairs.iloc[:, 0], symbols, strict=True)
    return {gene: symbol for gene, symbol in named if re.fullmatch(r"ENSG\d{11}", gene) and symbol != gene}


def make_table(releases: Sequence[dict[str, str]], vocabulary: set[str], *, source: str = "") -> GeneTable:
    """Join releases, newest first, into the genes with a name in the vocabulary."""
    ids: dict[str, list[str]] = defaultdict(list)
    older: dict[str, list[str]] = defaultdict(list)
    for gene in sorted(set().union(*releases)):
        names = list(dict.fromkeys(release[gene] for release in releases if gene in release))
        ids[names[0]].append(gene)
        older[names[0]] += names[1:]
    return GeneTable(
        (
            # A name that another gene has now is no previous one: it would be that gene's.
            Gene(symbol, tuple(ids[symbol]), tuple(n for n in dict.fromkeys(older[symbol]) if n not in ids))
            for symbol in sorted(ids)
            if symbol in vocabulary or not vocabulary.isdisjoint(older[symbol])
        ),
        source=source,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table beside this script, byte for byte reproducible."""
    parser = argparse.ArgumentParser(prog="python -m cellfm_torch.data.vocab.make_genes")
    parser.add_argument("releases", nargs="+", metavar="CSV")
    parser.add_argument("--also", nargs="*", default=[], metavar="genes.txt")
    parser.add_argument("--source", required=True)
    options = parser.parse_args(arguments)
    lists = [*HERE.glob("genes_*.txt"), *map(Path, options.also)]
    vocabulary = {symbol for path in lists for symbol in path.read_text(encoding="utf-8").split()}
    table = make_table([read_release(path) for path in options.releases], vocabulary, source=options.source)
    table.save(HERE / "genes.tsv.gz")
    known = {table.find(symbol)[0] for symbol in vocabulary} - {-1}
    print(f"{len(table):,} genes, {len(table.ensembl):,} ids, {len(known):,} of {len(vocabulary):,} symbols found")


if __name__ == "__main__":
    main()
