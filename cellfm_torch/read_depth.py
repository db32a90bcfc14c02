"""The read depth a model is asked to imagine: a target total of counts per cell.

scFoundation reads two totals of each cell, S of what it is given and T of what it should describe, as decimal
logarithms. Its published rules for T are ``t4`` (10^4 counts), ``f2`` (twice the cell's own counts) and ``a0.5``
(10^0.5 times them: 0.5 is added to the logarithm, and not to the counts).

Shapes: B cells.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, TypeVar

from cellfm_torch.errors import UserError

Totals = TypeVar("Totals", bound=Any)

KINDS = {
    "t": "log10 of the target total: t4 is 10,000 counts",
    "f": "times the cell's own counts: f1 is as many as it has",
    "a": "added to their log10: a1 is ten times as many",
}


@dataclass(frozen=True)
class TargetDepth:
    """A rule for T.

    Attributes
    ----------
    kind : "t", "f" or "a"
    number : float
    """

    kind: str
    number: float

    @classmethod
    def parse(cls, text: str) -> TargetDepth:
        """Read a rule as published: ``t4``, ``f2``, ``a0.5``.

        Raises
        ------
        UserError
            If it is none.
        """
        match = re.fullmatch(r"([tfa])([+-]?(?:\d+\.?\d*|\.\d+))", str(text).strip())
        if match is None or (match[1] == "f" and float(match[2]) <= 0):
            kinds = "; ".join(f"{kind}X: X is {meaning}" for kind, meaning in KINDS.items())
            raise UserError(f"target depth '{text}': must be a letter and a number ({kinds})")
        if match[1] != "f" and abs(float(match[2])) > 20:
            raise UserError(f"target depth '{text}': {match[2]} is a decimal logarithm, of 10^{match[2]} counts")
        return cls(match[1], float(match[2]))

    def totals(self, source: Totals) -> Totals:
        """Return T in counts, given S in counts: (B,) arrays or tensors of decimals."""
        if self.kind == "t":
            return source * 0 + math.pow(10.0, self.number)
        return source * (self.number if self.kind == "f" else math.pow(10.0, self.number))

    def __str__(self) -> str:
        return f"{self.kind}{self.number:g}"
