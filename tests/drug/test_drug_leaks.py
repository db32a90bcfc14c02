"""What is tested reaches no prediction, from the tables to the page: neither its IC50 nor, of lines, its expression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from line_tables import network, simulated, write
from scipy.sparse import csr_matrix

from cellfm_torch import drug_response
from cellfm_torch.drug import bulk
from cellfm_torch.drug.baselines import ridge
from cellfm_torch.drug.join import Responses, read_responses
from cellfm_torch.drug.network import FitOptions, fit
from cellfm_torch.drug.splits import KINDS, make_split


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write(tmp_path_factory.mktemp("tables"), simulated(40, 300))


def answers(tables: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, np.ndarray], Any]:
    """Return what each method predicts of a test, and the result."""
    found: dict[str, np.ndarray] = {}
    add = bulk._add

    def seen(result: Any, split: Any, given: Any) -> None:
        found.update(given)
        add(result, split, given)

    quick: dict[str, Any] = {"trainer": {"max_epochs": 8}, "fit_options": {"hidden": 8, "patience": 2}}
    with monkeypatch.context() as patch:
        patch.setattr(bulk, "_add", seen)
        result = drug_response(model=network(), split=kind, seeds=(0,), **tables, **quick)
    return found, result


@pytest.mark.parametrize("kind", KINDS)
def test_tested_ic50_reach_no_prediction(
    kind: str, tables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, result = answers(tables, kind, monkeypatch)
    ic50 = pd.read_csv(tables["ic50"], index_col=0, dtype=str, keep_default_na=False)  # all other digits stay
    drugs, lines = list(ic50.index), list(ic50.columns)
    names = {drug.removeprefix("GDSC:"): drug for drug in drugs}
    other = ic50.copy()
    for line, drug in result.splits[0].test:
        place = names[result.responses.drugs[drug]], result.responses.lines[line]
        other.loc[place] = str(9.0 - 2 * float(other.loc[place]))  # others, of either sign, and still ln(uM)
    assert lines == list(result.responses.lines)
    other.to_csv(tmp_path / "ic50.csv")
    poisoned, again = answers(tables | {"ic50": str(tmp_path / "ic50.csv")}, kind, monkeypatch)
    assert clean.keys() == poisoned.keys() and len(clean) >= 5
    for name, predicted in clean.items():
        assert np.array_equal(predicted, poisoned[name]), name  # to the bit: the same numbers in the same order
    assert result.epochs == again.epochs
    assert not np.allclose(result.scores["rmse"], again.scores["rmse"])  # the poison was there


@pytest.mark.parametrize("kind", ["line", "tissue"])
def test_expression_of_a_tested_line_reaches_no_other(kind: str, tables: dict[str, Any]) -> None:
    """Standardisation, variable genes, kernels: all are of the training lines."""
    responses: Responses = read_responses(spec=network().input_spec, **tables)
    split = make_split(responses, kind, 0)
    lines = np.unique(split.test[:, 0])
    odd = lines[: len(lines) // 2]
    kept = ~np.isin(split.test[:, 0], odd)
    rng = np.random.default_rng(0)
    activity = simulated(40, 300).activity.loc[list(responses.lines)].to_numpy()
    expression = rng.gamma(1.0, size=(len(responses.lines), 60))
    expression[:, :30] = np.exp(np.tile(activity, 10))  # without something to learn the means would stay
    features = np.stack([responses.compounds.features[name] for name in responses.drugs])
    changed = expression.copy()
    changed[odd] = 100 * rng.gamma(1.0, size=(len(odd), 60))
    options = FitOptions(hidden=8, trainer={"max_epochs": 8})
    for predict in (
        lambda x: fit(responses.values, split, x, features, options).of(split.test),
        lambda x: ridge(responses.values, split, csr_matrix(np.log1p(x).astype(np.float32))),
    ):
        before, after = predict(expression), predict(changed)
        # Kernels of more lines are multiplied in another order: the last digits of float64 (float32 of the network).
        np.testing.assert_allclose(after[kept], before[kept], rtol=1e-5, atol=1e-5)
        assert not np.allclose(after[~kept], before[~kept])
