"""Which genes to learn from and which to test on: folds with as much of each class, families kept together.

Shapes: n genes, C classes or terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.errors import UserError, examples

FOLDS, INNER = 21, 22
"""First words of the seeds."""


def gene_folds(
    classes: NDArray[np.bool_],
    number: int,
    names: Sequence[str],
    *,
    seed: int,
    families: NDArray[np.int64] | None = None,
    what: str = "the task",
) -> NDArray[np.int64]:
    """Deal genes out to folds, (n,) fold of each.

    Large families first, each goes where there is least of its classes so far.

    Parameters
    ----------
    classes : (n, C) bool
        A gene may be of several.
    number
        Folds.
    names : C words
    families : (n,) int, optional
        Genes of one number stay in one fold.
    what
        Name of the task, for messages.

    Raises
    ------
    UserError
        If there is one fold, or a class has fewer genes or families than there are folds.
    """
    if number < 2:
        raise UserError(f"folds={number}: must be at least 2")
    unit = np.arange(len(classes)) if families is None else np.unique(families, return_inverse=True)[1]
    for kind, of in (("genes", np.arange(len(classes))), ("families of genes", unit)):
        sizes = np.array([len(np.unique(of[classes[:, i]])) for i in range(classes.shape[1])])
        if (few := np.flatnonzero(sizes < number)).size:
            said = examples(f"'{names[int(i)]}' ({sizes[i]})" for i in few)
            raise UserError(f"{what}: fewer {kind} than folds={number} in {said}: use fewer folds or give more genes")
    return _dealt(classes, unit, number, np.random.default_rng([FOLDS, seed]))


def inner_split(classes: NDArray[np.bool_], share: float, *, seed: int) -> NDArray[np.bool_]:
    """Hold out a share of training genes to stop by, (n,) bool, with as much of each class as can be."""
    parts = max(2, round(1 / share))
    return _dealt(classes, np.arange(len(classes)), parts, np.random.default_rng([INNER, seed])) == 0


def _dealt(
    classes: NDArray[np.bool_], unit: NDArray[np.int64], number: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    units = int(unit.max()) + 1
    members = np.zeros((units, classes.shape[1]))
    np.add.at(members, unit, classes.astype(float))
    sizes = np.bincount(unit, minlength=units)
    total = np.maximum(members.sum(0), 1)
    rarest = np.where(members > 0, total, np.inf).min(1)
    # Large families first, then genes of rare classes: what comes last evens out.
    order = np.lexsort((rng.random(units), rarest, -sizes))
    filled, load = np.zeros((number, classes.shape[1])), np.zeros(number)
    place = np.empty(units, dtype=np.int64)
    for i in order:
        weights = members[i] / total
        cost = filled @ weights
        best = np.lexsort((rng.random(number), load, np.round(cost, 12)))[0]
        place[i] = best
        filled[best] += members[i] / total
        load[best] += sizes[i]
    return place[unit]


def read_families(path: str | Path, genes: Sequence[str]) -> NDArray[np.int64]:
    """Read a csv with columns ``gene`` and ``family``; a gene without one is alone, one of two joins them.

    Returns
    -------
    (G,) int64, a number for each family.

    Raises
    ------
    UserError
        If there is no such file or column, or no gene is known.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"families={path}: no such file: give a csv with columns gene,family")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError, pd.errors.ParserError) as problem:
        raise UserError(f"{path}: is no csv table ({' '.join(str(problem).split())[:100]})") from None
    if missing := [name for name in ("gene", "family") if name not in table]:
        raise UserError(f"{path}: has no column '{missing[0]}' (it has {examples(table, most=8)}): name it so")
    rows = GeneVocab(genes).match(table["gene"]).rows
    if not (rows >= 0).any():
        raise UserError(f"{path}: none of its {len(table):,} genes ({examples(table['gene'])}) is known to the model")
    family = table["family"].str.strip()
    named = (rows >= 0) & (family != "").to_numpy()
    codes, size = pd.factorize(family)[0] + len(genes), len(genes) + len(table)
    links = sp.coo_matrix((np.ones(named.sum()), (rows[named], codes[named])), shape=(size, size))
    return np.asarray(connected_components(links, directed=False)[1][: len(genes)], dtype=np.int64)
