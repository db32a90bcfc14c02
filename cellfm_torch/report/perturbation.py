"""The page of predicted perturbations: one HTML file with everything inside."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping

import pandas as pd

from cellfm_torch.plots.perturbation import SHORT, WORDS, delta_heat_map, effect_scatter, score_bars
from cellfm_torch.report import page

BARS = ("pearson_delta", "mse_top20", "discrimination")
"""Scores that are drawn; the table has all."""

MOST_EXAMPLES = 6
HEAT_GENES = 40


def render_perturbation(
    *,
    title: str,
    model: str,
    summary: pd.DataFrame,
    comparison: pd.DataFrame,
    examples: Mapping[str, pd.DataFrame],
    hits: pd.DataFrame | None = None,
    cell_eval: pd.DataFrame | None = None,
    says: Iterable[str] = (),
    facts: Iterable[tuple[str, str]] = (),
) -> str:
    """Return the page.

    Parameters
    ----------
    title
        Heading.
    model
        Which of the models of the tables is not a baseline.
    summary
        ``model``, ``group``, ``metric``, ``mean``, ``sd``, ``seeds``, ``conditions``.
    comparison
        ``group``, ``metric``, ``better``, ``mean``, ``baseline``, ``baseline_mean``, ``gain``, ``gain_sd``,
        ``seeds_better``, ``seeds_worse``, ``seeds``: the model beside the best baseline.
    examples
        Test conditions by name: ``gene``, ``predicted`` and ``true`` (change from control) and ``marked`` (0 the most
        marked gene, below 0 for the others).
    hits
        Reverse perturbation: ``model``, ``k``, ``hits``, ``chance``, ``gene_hits``, ``gene_chance``, ``conditions``,
        ``candidates``.
    cell_eval
        Scores of cell-eval: ``metric`` and a column per model.
    says
        Sentences below the verdict, such as what was left out.
    facts
        How the numbers were made.
    """
    parts = [f"<p>{html.escape(line)}</p>" for line in verdicts(comparison)]
    parts += [page.note(line) for line in says]
    parts += [
        "<h2>Scores</h2>",
        page.note(_spread(summary)),
        _scores(summary, model, dict(zip(comparison["metric"], comparison["better"], strict=True))),
    ]
    for metric in BARS:
        if (summary["metric"] == metric).any():
            figure = page.empty_figure(2.6 + 1.4 * summary["group"].nunique(), 3.3)
            score_bars(summary, metric, model=model, ax=figure.add_subplot())
            parts.append(f"<figure>{page.svg(figure)}</figure>")
    if examples:
        parts += ["<h2>Test conditions, gene by gene</h2>", _scatters(examples), _heat_map(examples)]
    if hits is not None and len(hits):
        parts += ["<h2>Reverse perturbation</h2>", page.note(_hits_note(hits)), _hits(hits)]
    if cell_eval is not None and len(cell_eval):
        parts += ["<h2>Scores of cell-eval</h2>", _frame(cell_eval)]
    parts += ["<h2>How each number was made</h2>", page.summary(facts)]
    return page.page(title, "\n".join(parts))


def verdicts(comparison: pd.DataFrame) -> list[str]:
    """Return a sentence for each group: in how many scores the model is better than all baselines, and where not.

    A score counts as better or worse where it is so in all splits; otherwise the splits disagree, which is said.
    """
    lines = []
    for group, part in comparison.groupby("group", sort=False):
        number = len(part)
        kinds: dict[str, list[str]] = {"better": [], "worse": [], "neither": []}
        for row in part.itertuples():
            kind = "better" if row.seeds_better == row.seeds else "worse" if row.seeds_worse == row.seeds else "neither"
            name = WORDS.get(str(row.metric), str(row.metric))
            kinds[kind].append(f"{name}: {row.mean:.3g}, {row.baseline} {row.baseline_mean:.3g}")
        clauses = []
        if kinds["better"]:
            clauses.append(f"better than every baseline in {len(kinds['better'])} of {number} scores")
        if kinds["worse"]:
            clauses.append(f"a baseline is better in {len(kinds['worse'])} ({'; '.join(kinds['worse'])})")
        if kinds["neither"]:
            clauses.append(f"no clear difference in {len(kinds['neither'])} ({'; '.join(kinds['neither'])})")
        lines.append(f"{str(group).capitalize()}: {', '.join(clauses)}.")
    return lines


def _spread(summary: pd.DataFrame) -> str:
    seeds = int(summary["seeds"].max())
    if seeds == 1:
        return "Means over the test conditions of one split; other splits would give other numbers."
    return f"Mean over {seeds} splits of the mean over test conditions, ± standard deviation over splits."


def _scores(summary: pd.DataFrame, model: str, better: Mapping[str, str]) -> str:
    """Return a table per group: a row per model, the best of each score marked by a star."""
    parts = []
    metrics = list(dict.fromkeys(summary["metric"]))
    for group, part in summary.groupby("group", sort=False):
        names = sorted(dict.fromkeys(part["model"]), key=lambda name: name != model)
        means = part.pivot(index="model", columns="metric", values="mean")
        spreads = part.pivot(index="model", columns="metric", values="sd")
        # One model alone is the best of nothing.
        best = {
            m: math.nan if len(names) < 2 else means[m].min() if better.get(m) == "less" else means[m].max()
            for m in metrics
        }
        rows = [[name, *(_mean(means[m][name], spreads[m][name], best[m]) for m in metrics)] for name in names]
        number = f"{round(part['conditions'].max(), 1):g}"
        parts.append(f"<h3>{html.escape(str(group))} ({number} conditions per split)</h3>")
        marked = [name == model for name in names]
        parts.append(page.table(["model", *(SHORT.get(m, m) for m in metrics)], rows, marked=marked))
    if summary["model"].nunique() > 1:
        parts.append(page.note("* the best of the column; the coloured row is the model."))
    return "\n".join(parts)


def _mean(value: float, spread: float, best: float) -> str:
    if math.isnan(value):
        return ""
    text = f"{value:#.3g}" if math.isnan(spread) else f"{value:.3g} ± {spread:.1g}"
    return f"{text} *" if f"{value:.3g}" == f"{best:.3g}" else text


def _scatters(examples: Mapping[str, pd.DataFrame]) -> str:
    shown = list(examples.items())[:MOST_EXAMPLES]
    rows = math.ceil(len(shown) / 3)
    figure = page.empty_figure(10.2, 3.4 * rows)
    for i, (name, table) in enumerate(shown):
        top = table[table["marked"] >= 0].sort_values("marked")
        place = {index: row for row, index in enumerate(table.index)}
        effect_scatter(
            table["predicted"], table["true"], list(table["gene"]), marked=[place[index] for index in top.index],
            ax=figure.add_subplot(rows, 3, i + 1), title=name,
        )  # fmt: skip
    return f"<figure>{page.svg(figure)}</figure>"


def _heat_map(examples: Mapping[str, pd.DataFrame]) -> str:
    """Draw the most marked genes of each example, up to so many in all."""
    shown = dict(list(examples.items())[:MOST_EXAMPLES])
    each = max(HEAT_GENES // len(shown), 1)
    tops = [table[(table["marked"] >= 0) & (table["marked"] < each)].sort_values("marked") for table in shown.values()]
    genes = list(dict.fromkeys(gene for top in tops for gene in top["gene"]))
    if not genes:
        return ""
    values = {
        column: [table.set_index("gene")[column].reindex(genes).to_numpy() for table in shown.values()]
        for column in ("predicted", "true")
    }
    figure = page.empty_figure(2.4 + 0.19 * len(genes), 1.5 + 0.45 * len(shown))
    delta_heat_map(values["predicted"], values["true"], list(shown), genes, ax=figure.add_subplot())
    return f"<figure>{page.svg(figure)}</figure>"


def _hits_note(hits: pd.DataFrame) -> str:
    first = hits.iloc[0]
    return (
        f"{first['candidates']:g} candidates are ranked by the Pearson correlation of their predicted change with the "
        f"measured one of a test condition ({first['conditions']:g} of them), perturbed genes left out. A hit: the "
        "condition that was made is among the best k. A hit of a gene: a condition with one of its genes is."
    )


def _hits(hits: pd.DataFrame) -> str:
    rows = [
        [
            str(row.model),
            f"{row.k:g}",
            *(f"{100 * value:.0f} %" for value in (row.hits, row.chance, row.gene_hits, row.gene_chance)),
        ]
        for row in hits.itertuples()
    ]
    return page.table(["model", "k", "hits", "by chance", "hits of a gene", "by chance"], rows)


def _frame(table: pd.DataFrame) -> str:
    """Return a data frame as a table, numbers to three digits."""
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    return page.table([str(name) for name in table], rows)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3g}"
    return str(value)
