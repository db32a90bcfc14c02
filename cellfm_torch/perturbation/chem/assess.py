"""Every split with the model and with the same network with random weights, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.analysis.expression import log_normalised
from cellfm_torch.errors import UserError
from cellfm_torch.perturbation.chem.cells import TreatedCells
from cellfm_torch.perturbation.chem.compounds import Compounds
from cellfm_torch.perturbation.chem.evaluate import MODEL, RANDOM, Picture, evaluate_split
from cellfm_torch.perturbation.chem.fitted import FitOptions
from cellfm_torch.perturbation.chem.result import ChemResult
from cellfm_torch.perturbation.chem.splits import make_splits


def assess(
    cells: TreatedCells,
    compounds: Compounds,
    embeddings: Callable[[str, int], NDArray[np.float32]],
    options: Callable[[int], FitOptions],
    *,
    split: str,
    seeds: Sequence[int],
    share: float,
    least_cells: int,
    random_weights: bool,
    say: Callable[[str], None],
) -> ChemResult:
    """Return what held-out conditions gave; see :meth:`cellfm_torch.ChemicalPerturbation.evaluate`.

    Parameters
    ----------
    embeddings
        By network (``"model"``, ``"random weights"``) and seed.
    options
        By seed.
    """
    if split == "compound" and not compounds.by_structure:
        raise UserError(
            "split=compound: without SMILES nothing is known of a compound that was never seen: give smiles=COLUMN or "
            "a csv, or choose split=dose, context or none"
        )
    if not seeds:
        raise UserError("seeds: give at least one")
    if not 0 < share < 1:
        raise UserError(f"share={share}: must be between 0 and 1")
    splits = make_splits(cells, compounds, split, seeds, share=share)
    tried = [options(seed) for seed in seeds]  # what is wrong with them shows before any work
    if split == "none":
        return ChemResult(splits, pd.DataFrame())
    expression = log_normalised(cells.cells.counts)
    scores: list[dict[str, Any]] = []
    pictures: list[Picture] = []
    for number, one in enumerate(splits):
        for network in (MODEL, RANDOM) if random_weights else (MODEL,):
            say(f"split {number + 1} of {len(splits)}: {one.held_out} held out, seed {one.seed}, {network}")
            fold = evaluate_split(
                one,
                cells,
                embeddings(network, one.seed),
                expression,
                compounds,
                tried[list(seeds).index(one.seed)],
                network=network,
                least_cells=least_cells,
            )
            scores += fold.scores
            if network == MODEL and one.seed == splits[0].seed:
                pictures += fold.pictures
    return ChemResult(splits, pd.DataFrame(scores), pictures)
