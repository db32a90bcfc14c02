"""``cellfm genes``: the tables by which gene names are found.

cellfm genes build HGNC_FILE [--output FILE]    compile HGNC's complete set into a gene table
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from cellfm_torch.command_line import OneLineParser
from cellfm_torch.errors import UserError, nearest

USER_ERROR = 2


def build(arguments: Sequence[str]) -> int:
    """Compile HGNC's complete set; returns the exit code."""
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
    options = parser.parse_args(list(arguments))

    from cellfm_torch.data.gene_table import BUNDLED, GeneTable, cached_table
    from cellfm_torch.data.hgnc import read_hgnc

    table = read_hgnc(options.hgnc_file).merged(GeneTable.load(BUNDLED))
    output = options.output or cached_table()
    try:
        table.save(output)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror}): choose --output=FILE") from None
    others = {kind: sum(len(getattr(gene, kind)) for gene in table.genes) for kind in ("previous", "alias")}
    print(
        f"{output}: {len(table):,} genes, {len(table.ensembl):,} Ensembl ids, {others['previous']:,} previous symbols, "
        f"{others['alias']:,} aliases"
    )
    return 0


VERBS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "build": (build, "compile HGNC's complete set into a gene table"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``cellfm genes``; returns the exit code (2 for a mistake of the user's)."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    if not typed or typed[0] in ("-h", "--help"):
        lines = "\n".join(f"  {name}  {text}" for name, (_, text) in VERBS.items())
        print(f"usage: cellfm genes VERB [options]\n\nThe tables by which gene names are found.\n\nverbs:\n{lines}")
        return 0
    if typed[0] not in VERBS:
        hint = nearest(typed[0], VERBS)
        print(f"error: there is no verb 'genes {typed[0]}'{hint} See cellfm genes --help", file=sys.stderr)
        return USER_ERROR
    try:
        return VERBS[typed[0]][0](typed[1:])
    except UserError as problem:
        print(f"error: {' '.join(str(problem).split())}", file=sys.stderr)
        return USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
