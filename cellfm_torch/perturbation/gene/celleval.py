"""Scores of Arc Institute's cell-eval, where it is installed, beside ours.

Shapes: B cells, M conditions, G genes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.analysis.expression import log_normalised
from cellfm_torch.errors import UserError, examples
from cellfm_torch.perturbation.gene.effects import CONTROL_NAME, Condition, condition_name

if TYPE_CHECKING:
    from anndata import AnnData

# Compares clusterings of the conditions: of a few dozen it says little, and it takes longest.
LEFT_OUT = ("clustering_agreement",)


def cell_eval_scores(
    predicted: AnnData,
    real: AnnData,
    *,
    column: str = "condition",
    control: str = CONTROL_NAME,
    profile: str = "full",
    threads: int = 1,
) -> pd.DataFrame:
    """Return the metrics of cell-eval.

    Parameters
    ----------
    predicted, real : (B, G)
        Cells of the same conditions, control among them, and the same genes in the same order. Counts are normalised to
        log1p(CP10K), other values are taken as they are.
    column
        Condition of each cell.
    control
        What control is called there.
    profile
        Of cell-eval: ``full``, ``minimal``, ``vcc``, ``de`` or ``anndata``.

    Returns
    -------
    ``condition``, ``metric`` and ``value``, a row each; metrics that cell-eval could not compute are left out.

    Raises
    ------
    UserError
        If cell-eval is not installed, or the two do not have the same genes and conditions.
    """
    ours, theirs = _prepared(predicted, column), _prepared(real, column)
    _check_pair(ours, theirs, column, control)
    try:
        with _quiet():
            from cell_eval import MetricsEvaluator
    except ImportError:
        raise UserError("cell-eval is not installed: pip install 'cellfm_torch[perturb]' or do without it") from None
    options: dict[str, Any] = {
        "control_pert": control,
        "pert_col": column,
        "num_threads": threads,
        "allow_discrete": True,
        "pdex_kwargs": {"is_log1p": True},
    }
    with tempfile.TemporaryDirectory() as folder, _quiet():
        evaluator: Any = MetricsEvaluator(ours, theirs, outdir=folder, **options)
        table, _ = evaluator.compute(profile=profile, skip_metrics=list(LEFT_OUT), write_csv=False)
    frame = pd.DataFrame(table.to_dict(as_series=False)).rename(columns={"perturbation": "condition"})
    long = frame.melt("condition", var_name="metric", value_name="value")
    return long.astype({"value": float})


def shifted_cells(
    cells: Any,
    predicted: Any,
    conditions: Sequence[Condition],
    genes: Sequence[str],
    *,
    column: str = "condition",
    most: int = 100,
    seed: int = 0,
) -> AnnData:
    """Return predicted cells of a prediction of means: control cells, each moved so that their mean is the predicted.

    The cells keep the spread of control, since a predicted mean says nothing of it. Cells would be negative where their
    gene falls by more than they have; these end at 0, and their mean is that much too high.

    Parameters
    ----------
    cells : (B, G)
        Control cells, log1p(CP10K).
    predicted : (M, G)
        Mean log1p(CP10K).
    most
        Cells of each condition; control is all of them.
    """
    from anndata import AnnData

    control = np.asarray(cells.toarray() if sp.issparse(cells) else cells, dtype=np.float32)
    rng = np.random.default_rng(seed)
    blocks, words = [control], [CONTROL_NAME] * len(control)
    for profile, condition in zip(np.asarray(predicted, dtype=np.float64), conditions, strict=True):
        drawn = control[rng.permutation(len(control))[:most]]
        blocks.append(np.maximum(drawn + (profile - drawn.mean(0)), 0).astype(np.float32))
        words += [condition_name(condition)] * len(drawn)
    obs = pd.DataFrame({column: words}, index=[f"cell{i}" for i in range(len(words))])
    return AnnData(np.vstack(blocks), obs=obs, var=pd.DataFrame(index=pd.Index(list(genes), dtype=str)))


def _prepared(cells: AnnData, column: str) -> AnnData:
    """Return normalised cells with nothing but the column of conditions; the evaluator may change what it is given."""
    from anndata import AnnData

    if column not in cells.obs:
        raise UserError(f"cell-eval: the cells have no column '{column}'")
    obs = pd.DataFrame({column: cells.obs[column].astype(str).to_numpy()}, index=cells.obs_names.astype(str))
    return AnnData(log_normalised(cells.X), obs=obs, var=pd.DataFrame(index=cells.var_names))


def _check_pair(predicted: AnnData, real: AnnData, column: str, control: str) -> None:
    if not np.array_equal(predicted.var_names, real.var_names):
        raise UserError("cell-eval: predicted and real cells need the same genes in the same order")
    names: list[NDArray[Any]] = [np.unique(cells.obs[column].to_numpy(dtype=str)) for cells in (predicted, real)]
    differ = sorted(set(names[0]) ^ set(names[1]))
    if differ:
        raise UserError(f"cell-eval: only the predicted or only the real cells have {examples(differ)}")
    if control not in names[0]:
        raise UserError(f"cell-eval: no cell is called '{control}', which is control")
    if len(names[0]) < 3:
        raise UserError("cell-eval: needs two conditions beside control")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep cell-eval from showing its progress and what it notices of its own steps."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
