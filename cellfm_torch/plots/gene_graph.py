"""A graph of genes: nodes where forces put them, edges as wide as they are strong.

Shapes: M genes, E edges.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

WIDEST = 3.0
"""Points of the strongest edge."""


def gene_network(
    graph: Any,
    *,
    ax: Axes | None = None,
    colour: Mapping[str, Any] | None = None,
    title: str = "",
    labels: int = 60,
    seed: int = 0,
) -> Axes:
    """Draw a graph of genes.

    Parameters
    ----------
    graph
        Of networkx; edges may have a ``weight``.
    ax
        Where; None: a new figure.
    colour
        Of genes, any that matplotlib knows.
    labels
        Genes with most weight that are named.
    seed
        Of the layout (Fruchterman and Reingold).

    Returns
    -------
    Axes
    """
    import igraph

    if ax is None:
        ax = Figure(figsize=(8, 8), layout="constrained").add_subplot()
    nodes = list(graph.nodes)
    place = {name: i for i, name in enumerate(nodes)}
    ends = np.array([(place[a], place[b]) for a, b in graph.edges], dtype=int).reshape(-1, 2)
    weight = np.array([data.get("weight", 1.0) for *_, data in graph.edges(data=True)], dtype=float)
    strength = np.bincount(ends.ravel(), np.repeat(weight, 2), minlength=len(nodes))
    igraph.set_random_number_generator(random.Random(seed))
    try:
        drawn = igraph.Graph(n=len(nodes), edges=ends.tolist())
        at = np.array(drawn.layout("fr", weights=weight.tolist() or None).coords).reshape(-1, 2)
    finally:
        igraph.set_random_number_generator(random)
    if len(ends):
        widths = 0.2 + (WIDEST - 0.2) * weight / weight.max()
        ax.add_collection(LineCollection(at[ends], linewidths=widths, colors="0.55", alpha=0.5, zorder=1))
    sizes = 12 + 90 * strength / max(strength.max(initial=0), 1e-12)
    colours = [(colour or {}).get(name, "C0") for name in nodes]
    ax.scatter(at[:, 0], at[:, 1], s=sizes, c=colours, linewidths=0, zorder=2)
    for i in np.argsort(-strength, kind="stable")[:labels]:
        ax.annotate(nodes[i], at[i], xytext=(0, 4), textcoords="offset points", ha="center", fontsize=6, zorder=3)
    ax.set_axis_off()
    ax.set_title(title, loc="left", fontsize=10)
    ax.autoscale_view()
    return ax
