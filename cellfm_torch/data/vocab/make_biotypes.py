"""Make biotypes.tsv.gz: the kind of each gene of the published vocabularies.

    python -m cellfm_torch.data.vocab.make_biotypes TABLE.csv

TABLE has the columns ``ensembl_id``, ``gene_name`` and ``gene_type``. The bundled one was made from Geneformer's
``gene_info_table.csv``; only what each gene is (a fact) is kept. Genes that the table does not know are told by the
naming rules of the HGNC (doi 10.1038/s41588-020-0669-3), where these say it.
"""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path

import pandas as pd

from cellfm_torch.data.gene_table import BUNDLED, GeneTable
from cellfm_torch.files import written_beside

HERE = Path(__file__).resolve().parent

CODING = "protein_coding"

# Since release 31 GENCODE calls all of these lncRNA.
LNCRNA = {
    "lincRNA",
    "antisense",
    "sense_intronic",
    "sense_overlapping",
    "processed_transcript",
    "3prime_overlapping_ncrna",
    "macro_lncRNA",
    "bidirectional_promoter_lncRNA",
}
NAMED = (
    (re.compile(r"LINC\d+|.+-(AS|IT|OT)\d+|.+-DT|MIR\w+HG|SNHG\d+"), "lncRNA"),
    (re.compile(r"MIR(LET)?\d\w*(-\d+)?"), "miRNA"),
    (re.compile(r"SNOR[AD]\d\w*(-\d+)?"), "snoRNA"),
    (re.compile(r"RNU\d\w*(-\d+)?"), "snRNA"),
)


def joined(biotype: str) -> str:
    """Return the kind of gene that a type of some release is today."""
    if biotype in LNCRNA:
        return "lncRNA"
    return "pseudogene" if biotype.endswith("pseudogene") else biotype


def by_name(symbol: str) -> str:
    """Return what a symbol says of its gene; nothing where it says nothing."""
    return next((biotype for rule, biotype in NAMED if rule.fullmatch(symbol)), "")


def main(path: str) -> None:
    """Write the table beside this script, byte for byte reproducible."""
    table = pd.read_csv(path, dtype=str).dropna(subset=["gene_type"])
    by_id = dict(zip(table["ensembl_id"], table["gene_type"], strict=True))
    by_symbol = dict(zip(table["gene_name"], table["gene_type"], strict=True))
    genes = GeneTable.load(BUNDLED)
    lines = []
    symbols = sorted({s for file in HERE.glob("genes_*.txt") for s in file.read_text(encoding="utf-8").split()})
    for symbol in symbols:
        at, _ = genes.find(symbol)
        ids = genes.genes[at].ensembl if at >= 0 else ()
        kinds = [by_id[i] for i in ids if i in by_id]
        # Alternative haplotypes have ids of their own, and some of these are of another type.
        found = CODING if CODING in kinds else next(iter(kinds), by_symbol.get(symbol))
        if biotype := joined(found) if found else by_name(symbol):
            lines.append(f"{symbol}\t{biotype}\n")
    with written_beside(HERE / "biotypes.tsv.gz") as part:
        part.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
    print(f"{len(lines):,} of {len(symbols):,} genes")


if __name__ == "__main__":
    main(sys.argv[1])
