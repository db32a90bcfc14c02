"""The drawings of the pages: SVG that takes the colours of the page, light or dark.

A page has ``{{ drawing NAME }}`` where one stands.
"""

from __future__ import annotations

from collections.abc import Iterable

CELLS = ("a", "b", "c")
"""Classes of three cells of a batch, coloured in site.css."""


def svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    """Return a drawing; without empty lines, which would end it in Markdown."""
    head = (
        f'<svg class="drawing" viewBox="0 0 {width} {height}" role="img" aria-label="{title}" '
        f'style="max-width:{width}px">'
    )
    arrow = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" class="tip"/></marker></defs>'
    )
    # Markdown leaves what is in a div alone.
    return "\n".join(["<div>", head, arrow, *parts, "</svg>", "</div>"])


def box(x: float, y: float, width: float, height: float, kind: str = "", words: str = "", small: str = "") -> str:
    """Return a rectangle with words in its middle, and smaller ones under them."""
    middle = y + height / 2 + (5 if not small else -2)
    parts = [f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="3" class="box {kind}"/>']
    if words:
        parts.append(text(x + width / 2, middle, words, "middle"))
    if small:
        parts.append(text(x + width / 2, middle + 16, small, "middle small"))
    return "\n".join(parts)


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Return a line of text that begins at a point, or has its middle there."""
    return f'<text x="{x}" y="{y}" class="{kind}">{words}</text>'


def arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    """Return a line with a tip."""
    return f'<line x1="{x}" y1="{y}" x2="{to_x}" y2="{to_y}" class="line" marker-end="url(#tip)"/>'


def modes() -> str:
    """Draw the three ways to compute retention for one cell of eight tokens."""
    parts = []
    for i, (name, cost) in enumerate(
        (
            ("parallel", "by pairs: memory grows as N x N"),
            ("recurrent", "token by token: one K x V state"),
            ("chunked", "chunk by chunk: one state, large products"),
        )
    ):
        x = 20 + i * 270
        parts += [text(x, 24, name, "head"), text(x, 44, cost, "small")]
    for row in range(8):
        for column in range(8):
            strong = (row * 5 + column * 3) % 7 / 7
            parts.append(
                f'<rect x="{20 + column * 20}" y="{70 + row * 20}" width="18" height="18" rx="2" class="box a" '
                f'style="fill-opacity:{0.1 + 0.7 * strong:.2f}"/>'
            )
    parts += [text(20, 252, "every q meets every k, then gathers v", "small")]
    for token in range(8):
        y = 70 + token * 20
        parts += [box(290, y, 34, 16, "a"), arrow(326, y + 8, 368, y + 8)]
    parts += [
        box(372, 70, 56, 156, "state", "S", "+= k v"),
        arrow(430, 148, 464, 148),
        box(468, 136, 44, 24, "b", "q S"),
        text(290, 252, "S = sum of k v; then o = q S", "small"),
    ]
    for chunk in range(4):
        y = 70 + chunk * 40
        parts += [box(560, y, 60, 34, "a"), text(590, y + 22, "2 tokens", "middle small")]
        parts.append(arrow(622, y + 17, 658, y + 17))
    parts += [
        box(662, 70, 56, 154, "state", "S", "+= K'V"),
        arrow(720, 147, 744, 147),
        box(748, 135, 44, 24, "b", "Q S"),
        text(560, 252, "the same sum, in matrix products", "small"),
    ]
    return svg(812, 264, "Three modes of retention: parallel, recurrent, chunked", parts)


def batch() -> str:
    """Draw three cells padded, and laid end to end."""
    lengths, step = (9, 4, 6), 34
    parts = [text(20, 24, "padded to the longest cell", "head")]
    for row, (length, kind) in enumerate(zip(lengths, CELLS, strict=True)):
        for column in range(max(lengths)):
            parts.append(box(20 + column * step, 38 + row * 30, step - 4, 24, kind if column < length else "none"))
        parts.append(text(34 + max(lengths) * step, 55 + row * 30, f"cell {row}: {length} genes", "small"))
    parts += [text(20, 160, "a CellBatch: laid end to end", "head")]
    place = 0
    for row, (length, kind) in enumerate(zip(lengths, CELLS, strict=True)):
        x = 20 + place * step
        parts += [arrow(x, 226, x, 204), text(x, 242, str(place), "middle small")]
        parts += [box(20 + (place + column) * step, 174, step - 4, 24, kind) for column in range(length)]
        parts.append(text(20 + (place + length / 2) * step, 190, f"cell {row}", "middle small"))
        place += length
    x = 20 + place * step - 4
    parts += [arrow(x, 226, x, 204), text(x, 242, str(place), "middle small")]
    words = "offsets = [0, 9, 13, 19]: cell b owns offsets[b] : offsets[b + 1]; no place is empty"
    parts.append(text(20, 264, words, "small"))
    return svg(690, 276, "Three cells, padded and laid end to end", parts)


def network() -> str:
    """Draw the way from genes to predictions, and what is inside a layer."""
    parts = [
        box(20, 20, 150, 48, "a", "gene embedding", "row of the gene"),
        box(20, 84, 150, 48, "b", "value embedding", "log1p(CP10K), or mask"),
        text(188, 82, "+", "head"),
        box(210, 20, 120, 112, "", "tokens", "cls first; (N, D)"),
        arrow(172, 44, 206, 60),
        arrow(172, 108, 206, 92),
        arrow(332, 76, 360, 76),
        box(364, 20, 130, 112, "state", "N layers", "masked genes not"),
        text(429, 108, "read in the first half", "middle small"),
        arrow(496, 44, 530, 44),
        arrow(496, 108, 530, 108),
        box(534, 20, 150, 48, "a", "by gene", "each gene token: value"),
        box(534, 84, 150, 48, "b", "by cell", "cls . gene embedding"),
        text(20, 176, "One layer: retention, then a gated unit; residuals are scaled, norms come after", "head"),
        box(20, 194, 70, 60, "", "x"),
        arrow(92, 224, 116, 224),
        box(120, 194, 130, 60, "state", "o = q (k'v)", "per head and cell"),
        arrow(252, 224, 276, 224),
        box(280, 194, 110, 60, "", "norm, x u", "SRMSNorm, gate"),
        arrow(392, 224, 416, 224),
        box(420, 194, 120, 60, "c", "LayerNorm", "(alpha x + out)"),
        arrow(542, 224, 566, 224),
        box(570, 194, 114, 60, "a", "gated unit", "and norm again"),
    ]
    return svg(704, 268, "The network: from genes and values to predictions", parts)


def flow() -> str:
    """Draw the rooms of the code and what goes from one to the next."""
    parts = [
        box(20, 30, 110, 60, "", "files", "h5ad, zarr, stores"),
        arrow(132, 60, 158, 60),
        box(162, 30, 110, 60, "a", "data/", "find, filter, mask"),
        arrow(274, 60, 324, 60),
        text(299, 46, "CellBatch", "middle small"),
        box(328, 30, 110, 60, "state", "model/", "plain nn.Module"),
        arrow(440, 60, 490, 60),
        text(465, 46, "Prediction", "middle small"),
        box(494, 30, 110, 60, "b", "tasks/", "loss, metrics"),
        arrow(606, 60, 632, 60),
        box(636, 30, 120, 60, "c", "commands", "conf/, cellfm"),
        box(328, 128, 110, 50, "state", "ops/", "retention, kernels"),
        arrow(383, 126, 383, 94),
        box(162, 128, 110, 50, "a", "batch.py", "the one contract"),
        arrow(217, 126, 217, 94),
        arrow(274, 146, 324, 84),
        box(494, 128, 110, 50, "c", "callbacks/", "with any module"),
        box(20, 128, 110, 50, "", "convert/", "official weights"),
        arrow(132, 140, 326, 82),
        arrow(606, 152, 660, 94),
    ]
    return svg(776, 196, "The rooms of the code and what passes between them", parts)


DRAWINGS = {"modes": modes, "batch": batch, "network": network, "flow": flow}
