"""How far two right implementations may be apart, by device and number format, each with its reason.

Where the figures come from is told in docs/parity.md; PyTorch's LeakyReLU slope and norm epsilon give 0.7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

MANY_ACTIVATIONS = 100_000
ONE_FLIP = 1e-3


@dataclass(frozen=True)
class Tolerance:
    """Largest errors of one side.

    Attributes
    ----------
    outputs
        Largest absolute error over mean magnitude, of the first layer.
    grows
        Whether that grows with the square root of the layers, as independent roundings add up.
    gradients, loss
        Norm of the difference over norm, and relative error.
    reason
        Printed under the table.
    """

    outputs: float
    grows: bool
    gradients: float
    loss: float
    reason: str

    def after(self, num_layers: int) -> float:
        """Allowed error of outputs after so many layers (0: the tokens that go in)."""
        return self.outputs * (math.sqrt(max(1, num_layers)) if self.grows else 1)


# 5 times what MindSpore on a CPU is from float64 at the 80M size. At the 800M size the two are 6e-6 apart after one
# layer and 2.1e-5 after 40: no need to let it grow.
FLOAT32 = Tolerance(3e-5, False, 1e-4, 3e-6, "float32: sums are taken in another order")
# Twice the largest error of the small cases. Gradients: without loss scaling small ones vanish.
FLOAT16 = Tolerance(
    2.5e-2, True, 0.3, 5e-3, "float16: 11 bits, 5e-4 per rounding; the largest of some 10,000 numbers is 20 times that"
)
BFLOAT16 = Tolerance(0.2, True, 1.0, 4e-2, "bfloat16: 8 bits, 4e-3 per rounding; finds gross mistakes only")
ASCEND = replace(
    FLOAT16,
    reason="float32 on Ascend: the older Atlas training cards multiply matrices in float16 unless told otherwise "
    "(precision mode allow_fp32_to_fp16)",
)

TOLERANCES = {
    ("CPU", "float32"): FLOAT32,
    ("GPU", "float32"): replace(FLOAT32, reason="float32 on a GPU, TF32 off: sums are taken in another order"),
    ("Ascend", "float32"): ASCEND,
    **{(device, "float16"): FLOAT16 for device in ("CPU", "GPU", "Ascend")},
    **{(device, "bfloat16"): BFLOAT16 for device in ("CPU", "GPU", "Ascend")},
}


def tolerance_between(theirs: tuple[str, str], ours: tuple[str, str], *, activations: int) -> Tolerance:
    """Return the looser tolerance of two sides, each (device, dtype).

    Parameters
    ----------
    theirs, ours
        Keys of `TOLERANCES`.
    activations
        Tokens times width: how many numbers a ReLU sees.
    """
    looser = max((TOLERANCES[side] for side in (theirs, ours)), key=lambda side: side.outputs)
    # Among many activations one is so near 0 that it falls on the other side of its ReLU in q or k: a single row of
    # a weight's gradient then differs, by 2e-4 of the whole where that was seen.
    if activations >= MANY_ACTIVATIONS and looser.gradients < ONE_FLIP:
        reason = f"{looser.reason}; gradients: one of {activations:,} activations may fall on the other side of a ReLU"
        looser = replace(looser, gradients=ONE_FLIP, reason=reason)
    return looser
