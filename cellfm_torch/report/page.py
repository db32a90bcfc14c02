"""The look of every page: one HTML file that needs no other, with its style, pictures, tables and scripts inside."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

# Nothing may be fetched. The fast pictures of Plotly compile functions, hence unsafe-eval.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; img-src data: blob:"

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; } h3 { font-size: 1rem; margin-top: 1.5rem; }
figure { margin: 1rem 0; } svg { max-width: 100%; height: auto; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
th, td { text-align: right; padding: 0.25rem 0.6rem; border-bottom: 1px solid #ddd; white-space: nowrap; }
.summary td { text-align: left; white-space: normal; overflow-wrap: anywhere; } .summary th { width: 12rem; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 12rem; }
.summary th:first-child { min-width: 8rem; } td.words, th.words { text-align: left; white-space: normal; }
td.words { min-width: 14rem; } .wide svg { max-width: none; }
thead th { border-bottom: 2px solid #888; } .low { background: #fdeecf; } p.note { color: #555; }
@media (max-width: 700px) {
  body { margin: 0.5rem auto; padding: 0 0.6rem; } .summary th:first-child { min-width: 6rem; width: 7rem; }
}
"""


def page(title: str, body: str, *, scripts: Iterable[str] = (), style: str = "") -> str:
    """Return a whole page.

    Parameters
    ----------
    title
        Of the window, and the heading; any text.
    body
        HTML below the heading.
    scripts
        JavaScript, run in this order after the body is there.
    style
        CSS added to that of all pages.
    """
    code = "".join(f"<script>{script}</script>\n" for script in scripts)
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style></head><body>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}\n{code}</body></html>\n"
    )


def summary(rows: Iterable[tuple[str, str]]) -> str:
    """Return a table of facts: name and words, any text."""
    cells = "".join(f"<tr><th>{html.escape(a)}</th><td>{html.escape(b)}</td></tr>" for a, b in rows)
    return f"<table class='summary'>{cells}</table>"


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, marked: Sequence[bool] = (), words: Iterable[int] = ()
) -> str:
    """Return a table that scrolls sideways where the window is narrow.

    Parameters
    ----------
    headings
        One per column.
    rows
        Any text; the first column is a name, the others are numbers.
    marked
        Which rows stand out.
    words
        Columns that hold words, not numbers.
    """
    kind = [" class='words'" if i in set(words) else "" for i in range(len(headings))]
    head = "".join(f"<th{k}>{html.escape(name)}</th>" for name, k in zip(headings, kind, strict=True))
    body = []
    for i, row in enumerate(rows):
        cells = "".join(f"<td{k}>{html.escape(cell)}</td>" for cell, k in zip(row, kind, strict=True))
        mark = " class='low'" if i < len(marked) and marked[i] else ""
        body.append(f"<tr{mark}>{cells}</tr>")
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"


def note(text: str) -> str:
    """Return a paragraph in grey, any text."""
    return f"<p class='note'>{html.escape(text)}</p>"


def empty_figure(width: float, height: float) -> Any:
    """Return a figure, in inches, that is drawn as SVG without a window."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def svg(figure: Any) -> str:
    """Return a matplotlib figure as an ``<svg>`` element; the same text for the same figure."""
    import matplotlib

    out = io.StringIO()
    # No date, and ids from a fixed seed.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cellfm"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
