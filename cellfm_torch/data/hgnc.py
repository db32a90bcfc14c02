"""HGNC's complete set, as genenames.org offers it for download."""

from __future__ import annotations

import csv
import lzma
import zlib
from pathlib import Path

from cellfm_torch.data.gene_table import Gene, GeneTable, ensembl_id
from cellfm_torch.data.sources.text import open_text
from cellfm_torch.errors import UserError

COLUMNS = {"symbol": "symbol", "ensembl_gene_id": "ensembl", "prev_symbol": "previous", "alias_symbol": "alias"}


def read_hgnc(path: str | Path) -> GeneTable:
    """Read the approved genes of a tab-separated file with a header; several names in a field are joined by ``|``.

    Raises
    ------
    UserError
        If the file is missing, lacks a column, or has no gene.
    """
    path = Path(path).expanduser()
    genes: dict[str, Gene] = {}
    try:
        with open_text(path) as file:
            rows = csv.DictReader(file, delimiter="\t")
            missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
            if missing:
                raise UserError(
                    f"{path}: has no column {' and no '.join(missing)}: give HGNC's complete set, tab separated"
                )
            for row in rows:
                symbol = (row["symbol"] or "").strip()
                # Withdrawn entries name genes that are no more, or have become part of others.
                if symbol and (row.get("status") or "Approved").strip() == "Approved" and symbol not in genes:
                    genes[symbol] = Gene(
                        symbol,
                        tuple(i for name in _split(row["ensembl_gene_id"]) if (i := ensembl_id(name))),
                        _split(row["prev_symbol"]),
                        _split(row["alias_symbol"]),
                    )
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: download HGNC's complete set from genenames.org") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, csv.Error) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{path}: cannot be read ({reason}): give HGNC's complete set, tab separated") from None
    if not genes:
        raise UserError(f"{path}: has no gene: give HGNC's complete set, tab separated")
    return GeneTable(genes.values(), source=f"HGNC ({path.name}, {len(genes):,} genes)")


def _split(field: str | None) -> tuple[str, ...]:
    names = (name.strip().strip('"').strip() for name in (field or "").split("|"))
    return tuple(name for name in dict.fromkeys(names) if name)
