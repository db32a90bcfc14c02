"""Pictures of growth: time per token and memory over a size, on logarithmic axes."""

from __future__ import annotations

from pathlib import Path

from cellfm_torch.files import written_beside

COLOURS = {"chunked": "#0072b2", "recurrent": "#e69f00", "parallel": "#d55e00", "embed": "#009e73", "train": "#cc79a7"}
MARKERS = {"chunked": "o", "recurrent": "s", "parallel": "^", "embed": "D", "train": "v"}
LEAST = 0.1
"""What is shown of less, which the logarithm of an axis has no place for; below what sampling resolves."""


def draw(curves: dict[str, dict[int, dict[str, float | None]]], path: Path, *, axis: str) -> Path:
    """Draw ``{curve: {size: {"time": us per token, "memory": MB}}}`` side by side; returns `path`."""
    from matplotlib.figure import Figure  # without pyplot: no window, no global state
    from matplotlib.ticker import LogLocator

    panels = {"time": "microseconds per token", "memory": "memory above the start, MB"}
    shown = [
        kind for kind in panels if any(p.get(kind) is not None for points in curves.values() for p in points.values())
    ]
    figure = Figure(figsize=(4.6 * len(shown), 3.6), layout="constrained")
    sizes = sorted({size for points in curves.values() for size in points})
    for i, kind in enumerate(shown):
        ax = figure.add_subplot(1, len(shown), i + 1)
        for name, points in curves.items():
            known = [(size, max(p[kind] or 0, LEAST)) for size, p in points.items() if p.get(kind) is not None]
            if known:
                ax.plot(*zip(*known, strict=True), label=name, color=COLOURS.get(name), marker=MARKERS.get(name))
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45, ha="right")
        ax.minorticks_off()
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_xlabel(axis)
        ax.set_ylabel(panels[kind])
        ax.grid(alpha=0.3)
        if len(curves) > 1 and i == 0:
            ax.legend()
    with written_beside(path) as part:
        figure.savefig(part, format="png", dpi=150)
    return path
