"""How the gene names of a file find their way into a vocabulary, and which species they are of.

Shapes: V genes (variables) of a file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.data.gene_table import GeneTable, ensembl_id
from cellfm_torch.data.options import MatchRule

GENOME = re.compile(r"^(?:GRCh3[78]|hg19|hg38)_+")
"""What Cell Ranger puts before a human gene where it aligned to two species."""

_REPEATED = re.compile(r"^(.+)[-.]([1-9]\d*)$")
_OPEN_FRAME = re.compile(r"^C([\dXY]+)ORF(\d+)")


def match_names(
    names: Sequence[str], position: Mapping[str, int], table: GeneTable, *, rule: MatchRule
) -> tuple[NDArray[np.int64], tuple[str, ...], NDArray[np.bool_]]:
    """Find genes in a vocabulary.

    A name is looked up as it is, then as what the table knows of it. Names of one gene are all found, but a previous
    symbol or alias only where the file has the gene under no better name. A name with ``-1``, ``-2`` ... behind it
    (repeated names that were made unique) is the one without, where the file has that too.

    Parameters
    ----------
    names : V
    position
        Row of each symbol of the vocabulary.
    table
        Names that genes go by.
    rule
        ``"exact"`` for symbols as the vocabulary has them and nothing else.

    Returns
    -------
    rows : (V,) int64
        Row in the vocabulary, or -1.
    kinds : tuple of str, V
        See :class:`~cellfm_torch.data.genes.GeneMatch`.
    mito : (V,) bool
        Mitochondrial genes.
    """
    plain = [_normal(name, position) for name in names] if rule == "all" else list(names)
    found = [(position[name], "symbol") if name in position else (-1, "") for name in plain]
    if rule == "all":
        row_of_gene = _rows_of_genes(position, table)
        for i, (row, _) in enumerate(found):
            if row < 0:
                gene, kind = table.find(plain[i])
                row = row_of_gene.get(gene, -1) if gene >= 0 else -1
                if kind == "symbol":  # the vocabulary has this gene under a previous symbol
                    kind = "previous"
                found[i] = (row, kind if row >= 0 or kind == "ambiguous" else "")
        _give_up_taken(found)
        _join_repeated(plain, found, table)
    mito = np.array([_is_mito(name, table) for name in plain], dtype=bool)
    rows = np.array([row for row, _ in found], dtype=np.int64)
    return rows, tuple(kind for _, kind in found), mito


def _normal(name: str, position: Mapping[str, int]) -> str:
    """Return a name without its genome, and reading frames (C1orf112) as HGNC writes them."""
    if name in position:
        return name
    return _OPEN_FRAME.sub(r"C\1orf\2", GENOME.sub("", name))


def _rows_of_genes(position: Mapping[str, int], table: GeneTable) -> dict[int, int]:
    """Row of each gene of the table in the vocabulary: by its symbol, else by a previous one."""
    rows: dict[int, int] = {}
    for wanted in ("symbol", "previous"):
        for symbol, row in position.items():
            gene, kind = table.find(symbol)
            if kind == wanted:
                rows.setdefault(gene, row)
    return rows


def _give_up_taken(found: list[tuple[int, str]]) -> None:
    """Leave out previous symbols of genes that the file names directly, and aliases of genes it names otherwise."""
    direct = {row for row, kind in found if kind in ("symbol", "ensembl")}
    for kind in ("previous", "alias"):
        weak = [i for i, entry in enumerate(found) if entry[1] == kind]
        taken = [i for i in weak if found[i][0] in direct]
        direct |= {found[i][0] for i in weak}
        for i in taken:
            found[i] = (-1, "taken")


def _join_repeated(names: Sequence[str], found: list[tuple[int, str]], table: GeneTable) -> None:
    """Give ``NAME-2`` the row of ``NAME`` where the file has ``NAME`` and ``NAME-1`` too, and ``NAME-2`` is no gene."""
    at = {name: i for i, name in enumerate(names)}
    for i, name in enumerate(names):
        parts = _REPEATED.match(name) if found[i] == (-1, "") else None
        if parts is None or parts[1] not in at or table.find(name)[0] >= 0:
            continue
        before = parts[1] if parts[2] == "1" else f"{parts[1]}{name[len(parts[1])]}{int(parts[2]) - 1}"
        if before in at:
            found[i] = found[at[parts[1]]]


def _is_mito(name: str, table: GeneTable) -> bool:
    if name.startswith("MT-"):
        return True
    identifier = ensembl_id(name)
    gene = table.ensembl.get(identifier, -1) if identifier else -1
    return gene >= 0 and table.genes[gene].symbol.startswith("MT-")


SPECIES_IDS = {
    "ENSMUSG": "mouse",
    "ENSRNOG": "rat",
    "ENSDARG": "zebrafish",
    "ENSMMUG": "macaque",
    "ENSMFAG": "macaque",
    "ENSPTRG": "chimpanzee",
    "ENSSSCG": "pig",
    "ENSBTAG": "cow",
    "ENSGALG": "chicken",
    "ENSOCUG": "rabbit",
    "ENSXETG": "frog",
    "FBgn": "fruit fly",
    "WBGene": "worm (C. elegans)",
    "AT1G": "thale cress",
}
"""Beginnings of the gene ids of other species."""


LEAST_SYMBOLS = 20
"""Fewer symbols say nothing about the species."""


def guess_species(names: Sequence[str]) -> str | None:
    """Return the species that most gene names look like where that is not human, or None.

    Ids say it themselves. Symbols of mouse and rat are capitalised (Cd4, Gapdh), those of zebrafish
    are small (cd4-1) and come with those of clones (si:dkey-1).
    """
    if not names:
        return None
    half = len(names) / 2
    ids = Counter(prefix for name in names for prefix in SPECIES_IDS if name.startswith(prefix))
    prefix, number = ids.most_common(1)[0] if ids else ("", 0)
    if number > half:
        return SPECIES_IDS[prefix]
    if len(names) < LEAST_SYMBOLS:
        return None
    bare = [re.sub(r"^(?:mm10|mm39|GRCm3\d)_+", "", name) for name in names]
    words = [name for name in bare if re.search("[A-Za-z]{2}", name)]
    capitalised = [name for name in words if re.match(r"(?:mt-)?[A-Z][a-z0-9]+(?![A-Z])", name) and _small(name)]
    if len(capitalised) > half:
        rat = sum(name.startswith(("LOC", "RGD", "AABR", "AC1")) for name in names)
        mouse = sum(bool(re.match(r"Gm\d+|.*Rik$", name)) for name in bare)
        return "rat" if rat > 10 * mouse and rat > 0.01 * len(names) else "mouse"
    clones = sum(name.startswith(("si:", "zgc:", "wu:")) for name in names)
    if sum(name == name.lower() for name in words) > half and clones > 0.005 * len(names):
        return "zebrafish"
    return None


def _small(name: str) -> bool:
    """Whether a capitalised name has small letters behind its first, as no human symbol but C1orf112 and its like."""
    return bool(re.search("[a-z]", name[1:])) and not re.match(r"C[\dXY]+orf", name)
