"""The page of read-depth enhancement: one HTML file with everything inside."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable

import pandas as pd

from cellfm_torch.plots.depth import WORDS, depth_curves
from cellfm_torch.report import page

LESS_IS_BETTER = ("mae", "mae_expressed", "mre_expressed")
DRAWN = ("pearson", "gene_pearson", "mae_expressed", "nmi")
CEILING = "full cell"


def verdicts(scores: pd.DataFrame, model: str) -> list[str]:
    """Return sentences that say, for each share of counts, where the model is best and where a baseline is."""
    lines = []
    metrics = [name for name in WORDS if name in scores]
    others = [name for name in dict.fromkeys(scores["model"]) if not name.startswith((model, CEILING))]
    for share, part in scores.groupby("share", sort=False):
        means = part.groupby("model", sort=False)[metrics].mean()
        worse = []
        for metric in metrics:
            sign = -1 if metric in LESS_IS_BETTER else 1
            rest = (sign * means.loc[others, metric]).dropna()
            own = sign * means.loc[model, metric]
            if len(rest) and not math.isnan(own) and own <= rest.max():
                best = str(rest.idxmax())
                worse.append(f"{WORDS[metric]} ({means.loc[model, metric]:.3f}, {best} {means.loc[best, metric]:.3f})")
        number = sum(means.loc[model, metrics].notna())
        line = f"{share:.0%} of the counts: {model} is better than every baseline in {number - len(worse)} of {number}"
        lines.append(line + (f"; worse or equal in {'; '.join(worse)}." if worse else "."))
    return lines


def render_depth(
    *, title: str, scores: pd.DataFrame, model: str, facts: Iterable[tuple[str, str]], says: Iterable[str] = ()
) -> str:
    """Return the page.

    Parameters
    ----------
    title
        Heading.
    scores
        A row per share, seed and way, see :func:`cellfm_torch.enhance.evaluate.evaluate`.
    model
        Which of the ways is the model.
    facts
        How the numbers were made.
    says
        Further sentences at the top.
    """
    parts = [f"<p>{html.escape(line)}</p>" for line in verdicts(scores, model)]
    parts += [page.note(line) for line in says]
    parts.append("<h2>Scores by the counts that were kept</h2>")
    for metric in DRAWN:
        if metric in scores and scores[metric].notna().any():
            figure = page.empty_figure(7.0, 3.2)
            depth_curves(scores, metric, ax=figure.add_subplot())
            parts.append(f"<figure>{page.svg(figure)}</figure>")
    metrics = [name for name in WORDS if name in scores]
    for share, part in scores.groupby("share", sort=False):
        parts.append(f"<h3>{share:.0%} of the counts, {part['cells'].iloc[0]:,} cells</h3>")
        grouped = part.groupby("model", sort=False)[metrics]
        means, deviations = grouped.mean(), grouped.std()
        rows = [[name, *(_cell(means.loc[name, m], deviations.loc[name, m]) for m in metrics)] for name in means.index]
        marked = [name == model for name in means.index]
        parts.append(page.table(["", *(WORDS[m] for m in metrics)], rows, marked=marked))
    parts += ["<h2>How each number was made</h2>", page.summary(facts)]
    return page.page(title, "\n".join(parts))


def _cell(mean: float, deviation: float) -> str:
    if math.isnan(mean):
        return ""
    return f"{mean:.3f}" if math.isnan(deviation) else f"{mean:.3f} ± {deviation:.3f}"
