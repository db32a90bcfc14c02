"""Which names a gene goes by: approved symbol, previous symbols, aliases, Ensembl ids.

The bundled table knows symbols and Ensembl ids. HGNC's complete set, which users download themselves (genenames.org),
adds previous symbols and aliases; it is compiled once by ``cellfm genes build`` and found again from then on.
"""

from __future__ import annotations

import functools
import gzip
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from cellfm_torch.errors import UserError
from cellfm_torch.files import written_beside
from cellfm_torch.paths import VOCAB

BUNDLED = VOCAB / "genes.tsv.gz"
ENVIRONMENT = "CELLFM_GENES"
"""Environment variable with the path of a gene table."""

MARK = "#cellfm genes 1"
"""Start of a table's first line; what it was made from follows."""

COLUMNS = ("symbol", "ensembl", "previous", "alias")
_ENSEMBL = re.compile(r"(?<![A-Za-z])ENSG(R?)(\d{10,11})(?!\d)")


class Gene(NamedTuple):
    """Names of one gene."""

    symbol: str
    ensembl: tuple[str, ...] = ()
    previous: tuple[str, ...] = ()
    alias: tuple[str, ...] = ()


def ensembl_id(name: str) -> str | None:
    """Return the human Ensembl gene id in a name, without version, or None.

    Versions, the suffix of the Y copy of a shared gene and a symbol beside the id do not matter:
    ``ENSG00000002586.20_PAR_Y``, ``ENSGR0000002586`` and ``CD99_ENSG00000002586`` are one gene.
    """
    if "ENSG" not in name or not (found := _ENSEMBL.search(name)):
        return None
    digits = found[2] if not found[1] else f"0{found[2]}"
    return f"ENSG{digits}" if len(digits) == 11 else None


class GeneTable:
    """Genes, and how names lead to them.

    Parameters
    ----------
    genes
        Each approved symbol once.
    source
        What the table was made from.
    """

    def __init__(self, genes: Iterable[Gene], *, source: str = "") -> None:
        self.genes = tuple(genes)
        self.source = source
        self.approved = {gene.symbol: i for i, gene in enumerate(self.genes)}
        self.ensembl = {identifier: i for i, gene in reversed(list(enumerate(self.genes))) for identifier in gene[1]}
        self._others: list[tuple[str, dict[str, set[int]]]] = []
        for kind in ("previous", "alias"):
            names: dict[str, set[int]] = defaultdict(set)
            for i, gene in enumerate(self.genes):
                for name in getattr(gene, kind):
                    names[name].add(i)
            self._others.append((kind, dict(names)))

    def __len__(self) -> int:
        return len(self.genes)

    def find(self, name: str) -> tuple[int, str]:
        """Return the position of the gene that goes by a name, and the kind of name.

        The kind is ``"symbol"``, ``"ensembl"``, ``"previous"`` or ``"alias"``; with position -1 it is ``"ambiguous"``
        for the name of several genes and ``""`` for a name nobody knows. An approved symbol is never a previous one or
        an alias of another gene, and a previous symbol never an alias.
        """
        if name in self.approved:
            return self.approved[name], "symbol"
        if identifier := ensembl_id(name):
            return self.ensembl.get(identifier, -1), "ensembl" if identifier in self.ensembl else ""
        for kind, names in self._others:
            if found := names.get(name):
                return (next(iter(found)), kind) if len(found) == 1 else (-1, "ambiguous")
        return -1, ""

    def symbol(self, name: str) -> str:
        """Return the approved symbol for a name, or the name itself where it stands for no gene of the table."""
        gene, _ = self.find(name)
        return self.genes[gene].symbol if gene >= 0 else name

    def save(self, path: str | Path) -> None:
        """Write the table, compressed, the same bytes for the same genes; it appears complete or not at all."""
        lines = [f"{MARK} {self.source}".rstrip(), "\t".join(COLUMNS)]
        lines += ["\t".join((gene.symbol, *("|".join(names) for names in gene[1:]))) for gene in self.genes]
        with written_beside(path) as part:
            part.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0))

    @classmethod
    def load(cls, path: str | Path) -> GeneTable:
        """Read a table that :meth:`save` wrote; a table read before is remembered while its file does not change.

        Raises
        ------
        UserError
            If there is none, or the file is something else.
        """
        try:
            return _load(Path(path), os.stat(path).st_mtime_ns)
        except FileNotFoundError:
            raise UserError(f"{path}: no such gene table: make one with cellfm genes build HGNC_FILE") from None
        except (OSError, EOFError, zlib.error, ValueError) as error:
            what = f" ({error})" if isinstance(error, OSError) and error.strerror else ""
            raise UserError(f"{path}: is not a gene table{what}: make one with cellfm genes build HGNC_FILE") from None

    def merged(self, other: GeneTable) -> GeneTable:
        """Return this table with what another one knows besides: ids, previous symbols and aliases of the same genes.

        A gene of the other table whose symbol is here a previous one goes to the gene that has it now. Names that are
        approved here, or whose ids belong to another gene here, are not taken over.
        """
        genes = [tuple(map(list, gene[1:])) for gene in self.genes]
        symbols = [gene.symbol for gene in self.genes]
        for gene in other.genes:
            at, kind = self.find(gene.symbol)
            known = [self.ensembl[identifier] for identifier in gene.ensembl if identifier in self.ensembl]
            if kind not in ("symbol", "previous"):
                at = known[0] if known else len(symbols)
            if at == len(symbols):
                symbols.append(gene.symbol)
                genes.append(([], [], []))
            ids, previous, alias = genes[at]
            ids += [identifier for identifier in gene.ensembl if identifier not in self.ensembl]
            older = gene.previous if gene.symbol == symbols[at] else (gene.symbol, *gene.previous)
            previous += [name for name in older if name not in self.approved]
            alias += [name for name in gene.alias if name not in self.approved]
        joined = (
            Gene(symbol, *(tuple(dict.fromkeys(kind)) for kind in names))
            for symbol, names in zip(symbols, genes, strict=True)
        )
        return GeneTable(sorted(joined), source="; ".join(filter(None, (self.source, other.source))))


MOST_TEXT = 1 << 27
"""Characters; all names of all genes take a thirtieth of that, and a small packed file can hold any number."""


@functools.lru_cache(maxsize=4)
def _load(path: Path, _changed: int) -> GeneTable:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        text = file.read(MOST_TEXT + 1)
    if len(text) > MOST_TEXT:
        raise ValueError("larger than any table of genes")
    first, header, *lines = text.split("\n")
    if not first.startswith(MARK) or tuple(header.split("\t")) != COLUMNS:
        raise ValueError("another header")
    rows = (line.split("\t") for line in lines if line)
    genes = (Gene(row[0], *(tuple(filter(None, names.split("|"))) for names in _names(row))) for row in rows)
    return GeneTable(genes, source=first.removeprefix(MARK).strip())


def _names(row: Sequence[str]) -> Sequence[str]:
    if len(row) != len(COLUMNS):
        raise ValueError("another number of columns")
    return row[1:]


def cached_table() -> Path:
    """Where ``cellfm genes build`` puts a table, and where it is looked for."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "cellfm_torch" / "genes.tsv.gz"


def find_table(path: str | Path | None = None) -> GeneTable:
    """Return the gene table of an option, else of the environment, else the user's own, else the bundled one.

    Raises
    ------
    UserError
        If one was named that does not exist or is none.
    """
    named = path or os.environ.get(ENVIRONMENT)
    if named:
        return GeneTable.load(Path(named).expanduser())
    return GeneTable.load(cached if (cached := cached_table()).is_file() else BUNDLED)
