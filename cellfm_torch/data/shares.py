"""How many blocks of each part an epoch takes, and how many go into a fetch.

Shapes: C cells of the data set, K blocks, P parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.data.order import BlockOrder

BATCHES_PER_FETCH = 32
"""A fetch is cut into whole batches; with fewer of them they would be of less even size."""


def shuffled_order(
    blocks: NDArray[np.int64],
    tokens: int,
    *,
    parts: NDArray[np.int64],
    weights: Sequence[float] | None,
    fetch_cells: int,
    token_budget: int,
    seed: int,
) -> BlockOrder:
    """Return the order of training cells.

    Parameters
    ----------
    blocks : (K + 1,)
        Borders of blocks, positions in the data set.
    tokens
        Of all its cells.
    parts : (P + 1,)
        Borders of parts, positions in the data set.
    weights
        Share of an epoch's cells for each part, in any unit; None takes each cell once.
    fetch_cells, token_budget
        Cells of a fetch, and tokens of a batch.
    """
    cells = int(blocks[-1])
    at_once = max(fetch_cells, BATCHES_PER_FETCH * token_budget * cells // max(tokens, 1))
    if weights is None:
        return BlockOrder(blocks, fetch_blocks=max(1, round(at_once * (len(blocks) - 1) / cells)), seed=seed)
    blocks = np.union1d(blocks, parts)  # no block belongs to two parts
    pools = np.searchsorted(blocks, parts)
    per_block = np.diff(parts) / np.diff(pools)  # (P,)
    wanted = np.array(weights, dtype=np.float64) / sum(weights) * cells
    draws = np.maximum(1, np.rint(wanted / per_block)).astype(np.int64)
    fetch_blocks = max(1, round(at_once * int(draws.sum()) / float((draws * per_block).sum())))
    return BlockOrder(blocks, pools=pools, draws=draws, fetch_blocks=fetch_blocks, seed=seed)


def plain_order(blocks: NDArray[np.int64], *, fetch_cells: int) -> BlockOrder:
    """Return the order of evaluation: all cells as they stand."""
    per_block = int(blocks[-1]) / (len(blocks) - 1)
    return BlockOrder(blocks, fetch_blocks=max(1, round(fetch_cells / per_block)), shuffle=False)
