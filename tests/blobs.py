"""Made-up cells: types, batches, and an embedding that holds both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class Blobs:
    """300 cells in 8 dimensions: three types far apart, two batches a little apart."""

    embedding: NDArray[np.float32]
    types: NDArray[np.object_]
    batches: NDArray[np.object_]


def make_blobs() -> Blobs:
    rng = np.random.default_rng(3)
    types, batches = rng.integers(0, 3, 300), rng.integers(0, 2, 300)
    x = rng.normal(size=(300, 8))
    x[np.arange(300), types] += 8
    x[:, 7] += 1.5 * batches
    return Blobs(x.astype(np.float32), np.array(list("ABC"), object)[types], np.array(["x", "y"], object)[batches])
