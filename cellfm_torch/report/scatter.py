"""The part of a page with cells in the plane: hover for a cell, colour by a column, filter by type.

Shapes: B cells.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.plots.cells import NO_LABEL, PALETTE

SCRIPT = Path(__file__).with_name("scatter.js")
MOST_VALUES = 200
"""Values of a column that are told apart; rarer ones are "other"."""

STYLE = """
#cells { height: 36rem; } .controls { display: flex; flex-wrap: wrap; gap: 0.3rem 1rem; align-items: center; }
#types { display: flex; flex-wrap: wrap; gap: 0.2rem 0.9rem; margin: 0.4rem 0; border: 0; padding: 0; }
#types label { white-space: nowrap; } button, select { font: inherit; }
@media (max-width: 700px) { #cells { height: 32rem; } }
"""


def cells_part(
    coordinates: NDArray[np.floating[Any]],
    names: Sequence[str] | NDArray[Any],
    columns: Mapping[str, NDArray[Any]],
    *,
    filter_by: str,
) -> str:
    """Return the HTML of the picture; :func:`scripts` makes it work.

    Parameters
    ----------
    coordinates : (B, 2)
        Finite.
    names
        Of the cells, (B,).
    columns
        By what the cells may be coloured, name: (B,), numbers (NaN for none) or words; the first is shown first.
    filter_by
        Which column of words has a box to tick for each value.
    """
    fields = [_field(label, values) for label, values in columns.items()]
    place = list(columns).index(filter_by)
    data = {
        "x": _packed(coordinates[:, 0], "<f4"),
        "y": _packed(coordinates[:, 1], "<f4"),
        "names": [str(name) for name in names],
        "fields": fields,
        "filter": place,
        "palette": PALETTE,
    }
    options = "".join(f"<option value='{i}'>{html.escape(f['label'])}</option>" for i, f in enumerate(fields))
    counts = np.bincount(_codes(columns[filter_by], fields[place]["names"]), minlength=len(fields[place]["names"]))
    boxes = "".join(
        f"<label><input type='checkbox' checked value='{code}'> {html.escape(name)} ({counts[code]:,})</label>"
        for code, name in enumerate(fields[place]["names"])
    )
    return (
        f"<div class='controls'><label>Colour by <select id='colour'>{options}</select></label>"
        f"<span>{html.escape(filter_by)}: <button id='all-types'>all</button> "
        "<button id='no-types'>none</button></span>"
        f"<span id='shown' class='note'></span></div>\n<fieldset id='types'>{boxes}</fieldset>\n"
        "<div id='cells' role='img' aria-label='UMAP of the cells'></div>\n"
        f"<script type='application/json' id='cells-data'>{_safe(json.dumps(data))}</script>"
    )


def scripts() -> tuple[str, str]:
    """Return Plotly and the script that draws with it."""
    from plotly.offline import get_plotlyjs

    # The end tag of a script inside a script would end it.
    return get_plotlyjs().replace("</script", "<\\/script"), SCRIPT.read_text(encoding="utf-8")


def _safe(text: str) -> str:
    """Keep JSON from ending the script element that it lies in."""
    return text.replace("<", "\\u003c")


def _packed(values: NDArray[Any], kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode("ascii")


def _words(values: NDArray[Any]) -> list[str]:
    return ["none" if value is None or value != value else str(value) for value in values.tolist()]


def _field(label: str, values: NDArray[Any]) -> dict[str, Any]:
    if np.issubdtype(values.dtype, np.floating):
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
        return {"label": label, "kind": "number", "values": _packed(values, "<f4"), "low": low, "high": high}
    found, counts = np.unique(_words(values), return_counts=True)
    names = [str(name) for name in found[np.argsort(-counts, kind="stable")]]
    if len(names) > MOST_VALUES:
        names = [*names[: MOST_VALUES - 1], "other"]
    grey = [code for code, name in enumerate(names) if name.lower() in NO_LABEL]
    return {
        "label": label,
        "kind": "words",
        "names": names,
        "codes": _packed(_codes(values, names), "<u2"),
        "grey": grey,
    }


def _codes(values: NDArray[Any], names: list[str]) -> NDArray[np.int64]:
    place = {name: code for code, name in enumerate(names)}
    return np.array([place.get(word, len(names) - 1) for word in _words(values)], dtype=np.int64)
