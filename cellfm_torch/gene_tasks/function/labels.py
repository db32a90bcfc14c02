"""Questions about genes: labelled genes of a csv, or the largest sets of a .gmt, over the genes that a model knows.

Shapes: n genes of a question, T terms (1 for two classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.data.gene_sets import read_gmt
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.errors import UserError, examples, nearest

GENE_COLUMNS = ("ensembl_id", "ensembl", "gene_id", "symbol", "gene", "gene_symbol", "gene_name", "name")
"""Columns that are read for names of genes, the first that a model knows a gene by counts."""

MOST_LABELS = 4
"""Of one task; each two are a question."""

YES = ("1", "true", "yes", "1.0", "positive")


@dataclass(frozen=True)
class Question:
    """Genes and what is asked of them.

    Attributes
    ----------
    name : str
        As tables have it.
    rows : (n,) int64
        The genes, positions among those of the model, ascending.
    targets : (n, T) bool
        Of two classes: T = 1, whether it is the first.
    terms : tuple of str
        The two classes, or T terms.
    binary : bool
        Two classes rather than terms of which a gene may have several.
    left_out : int
        Labelled genes of a csv that the model does not know or has no embedding for, or that have both labels.
    """

    name: str
    rows: NDArray[np.int64]
    targets: NDArray[np.bool_]
    terms: tuple[str, ...]
    binary: bool
    left_out: int = 0

    def classes(self) -> NDArray[np.bool_]:
        """Return what must be spread over folds evenly: (n, 2) for two classes, else (n, T)."""
        return np.hstack([self.targets, ~self.targets]) if self.binary else self.targets


def read_questions(
    path: str | Path,
    genes: Sequence[str],
    *,
    known: NDArray[np.bool_] | None = None,
    pairs: Sequence[str] | None = None,
    top_terms: int = 20,
    least_genes: int = 10,
    most_genes: int | None = None,
) -> list[Question]:
    """Read a csv of labelled genes, or a .gmt of gene sets.

    Parameters
    ----------
    path
        csv: a column with gene symbols or Ensembl ids, ``label`` and, for several tasks, ``task``. A task of more than
        two labels is a question for each two of them, without the genes that have both.
    genes : G gene symbols
        Those of the model.
    known : (G,) bool
        Which of them have an embedding; None: all.
    pairs
        Of a csv: which two labels, ``"a/b"``; a is the class looked for. None: each two, the class looked for being the
        first in the file, or the one that says yes.
    top_terms
        Of a .gmt: so many sets, those with the most known genes; genes in none of them take no part.
    least_genes, most_genes
        Of a .gmt: known genes of a set.

    Raises
    ------
    UserError
        If the file lacks what is needed or no gene is known.
    """
    path = Path(path).expanduser()
    there = np.ones(len(genes), dtype=bool) if known is None else known
    if path.suffix == ".gmt":
        if pairs is not None:
            raise UserError(f"pairs={examples(pairs)}: are labels of a csv, and {path.name} has gene sets")
        return [_terms(path, genes, there, top_terms, least_genes, most_genes)]
    table = _read_csv(path)
    tasks = table.groupby("task", sort=False)
    matched = {name: _known(group, genes, there, path) for name, group in tasks}
    if all(group.empty for group in matched.values()):
        first = str(table["names"].iloc[0][0])
        hint = nearest(first.upper(), genes)
        raise UserError(
            f"{path}: none of its {len(table):,} genes ({examples(n[0] for n in table['names'])}) is known to the "
            f"model{hint or ': give human genes, by symbol or Ensembl id'}"
        )
    for a, slash, b in (pair.partition("/") for pair in pairs or ()):
        if not any({a, b} <= set(group["label"]) for _, group in tasks):
            there_are = ", ".join(dict.fromkeys(table["label"]))
            raise UserError(f"pairs={a}{slash}{b}: no task of {path.name} has these two labels; there are {there_are}")
    found = []
    for name, group in tasks:
        kept = matched[name]
        found += _binary(str(name), kept, group["label"], genes, pairs, path)
    return found


def _terms(
    path: Path, genes: Sequence[str], known: NDArray[np.bool_], top: int, least: int, most: int | None
) -> Question:
    if top < 1:
        raise UserError(f"top_terms={top}: must be at least 1")
    positions = np.flatnonzero(known)
    sets = read_gmt(path, [genes[int(i)] for i in positions]).of_size(least, most)
    names = sorted(sets.rows, key=lambda name: -len(sets.rows[name]))[:top]  # ties as the file has them
    member = np.zeros((len(positions), len(names)), dtype=bool)
    for i, name in enumerate(names):
        member[sets.rows[name], i] = True
    some = member.any(1)
    return Question(path.stem, positions[some], member[some], tuple(names), False)


def _read_csv(path: Path) -> pd.DataFrame:
    """Return ``names`` (a tuple of names per row), ``label`` and ``task``, rows numbered as in the file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file of labelled genes: give a .csv (gene, label) or a .gmt")
    try:
        separator = "\t" if path.suffix in (".tsv", ".txt") else ","
        table = pd.read_csv(path, dtype=str, keep_default_na=False, sep=separator)
    except (ValueError, OSError, UnicodeDecodeError, pd.errors.ParserError) as problem:
        raise UserError(f"{path}: is no csv table ({' '.join(str(problem).split())[:100]})") from None
    table.columns = [str(name).strip().lower() for name in table.columns]
    columns = [name for name in GENE_COLUMNS if name in table]
    for needed, missing in (("gene (or symbol, ensembl_id)", not columns), ("label", "label" not in table)):
        if missing:
            raise UserError(f"{path}: has no column {needed}; it has {examples(table, most=8)}: name its columns so")
    names = list(zip(*(table[name].str.strip() for name in columns), strict=True))
    out = pd.DataFrame({"names": names, "label": table["label"].str.strip(), "task": path.stem})
    if "task" in table:
        out["task"] = table["task"].str.strip()
    out.index += 2  # as lines of the file are counted, below its header
    out = out[(out["label"] != "") & out["names"].map(any)]
    if out.empty:
        raise UserError(f"{path}: has no labelled gene")
    return out


def _known(group: pd.DataFrame, genes: Sequence[str], known: NDArray[np.bool_], path: Path) -> pd.DataFrame:
    """Return row in the model and label of each gene of a task that the model knows, by row."""
    vocab, rows = GeneVocab(genes), np.full(len(group), -1)
    for names in zip(*group["names"], strict=True):
        found = vocab.match(names).rows
        rows = np.where(rows >= 0, rows, found)
    rows = np.where((rows >= 0) & known[rows], rows, -1)
    out = pd.DataFrame({"row": rows, "label": group["label"].to_numpy()}, index=group.index)
    out = out[out["row"] >= 0].drop_duplicates()
    return out.sort_values("row")


def _binary(
    task: str,
    kept: pd.DataFrame,
    given: pd.Series,
    genes: Sequence[str],
    pairs: Sequence[str] | None,
    path: Path,
) -> list[Question]:
    labels = list(dict.fromkeys(given))
    if len(labels) == 1:
        raise UserError(f"{path}: all genes of task '{task}' are '{labels[0]}': it takes two classes to tell apart")
    yes = next((label for label in labels if label.lower() in YES), None)
    if yes is not None:
        labels = [yes, *(label for label in labels if label != yes)]
    chosen: list[tuple[str, str]] = list(combinations(labels, 2))
    if pairs is not None:
        chosen = [(a, b) for a, _, b in (pair.partition("/") for pair in pairs) if a in labels and b in labels]
    elif len(labels) > MOST_LABELS:
        raise UserError(
            f"{path}: task '{task}' has {len(labels)} labels ({examples(labels)} ...): name those to tell apart, "
            f"pairs=[{labels[0]}/{labels[1]}]"
        )
    questions = []
    for one, other in chosen:
        part = _once(kept[kept["label"].isin([one, other])], genes, path, refuse=len(labels) == 2)
        left_out = int(given.isin([one, other]).sum()) - len(part)
        target = (part["label"] == one).to_numpy()[:, None]
        name = task if len(labels) == 2 else f"{task}: {one} vs {other}"
        if not target.any() or target.all():
            lone = other if not target.any() else one
            raise UserError(f"{path}: of task '{name}' only genes of '{lone}' are known to the model: it takes two")
        questions.append(Question(name, part["row"].to_numpy(np.int64), target, (one, other), True, left_out))
    return questions


def _once(part: pd.DataFrame, genes: Sequence[str], path: Path, *, refuse: bool) -> pd.DataFrame:
    """Leave out genes of both classes, as tasks of several labels may have; refuse them where there are but two."""
    twice = part["row"].duplicated(keep=False)
    if refuse and twice.any():
        first = part[twice].sort_index()
        at = first.index[first["row"] == first["row"].iloc[0]]
        raise UserError(
            f"{path}: row {at[1]} has '{genes[first['row'].iloc[0]]}' of another class than row {at[0]}: leave one out"
        )
    return part[~twice]
