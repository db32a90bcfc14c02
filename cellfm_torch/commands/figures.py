"""Numbers as tables for people show them."""

from __future__ import annotations

import math


def with_spread(mean: float, deviation: float) -> str:
    """Return a mean, with its standard deviation where there is one; a dash for none."""
    if math.isnan(mean):
        return "-"
    return f"{mean:.3f}" if math.isnan(deviation) else f"{mean:.3f} ±{deviation:.3f}".replace("±0", "±")
