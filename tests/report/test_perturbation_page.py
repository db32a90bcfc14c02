"""The page of predicted perturbations: it says where a baseline is better, and stands alone."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from cellfm_torch.report.perturbation import render_perturbation, verdicts

METRICS = {"mse": "less", "pearson_delta": "more", "discrimination": "more"}


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """A model that is better at Pearson, worse at the error and neither in discrimination."""
    values = {"CellFM": (0.02, 0.6, 0.8), "additive": (0.01, 0.4, 0.79), "no change": (0.03, 0.0, 0.5)}
    summary = pd.DataFrame(
        [
            {"model": name, "group": "combo seen 2", "metric": metric, "mean": mean, "sd": 0.05}
            | {"seeds": 3, "conditions": 7.0}
            for name, row in values.items()
            for metric, mean in zip(METRICS, row, strict=True)
        ]
    )
    comparison = pd.DataFrame(
        {
            "group": "combo seen 2",
            "metric": list(METRICS),
            "better": list(METRICS.values()),
            "mean": [0.02, 0.6, 0.8],
            "baseline": "additive",
            "baseline_mean": [0.01, 0.4, 0.79],
            "gain": [-0.01, 0.2, 0.01],
            "gain_sd": [0.001, 0.1, 0.1],
            "seeds_better": [0, 3, 2],
            "seeds_worse": [3, 0, 1],
            "seeds": 3,
        }
    )
    return summary, comparison


def example(genes: int = 30) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    marked = np.full(genes, -1)
    marked[:20] = np.arange(min(genes, 20))
    names = [f"GENE{i}" for i in range(genes)]
    return pd.DataFrame(
        {"gene": names, "predicted": rng.normal(size=genes), "true": rng.normal(size=genes), "marked": marked}
    )


@pytest.fixture(scope="module")
def written() -> str:
    summary, comparison = tables()
    hits = pd.DataFrame({"model": "CellFM", "k": [1, 5], "hits": [0.25, 0.5], "chance": [0.1, 0.5]})
    hits = hits.assign(gene_hits=1.0, gene_chance=0.875, conditions=4, candidates=10)
    return render_perturbation(
        title="Perturbed <cells>",
        model="CellFM",
        summary=summary,
        comparison=comparison,
        examples={f"A+B{i}": example() for i in range(8)},
        hits=hits,
        cell_eval=pd.DataFrame({"metric": ["overlap_at_N"], "CellFM": [0.25], "additive": [np.nan]}),
        says=["left out: 3 conditions of fewer than 5 cells"],
        facts=[("Seeds", "0, 1, 2")],
    )


def test_the_verdict_does_not_hide_a_better_baseline() -> None:
    (line,) = verdicts(tables()[1])
    assert line == (
        "Combo seen 2: better than every baseline in 1 of 3 scores, a baseline is better in 1 (mean squared error: "
        "0.02, additive 0.01), no clear difference in 1 (discrimination of perturbations: 0.8, additive 0.79)."
    )


def test_the_page_has_its_parts(written: str) -> None:
    headings = re.findall(r"<h2>(.*?)</h2>", written)
    assert headings == [
        "Scores",
        "Test conditions, gene by gene",
        "Reverse perturbation",
        "Scores of cell-eval",
        "How each number was made",
    ]
    assert verdicts(tables()[1])[0] in written
    assert "left out: 3 conditions" in written and "Perturbed &lt;cells&gt;" in written
    assert written.count("<svg") == 4  # two scores of three that are drawn, scatters, heat map
    assert "A+B5" in written and "A+B6" not in written


def test_the_best_of_a_column_is_starred(written: str) -> None:
    rows = re.findall(r"<tr(?: class='low')?>(.*?)</tr>", written[: written.index("<svg")])
    cells = {
        re.findall(r"<td>(.*?)</td>", row)[0]: re.findall(r"<td>(.*?)</td>", row)[1:] for row in rows if "<td>" in row
    }
    assert cells["CellFM"] == ["0.02 ± 0.05", "0.6 ± 0.05 *", "0.8 ± 0.05 *"]
    assert cells["additive"] == ["0.01 ± 0.05 *", "0.4 ± 0.05", "0.79 ± 0.05"]
    assert "combo seen 2 (7 conditions per split)" in written and "Mean over 3 splits" in written


def test_stands_alone(written: str) -> None:
    for outside in ("<link", "src=", "@import", "url(http", "<script"):
        assert outside not in written
    addresses = re.findall(r'href="(.*?)"', written)
    assert addresses and all(address.startswith(("#", "data:")) for address in addresses)
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", written, flags=re.DOTALL)


def test_a_page_of_little() -> None:
    summary, comparison = tables()
    text = render_perturbation(
        title="t", model="CellFM", summary=summary.assign(seeds=1, sd=np.nan), comparison=comparison, examples={}
    )
    assert "one split" in text and "±" not in text and "Reverse" not in text
    few = example(3).assign(marked=-1)
    text = render_perturbation(
        title="t", model="CellFM", summary=summary, comparison=comparison, examples={"A": few}, facts=[("a", "b")]
    )
    assert text.count("<svg") == 3
