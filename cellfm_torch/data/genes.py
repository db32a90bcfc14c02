"""Gene vocabulary of a model, and how the gene names of a data file map onto it.

Shapes: G genes of the vocabulary, V genes (variables) of a file.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.data.gene_match import match_names
from cellfm_torch.data.gene_table import GeneTable, find_table
from cellfm_torch.data.options import MatchRule
from cellfm_torch.data.vocab import bundled_symbols
from cellfm_torch.errors import UserError, naming
from cellfm_torch.files import write_text
from cellfm_torch.paths import VOCAB

MATCHED = ("symbol", "ensembl", "previous", "alias")
"""What a name can be matched by; a better kind comes first."""


@dataclass(frozen=True)
class GeneMatch:
    """Where the genes of a file are in a vocabulary.

    Attributes
    ----------
    names : tuple of str, V
        Gene names of the file, surrounding white space removed.
    rows : (V,) int64
        Position of each in the vocabulary, 0 .. G - 1, or -1.
    kinds : tuple of str, V
        What each was matched by: ``"symbol"``, ``"ensembl"``, ``"previous"`` or ``"alias"``. Where it was not:
        ``"ambiguous"`` for the previous symbol or alias of several genes, ``"taken"`` for that of a gene which the file
        has under a better name, and ``""``.
    mito : (V,) bool
        Which are mitochondrial genes, whether in the vocabulary or not.
    table : str
        What the table of names was made from.
    """

    names: tuple[str, ...]
    rows: NDArray[np.int64]
    kinds: tuple[str, ...]
    mito: NDArray[np.bool_]
    table: str = ""

    @property
    def matched_by(self) -> dict[str, int]:
        """Genes of the file by what they were matched by, or by why they were not."""
        numbers = Counter(self.kinds)
        return {kind: numbers[kind] for kind in (*MATCHED, "ambiguous", "taken") if numbers[kind]}

    @property
    def kind(self) -> str:
        """What most names were matched by; ``"symbol"`` where none was."""
        return max(MATCHED, key=self.kinds.count)

    @property
    def matched(self) -> list[str]:
        """Names found in the vocabulary, in file order."""
        return [self.names[i] for i in np.flatnonzero(self.rows >= 0)]

    @property
    def unmatched(self) -> list[str]:
        """Names not found, in file order."""
        return [self.names[i] for i in np.flatnonzero(self.rows < 0)]

    @property
    def repeated(self) -> NDArray[np.bool_]:
        """Which file genes name a vocabulary gene that an earlier one already named, (V,)."""
        later = np.ones(len(self.rows), dtype=bool)
        later[np.unique(self.rows, return_index=True)[1]] = False
        return later & (self.rows >= 0)

    @property
    def duplicated(self) -> list[str]:
        """Names of the repeated file genes, in file order."""
        return [self.names[i] for i in np.flatnonzero(self.repeated)]


class GeneVocab:
    """The genes a model knows, in the order of its embedding rows.

    Parameters
    ----------
    symbols
        Gene symbols, each once.
    first_id
        Embedding row of the first one: 1 for CellFM, whose row 0 is padding.

    Raises
    ------
    UserError
        If the list is empty or names a gene twice.
    """

    def __init__(self, symbols: Iterable[str], *, first_id: int = 1) -> None:
        self.symbols = tuple(symbols)
        self.first_id = first_id
        self._position = {symbol: i for i, symbol in enumerate(self.symbols)}
        self._matched: deque[tuple[tuple[tuple[str, ...], GeneTable, str], GeneMatch]] = deque(maxlen=4)
        if not self.symbols:
            raise UserError("gene list is empty: give one gene symbol a line")
        if len(self._position) < len(self.symbols):
            twice = next(symbol for i, symbol in enumerate(self.symbols) if self._position[symbol] != i)
            raise UserError(f"gene list names '{twice}' more than once: remove the repetition")

    @classmethod
    def bundled(cls, num_genes: int) -> GeneVocab:
        """Return a published vocabulary by its size: 24,078 (CellFM 800M) or 27,855 (CellFM 80M)."""
        symbols = bundled_symbols(num_genes)
        if symbols is None:
            sizes = sorted(path.stem.removeprefix("genes_") for path in VOCAB.glob("genes_*.txt"))
            raise UserError(f"no bundled vocabulary of {num_genes} genes: choose from {', '.join(sizes)}")
        return cls(symbols)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, first_id: int = 1) -> GeneVocab:
        """Read a vocabulary, one symbol a line.

        Raises
        ------
        UserError
            If the file is missing, empty, or names a gene twice.
        """
        if not Path(path).is_file():
            raise UserError(f"{path}: no such gene list")
        try:
            symbols = Path(path).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: is not a gene list ({error}): give one gene symbol a line") from None
        with naming(path):
            return cls(symbols, first_id=first_id)

    def save(self, path: str | Path) -> None:
        """Write the symbols, one a line; the file appears complete or not at all."""
        write_text(path, "".join(f"{symbol}\n" for symbol in self.symbols))

    def __len__(self) -> int:
        return len(self.symbols)

    def match(
        self, names: Iterable[str], *, rule: MatchRule = "all", table: GeneTable | str | Path | None = None
    ) -> GeneMatch:
        """Find the genes of a file in the vocabulary.

        Parameters
        ----------
        names : V gene names
        rule
            ``"all"``: symbols, previous symbols, aliases and Ensembl ids with or without version, in any mixture.
            ``"exact"``: symbols as the vocabulary has them.
        table
            Names that genes go by; the path of a table, or None for the user's own or the bundled one.
        """
        table = table if isinstance(table, GeneTable) else find_table(table)
        given = tuple(str(name).strip() for name in names)
        # Files of one study have the same genes: one of ten thousand files is matched, the others are looked up.
        for asked, match in self._matched:
            if asked[1] is table and asked == (given, table, rule):
                return match
        match = GeneMatch(given, *match_names(given, self._position, table, rule=rule), table=table.source)
        self._matched.appendleft(((given, table, rule), match))
        return match
