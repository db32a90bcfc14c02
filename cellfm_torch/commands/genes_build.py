"""The tables by which gene names are found: ``cellfm genes build HGNC_FILE [--output FILE]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cellfm_torch.answers import answer
from cellfm_torch.command_line import OneLineParser, complain
from cellfm_torch.errors import UserError


def parsers() -> list[argparse.ArgumentParser]:
    """Return the options."""
    parser = OneLineParser(
        prog="cellfm genes build",
        description="Compile HGNC's complete set (tab separated: symbol, prev_symbol, alias_symbol, ensembl_gene_id), "
        "which genenames.org offers for download, into a gene table. Without --output it becomes your own table, which "
        "every command uses from then on; another one is named with genes.table=FILE or CELLFM_GENES=FILE.",
        epilog="example: cellfm genes build hgnc_complete_set.txt",
        allow_abbrev=False,
    )
    parser.add_argument("hgnc_file", metavar="HGNC_FILE", help="hgnc_complete_set.txt, compressed or not")
    parser.add_argument("--output", metavar="FILE", help="where to write it (default: your cache folder)")
    return [parser]


def build(arguments: Sequence[str]) -> int:
    """Compile HGNC's complete set; returns the exit code.

    Raises
    ------
    UserError
        If the file cannot be read, or the table cannot be written.
    """
    options = parsers()[0].parse_args(list(arguments))

    from cellfm_torch.data.gene_table import BUNDLED, GeneTable, cached_table
    from cellfm_torch.data.hgnc import read_hgnc

    table = read_hgnc(options.hgnc_file).merged(GeneTable.load(BUNDLED))
    output = options.output or cached_table()
    try:
        table.save(output)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror}): choose --output=FILE") from None
    others = {kind: sum(len(getattr(gene, kind)) for gene in table.genes) for kind in ("previous", "alias")}
    answer(output=output, genes=len(table))
    print(
        f"{output}: {len(table):,} genes, {len(table.ensembl):,} Ensembl ids, {others['previous']:,} previous symbols, "
        f"{others['alias']:,} aliases"
    )
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``cellfm genes build``; returns the exit code (2 for a mistake of the user's)."""
    try:
        return build(list(sys.argv[1:] if arguments is None else arguments))
    except UserError as problem:
        return complain(problem)


if __name__ == "__main__":
    sys.exit(main())
