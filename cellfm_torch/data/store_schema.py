"""What the lines of a store's manifest must hold.

Checksums tell damage. A store that somebody else made may have sound checksums and still name files outside of it, or
cells that it does not have: what is read is checked here, once, and can be relied on afterwards.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

MOST = 1 << 40
"""Cells, genes, bytes: no store has more."""


def _count(x: Any) -> bool:
    return type(x) is int and 0 <= x < MOST


def _positive(x: Any) -> bool:
    return _count(x) and x > 0


def _number(x: Any) -> bool:
    return type(x) in (int, float) and math.isfinite(x)


def _text(x: Any) -> bool:
    return isinstance(x, str)


def _digest(x: Any) -> bool:
    return isinstance(x, str) and re.fullmatch("[0-9a-f]{64}", x) is not None


def _bits(x: Any) -> bool:
    return isinstance(x, str) and re.fullmatch("([0-9a-f]{2})*", x) is not None


def _file_name(x: Any) -> bool:
    return isinstance(x, str) and re.fullmatch(r"[\w-][\w.-]*", x) is not None


def _planned(x: Any) -> bool:
    return isinstance(x, list) and len(x) == 2 and _text(x[0]) and _count(x[1])


def _histogram(x: Any) -> bool:
    """Bins that are not empty, and the cells of each."""
    sound = isinstance(x, list) and len(x) == 2 and all(isinstance(part, list) for part in x)
    return sound and len(x[0]) == len(x[1]) and all(map(_count, x[0])) and all(map(_count, x[1]))


_QUALITY = {"median": _number, "histogram": _histogram}

LINES: dict[str, dict[str, Any]] = {
    "store": {
        "format": _count,
        "genes_sha256": _digest,
        "synonyms": [_text],
        "tool": _text,
        "block_cells": _positive,
        "shard_cells": _positive,
    },
    "plan": {"sources": [_planned]},
    "repeat": {"source": _text, "sha256": _digest},
    "source": {
        "source": _text,
        "number": _count,
        "cells": _count,
        "sha256": _digest,
        "obs": _file_name,
        "obs_index": _text,
        "obs_columns": [_text],
        "synonyms": _bits,
        "shards": [{"file": _file_name, "cells": _count, "sha256": _digest, "bytes": _count}],
        "report": {"cells_read": _count, "genes_read": _count, "genes_matched": _count, "warnings": [_text]},
        "quality": {
            "counts_read": _number,
            "counts_kept": _number,
            "counts": _QUALITY,
            "genes": _QUALITY,
            "mito": _QUALITY,
        },
    },
}
"""By kind of line; fields besides these are not looked at."""

Spec = Callable[[Any], bool] | dict[str, Any] | list[Any]


def fault(line: Any) -> str | None:
    """Return the field of a line that cannot be what ``cellfm prepare`` writes, or None."""
    if not isinstance(line, dict):
        return "all of it"
    spec = LINES.get(line["kind"]) if isinstance(line.get("kind"), str) else None
    if spec is None:
        return "kind"
    found = _fault(line, spec)
    if found is None and line["kind"] == "source" and sum(shard["cells"] for shard in line["shards"]) != line["cells"]:
        return "cells"
    return found


def _fault(value: Any, spec: Spec, name: str = "") -> str | None:
    if isinstance(spec, dict):
        if not isinstance(value, dict):
            return name
        return next((found for key, one in spec.items() if (found := _fault(value.get(key), one, key))), None)
    if isinstance(spec, list):
        if not isinstance(value, list):
            return name
        return next((found for item in value if (found := _fault(item, spec[0], name))), None)
    return None if spec(value) else name
