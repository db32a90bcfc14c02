"""Tables of names, read both ways: rows of (their pattern, our template).

Groups of a pattern are alternatives or numbers, none nested in another; everything else is literal, so that a row reads
backwards as well. A slot ``{}`` of the template stands for each group, in order.
"""

from __future__ import annotations

import re

Table = tuple[tuple[str, str], ...]


def forwards(table: Table, source: str) -> tuple[str, str] | None:
    """Return our name of one of theirs, and the template it comes from; None where the table does not know it."""
    for pattern, template in table:
        match = re.fullmatch(pattern, source)
        if match:
            return template.format(*match.groups()), template
    return None


def backwards(table: Table, target: str) -> tuple[str, str] | None:
    """Return their name of one of ours, and the template it matches; None where the table does not know it."""
    for pattern, template in table:
        match = re.fullmatch(_slots(template, re.findall(r"\([^()]*\)", pattern)), target)
        if match:
            literals = re.split(r"\([^()]*\)", pattern.replace("\\.", "."))
            return "".join(a + b for a, b in zip(literals, [*match.groups(), ""], strict=True)), template
    return None


def _slots(template: str, groups: list[str]) -> str:
    """Turn a template into a pattern: its slots become the groups."""
    pieces = template.split("{}")
    return "".join(re.escape(piece) + group for piece, group in zip(pieces, [*groups, ""], strict=True))
