"""The page of read-depth enhancement: one HTML file with everything inside."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

import pandas as pd

from cellfm_torch.plots.depth import SHORT, WORDS, depth_curves
from cellfm_torch.report import page

LESS_IS_BETTER = ("mae", "mae_expressed", "mre_expressed")
DRAWN = ("pearson", "gene_pearson", "mae_expressed", "nmi")
CEILING = "full cell"


SMOOTHING = ("neighbours, pooled", "neighbours, mean")
REASONS = (
    "Smoothing borrows the counts of neighbours, and sees all of these cells at once; the network sees one cell and "
    "what it learned before. Where types are few and their cells many, as in blood, neighbours are hard to beat for "
    "clusters and for the order of expressed genes; for rare cells, or a single one, there are none.",
    "Most genes are not expressed in most cells: predicting near zero everywhere makes the error over all genes small. "
    "The errors over expressed genes, and correlations, are the ones that tell whether something was restored.",
)
"""Why a way can be worse, for the reader of a page."""


def _gains(scores: pd.DataFrame, model: str, others: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the scores in which a model is better than all others, and those in which one is as good, in words."""
    means = scores.groupby("model", sort=False)[[name for name in WORDS if name in scores]].mean()
    better: list[str] = []
    worse: list[str] = []
    for metric in means:
        sign = -1 if metric in LESS_IS_BETTER else 1
        rest, own = (sign * means.loc[list(others), metric]).dropna(), means.loc[model, metric]
        if not len(rest) or math.isnan(own):
            continue
        best = str(rest.idxmax())
        ahead = sign * own > rest.max()
        (better if ahead else worse).append(f"{SHORT[metric]} ({own:.3f}, {best} {means.loc[best, metric]:.3f})")
    return better, worse


def verdicts(scores: pd.DataFrame, model: str) -> list[str]:
    """Return a sentence for each share of counts: whether the model beats smoothing, and in what any baseline beats it.

    Parameters
    ----------
    scores
        See :func:`cellfm_torch.enhance.evaluate.evaluate`.
    model
        Which of the ways is the model.
    """
    others = [name for name in dict.fromkeys(scores["model"]) if not name.startswith((model, CEILING))]
    lines = []
    for share, part in scores.groupby("share", sort=False):
        better, worse = _gains(part, model, [name for name in SMOOTHING if name in others])
        best, beaten = _gains(part, model, others)
        line = f"{share:.0%} of the counts: {model} beats smoothing over neighbours in {len(better)} of "
        line += f"{len(better) + len(worse)} scores, and every baseline in {len(best)}."
        if worse:
            line += f" Smoothing is as good or better in {'; '.join(worse)}."
        if rest := [name for name in beaten if name.split(" (")[0] not in {name.split(" (")[0] for name in worse}]:
            line += f" Another baseline is in {'; '.join(rest)}."
        lines.append(line)
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
    parts += [page.note(line) for line in (*REASONS, f"{'; '.join(f'{SHORT[m]}: {WORDS[m]}' for m in metrics)}.")]
    for share, part in scores.groupby("share", sort=False):
        parts.append(f"<h3>{share:.0%} of the counts, {part['cells'].iloc[0]:,} cells</h3>")
        grouped = part.groupby("model", sort=False)[metrics]
        means, deviations = grouped.mean(), grouped.std()
        rows = [[name, *(_cell(means.loc[name, m], deviations.loc[name, m]) for m in metrics)] for name in means.index]
        marked = [name == model for name in means.index]
        parts.append(page.table(["", *(SHORT[m] for m in metrics)], rows, marked=marked))
    parts += ["<h2>How each number was made</h2>", page.summary(facts)]
    return page.page(title, "\n".join(parts))


def _cell(mean: float, deviation: float) -> str:
    if math.isnan(mean):
        return ""
    return f"{mean:.3f}" if math.isnan(deviation) else f"{mean:.3f} ± {deviation:.3f}"
