"""Ways in which JSON goes wrong that is still JSON."""

from __future__ import annotations

import copy
from typing import Any

from mutations import HUGE, Rng

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 1.5, HUGE, 10**30, 1e308, float("nan"), float("inf"), "", "x", "../../etc/passwd",
    "/etc/passwd", "\x00", "é" * 300, [], {}, [[]], [None], {"": None}, "1", [1] * 100,
)  # fmt: skip
"""Values that somebody may find in the place of another."""


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, child in below for place in _places(child, (*path, key)))]


def mutated_json(given: Any, rng: Rng) -> tuple[Any, str]:
    """Return a copy with one to three values replaced, removed, added or wrapped, and what was done."""
    node, done = copy.deepcopy(given), []
    for _ in range(int(rng.integers(1, 4))):
        places = _places(node)
        place = places[int(rng.integers(len(places)))]
        value = copy.deepcopy(ODD[int(rng.integers(len(ODD)))])
        how = str(rng.choice(["replace", "replace", "remove", "add", "wrap"]))
        done.append(f"{how} {'.'.join(map(str, place)) or 'all'}")
        if not place:
            node = value if how == "replace" else [node] if how == "wrap" else node
            continue
        holder = node
        for key in place[:-1]:
            holder = holder[key]
        if how == "remove":
            del holder[place[-1]]
        elif how == "add" and isinstance(holder, dict):
            holder[str(rng.choice(["model", "x", "__class__", "_target_"]))] = value
        else:
            holder[place[-1]] = [holder[place[-1]]] if how == "wrap" else value
    return node, ", ".join(done)
