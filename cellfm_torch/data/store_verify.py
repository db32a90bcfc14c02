"""Whether a prepared store is what was written."""

from __future__ import annotations

import numpy as np

from cellfm_torch.data.store import Shard, Store, damage
from cellfm_torch.data.store_codec import Damaged
from cellfm_torch.data.store_shard import read_index
from cellfm_torch.errors import UserError


def check_shard(store: Store, shard: Shard) -> str | None:
    """Return what is wrong with a shard, or None; reads all of it."""
    problem = damage(shard)
    if problem is not None:
        return f"{problem} (cells of {store.sources[shard.source]['source']}): prepare that source again"
    try:
        cells = int(np.sum(read_index(shard.path, shard.cells)["sizes"]))
    except Damaged as error:
        return f"{shard.path}: {error}"
    return None if cells == shard.cells else f"{shard.path}: holds {cells:,} cells, the manifest says {shard.cells:,}"


def check_store(store: Store) -> list[str]:
    """Return what is wrong with the annotations."""
    problems = []
    for i, source in enumerate(store.sources):
        try:
            rows = len(store.read_obs(i, source["obs_index"]))
        except UserError as error:
            problems.append(str(error))
            continue
        if rows != source["cells"]:
            problems.append(f"{source['obs']}: annotates {rows:,} cells, the manifest says {source['cells']:,}")
    return problems
