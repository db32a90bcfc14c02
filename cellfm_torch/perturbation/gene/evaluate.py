"""A predictor of gene perturbations beside its baselines, on held-out perturbations, over seeds.

Shapes: M tested conditions, R genes that are read out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.errors import UserError, nearest
from cellfm_torch.job_folder import kept
from cellfm_torch.model.loading import untrained
from cellfm_torch.perturbation.gene.baselines import fit_baselines
from cellfm_torch.perturbation.gene.celleval import cell_eval_scores, shifted_cells
from cellfm_torch.perturbation.gene.effects import CONTROL_NAME, Condition, Effects, condition_name
from cellfm_torch.perturbation.gene.reverse import hit_rates
from cellfm_torch.perturbation.gene.scores import condition_scores, summarise
from cellfm_torch.perturbation.gene.screen import GenePerturbation
from cellfm_torch.perturbation.gene.splits import Split, check_leaks

Floats = NDArray[np.float64]

RANDOM = "random weights"
BASELINES = ("no change", "training mean", "additive", "linear on effects", "linear on embeddings", RANDOM)


@dataclass
class Evaluation:
    """What came of it.

    Attributes
    ----------
    scores : DataFrame
        A row per model, seed and tested condition, see :func:`~cellfm_torch.perturbation.gene.scores.condition_scores`.
    reverse : DataFrame
        A row per model, seed and k, see :func:`~cellfm_torch.perturbation.gene.reverse.hit_rates`.
    cell_eval : DataFrame
        Scores of cell-eval: ``model``, ``seed``, ``condition``, ``metric``, ``value``; empty where not asked for.
    splits : dict of int to Split
        By seed.
    truth : dict of int to Effects
        What was measured of the tested conditions, by seed.
    predicted : dict of (int, str) to (M, R)
        Mean expression by seed and model.
    epochs : list of int
        After how many the held-out validation perturbations were predicted best, one per seed.
    """

    scores: pd.DataFrame = field(default_factory=pd.DataFrame)
    reverse: pd.DataFrame = field(default_factory=pd.DataFrame)
    cell_eval: pd.DataFrame = field(default_factory=pd.DataFrame)
    splits: dict[int, Split] = field(default_factory=dict)
    truth: dict[int, Effects] = field(default_factory=dict)
    predicted: dict[tuple[int, str], Floats] = field(default_factory=dict)
    epochs: list[int] = field(default_factory=list)

    def summary(self) -> pd.DataFrame:
        """Return mean and standard deviation over seeds by model and group of conditions."""
        return summarise(self.scores)


def chosen_baselines(wanted: Any) -> list[str]:
    """Return the baselines that are put beside the model: all, none, or those asked for.

    Raises
    ------
    UserError
        If one is not known.
    """
    if wanted in ("all", "none", None):
        return list(BASELINES) if wanted == "all" else []
    names = [str(name).replace("_", " ") for name in ([wanted] if isinstance(wanted, str) else wanted)]
    for name in names:
        if name not in BASELINES:
            choices = ", ".join(BASELINES)
            raise UserError(f"baselines={name}: choose all, none or some of {choices}{nearest(name, BASELINES)}")
    return names


def evaluate(
    screen: GenePerturbation,
    splits: Mapping[int, Split],
    *,
    baselines: Sequence[str] = BASELINES,
    cell_eval: bool = False,
    keep: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Evaluation:
    """Train on the training perturbations of each split and predict the test ones.

    Baselines are fitted to the same training perturbations. ``"linear on embeddings"`` uses the model's static
    embedding of genes; ``"random weights"`` is the same network and head on weights that have learned nothing.

    Parameters
    ----------
    screen
        Cells and backbone.
    splits
        By seed; each is checked for leaks.
    baselines
        Which, of :data:`BASELINES`.
    cell_eval
        Score by cell-eval too.
    keep
        Folder in which predictions are kept as they are made, so that the same call goes on with them.
    say
        Told what is about to be done.
    options
        Of :meth:`~cellfm_torch.perturbation.gene.screen.GenePerturbation.train`.

    Raises
    ------
    UserError
        If an option is out of its range.
    """
    model = type(screen.network).__name__
    found = Evaluation(splits=dict(splits))
    tables: list[pd.DataFrame] = []
    reverse: list[pd.DataFrame] = []
    by_cells: list[pd.DataFrame] = []
    for seed, split in splits.items():
        check_leaks(split)
        if screen.screen is None:
            raise UserError("this predictor was loaded without its cells: make one from cells to evaluate it")
        train = screen.screen.effects(screen.readout, split.train)
        truth = screen.screen.effects(screen.readout, split.test)
        found.truth[seed] = truth
        # The tested ones first; those of training are candidates of reverse perturbation.
        asked = (*split.test, *(condition for condition in screen.screen.conditions if condition not in split.test))
        groups = [split.group[condition] for condition in split.test]
        linear = {name: model.predict(asked) for name, model in fit_baselines(train, _embeddings(screen)).items()}
        for name in [model, *baselines]:
            if name in linear:
                predicted = linear[name]
            elif name in (model, RANDOM):
                say(f"seed {seed}: {name}, learning from {len(split.train)} perturbations")
                learned = kept(
                    None if keep is None else keep / f"{seed}_{name.replace(' ', '_')}_{_digest(split)}.npz",
                    {"change": (len(asked), len(screen.readout)), "epochs": ()},
                    lambda name=name, seed=seed, split=split, asked=asked: _learned(  # type: ignore[misc]
                        screen, name, seed, split, asked, options
                    ),
                )
                found.epochs += [int(learned["epochs"])] if name == model else []
                predicted = np.maximum(truth.control + learned["change"], 0)
            else:
                continue  # linear on effects takes perturbed genes that are read out
            keys: dict[str, Any] = {"model": name, "seed": seed}
            reverse.append(hit_rates(predicted, truth, candidates=asked).assign(**keys))
            found.predicted[seed, name] = predicted = predicted[: len(split.test)]
            tables.append(condition_scores(predicted, truth, groups=groups).assign(**keys, group=groups))
            if cell_eval:
                say(f"seed {seed}: {name}, cell-eval")
                by_cells.append(_cell_eval(screen, truth, predicted, seed).assign(**keys))
    found.scores, found.reverse = _joined(tables), _joined(reverse)
    found.cell_eval = _joined(by_cells)
    return found


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Return tables as one, with who and when first."""
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables, ignore_index=True)
    first = [name for name in ("model", "seed", "group", "condition") if name in table]
    return table[[*first, *(name for name in table if name not in first)]]


def _learned(
    screen: GenePerturbation,
    name: str,
    seed: int,
    split: Split,
    asked: Sequence[Condition],
    options: dict[str, Any],
) -> dict[str, NDArray[Any]]:
    own = screen.on(untrained(screen.network, seed=seed)) if name == RANDOM else screen
    own.train(split, seed=seed, **options)
    return {"change": own.changes(asked), "epochs": np.array(own.best_epochs)}


def _embeddings(screen: GenePerturbation) -> dict[str, Floats]:
    table = screen.network.static_genes.detach().double().cpu().numpy()
    return dict(zip(screen.network.input_spec.genes or (), table, strict=True))


def _digest(split: Split) -> str:
    words = json.dumps([split.train, split.val, split.test])
    return hashlib.sha256(words.encode()).hexdigest()[:12]


def _cell_eval(screen: GenePerturbation, truth: Effects, predicted: Floats, seed: int) -> pd.DataFrame:
    cells = screen.screen
    assert cells is not None
    x = cells.expression[:, screen.readout]
    codes = [cells.conditions.index(condition) for condition in truth.conditions]
    rows = np.flatnonzero(np.isin(cells.codes, [-1, *codes]))
    words = [CONTROL_NAME if code < 0 else condition_name(cells.conditions[code]) for code in cells.codes[rows]]
    obs = pd.DataFrame({"condition": words}, index=[f"cell{i}" for i in range(len(rows))])
    real = anndata.AnnData(x[rows].toarray(), obs=obs, var=pd.DataFrame(index=pd.Index(list(truth.genes), dtype=str)))
    moved = shifted_cells(x[cells.control], predicted, truth.conditions, truth.genes, seed=seed)
    return cell_eval_scores(moved, real)
