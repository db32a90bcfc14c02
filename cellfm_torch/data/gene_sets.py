"""Gene sets from .gmt files, over the genes that an analysis has.

Shapes: G genes, S sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.data.gene_table import GeneTable, find_table
from cellfm_torch.errors import UserError, examples


@dataclass(frozen=True)
class GeneSets:
    """Named sets of the rows of some genes.

    Attributes
    ----------
    genes : tuple of str, G
        The genes; sets hold positions in this list.
    rows : dict of str to int arrays
        Members of each set, ascending, each once; sets without a known gene are not here.
    sizes : dict of str to int
        Members that the file has, known or not.
    source : str
        File name.
    """

    genes: tuple[str, ...]
    rows: Mapping[str, NDArray[np.int64]]
    sizes: Mapping[str, int]
    source: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def matrix(self) -> NDArray[np.bool_]:
        """Return which genes are in which set, (G, S)."""
        out = np.zeros((len(self.genes), len(self)), dtype=bool)
        for i, members in enumerate(self.rows.values()):
            out[members, i] = True
        return out

    def of_size(self, least: int, most: int | None = None) -> GeneSets:
        """Return the sets with so many known genes.

        Raises
        ------
        UserError
            If there is none.
        """
        upper = len(self.genes) if most is None else most
        rows = {name: members for name, members in self.rows.items() if least <= len(members) <= upper}
        if not rows:
            largest = max(map(len, self.rows.values()))
            raise UserError(
                f"{self.source}: none of its {len(self):,} sets has between {least:,} and {upper:,} of the "
                f"{len(self.genes):,} genes (the largest has {largest:,}): allow for other sizes"
            )
        return GeneSets(self.genes, rows, {name: self.sizes[name] for name in rows}, self.source)


def read_gmt(path: str | Path, genes: Sequence[str], *, table: GeneTable | None = None) -> GeneSets:
    """Read a .gmt file: a set a line, its name, a description and its genes, separated by tabs.

    Genes are found by symbol, Ensembl id, previous symbol or alias.

    Parameters
    ----------
    path
        The file.
    genes : G gene symbols
        Those of the analysis.
    table
        Names that genes go by; None: the user's own or the bundled one.

    Raises
    ------
    UserError
        If the file is missing or no .gmt, names a set twice, or none of its genes is known.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{path}: no such file of gene sets")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text file: give gene sets as .gmt (set, description, genes; tabs)") from None
    table = find_table() if table is None else table
    position = {symbol: i for i, symbol in enumerate(genes)}
    approved = {table.symbol(symbol): i for symbol, i in position.items()}
    rows: dict[str, NDArray[np.int64]] = {}
    sizes: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, *rest = line.rstrip("\n").split("\t")
        # Some files weigh their genes: GENE,1.0
        members = dict.fromkeys(word.split(",")[0].strip() for word in rest[1:] if word.strip())
        if not members:
            raise UserError(
                f"{path}: line {number} is not a gene set: a .gmt has a name, a description and genes; tabs"
            )
        if name in sizes:
            raise UserError(f"{path}: line {number} names the set '{name}' for the second time: rename one")
        sizes[name] = len(members)
        found = {position[m] if m in position else approved.get(table.symbol(m), -1) for m in members} - {-1}
        if found:
            rows[name] = np.array(sorted(found))
    if not sizes:
        raise UserError(f"{path}: has no gene set")
    if not rows:
        first = next(line for line in lines if line.strip()).split("\t")[2:]
        raise UserError(
            f"{path}: none of the genes of its {len(sizes):,} sets is known ({examples(first)} ...): "
            "give sets of human genes, by symbol or Ensembl id"
        )
    return GeneSets(tuple(genes), rows, sizes, path.name)
