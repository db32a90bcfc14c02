"""Cell embeddings of PBMC3k by scFoundation, beside its official code on the same cells.

Shapes: B cells, C width of the cell embedding.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.cells import batches_of, join, pick
from benchmarks.embed import ALLOWED, rate_note, relative_error
from benchmarks.machine import full_machine, versions
from benchmarks.report import progress
from benchmarks.scfoundation_peer import OfficialScFoundation, laid_out
from benchmarks.settings import Settings
from benchmarks.timing import Side, Work, matmul_side, take_turns
from cellfm_torch import CellBatch, ScFoundation, ScFoundationConfig
from cellfm_torch.errors import UserError

CELLS_PER_TURN = 12
PREFIX = 2  # tokens: S, T


def network_of(settings: Settings) -> ScFoundation:
    """Build the network with random weights from the seed."""
    torch.manual_seed(settings.seed)
    return ScFoundation(ScFoundationConfig.preset(settings.model)).to(settings.device)


def spread_cells(batch: CellBatch, number: int) -> CellBatch:
    """Return cells evenly spaced in file order."""
    step = batch.num_cells / number
    chosen = [int(i * step) for i in range(number)]
    return join([pick(batch, i, i + 1) for i in chosen])


def operations(config: ScFoundationConfig, lengths: Tensor) -> float:
    """Arithmetic of the encoder on cells of so many tokens: 24 D^2 n + 4 D n^2 in each layer."""
    n, dim = lengths.double(), config.encoder_dim
    return float(config.encoder_layers * (24 * dim**2 * n + 4 * dim * n.square()).sum())


def measure(settings: Settings) -> dict[str, Any]:
    if settings.device != "cpu" or settings.dtype != "float32":
        raise UserError("scfoundation compares in float32 on a CPU: leave --device and --dtype out")
    network = network_of(settings).eval()
    config = network.config
    turns = settings.repeats
    number = settings.cells or turns * CELLS_PER_TURN
    if number < turns:
        raise UserError(f"--cells {number}: give at least one per turn, of which there are {turns} (--repeats)")
    every = spread_cells(join(batches_of(network, settings, training=False)), number)
    shares = [join([pick(every, i, i + 1) for i in range(turn, number, turns)]) for turn in range(turns)]
    made: dict[str, list[Tensor]] = {}

    def side(name: str, embed: Callable[[int], Tensor]) -> Side:
        made[name] = [torch.empty(0)] * turns

        def call(turn: int) -> Work:
            made[name][turn] = embed(turn)
            share = shares[turn]
            return share.num_cells, share.num_genes + PREFIX * share.num_cells

        return Side(name, call)

    embedder = network.embedder()

    def plain(turn: int) -> Tensor:
        with torch.inference_mode():
            return network.encode(shares[turn]).cell

    sides = {"exact": side("exact", lambda turn: embedder(shares[turn])), "encode": side("encode", plain)}
    error: float | None = None
    if settings.peer:
        peer = OfficialScFoundation(settings.peer, network)
        laid = [laid_out(share, config.num_genes) for share in shares]
        order = every.lengths.argsort()
        ends = join([pick(every, int(i), int(i) + 1) for i in (order[0], order[-1])])  # shortest, longest
        error = relative_error(embedder(ends), peer.embed(laid_out(ends, config.num_genes)))
        if not error <= ALLOWED:  # NaN is beyond as well
            raise UserError(
                f"the embeddings differ from the peer's by {error:.1e} of their magnitude: no speed is reported"
            )
        sides["peer"] = side("peer", lambda turn: peer.embed(laid[turn]))
    matmul, onednn = (matmul_side("cpu", torch.float32, onednn=onednn) for onednn in (False, True))
    embedder(shares[0])  # the first call packs the weights
    take_turns([matmul, onednn, *sides.values()], progress(turns, "scfoundation"), device="cpu")

    exact = torch.cat(made["exact"])
    if "peer" in sides:
        error = relative_error(exact, torch.cat(made["peer"]))
    arithmetic = [operations(config, share.lengths + PREFIX) for share in shares]
    rows = []
    names = {"exact": "exact, embedder()", "encode": "plain, encode().cell", "peer": "official, cell by cell"}
    for key, one in sides.items():
        of_matmul = [arithmetic[i] / one.seconds[i] / matmul.rate(i, 1) for i in range(turns)]
        peer_error = None if key == "peer" else error if key == "exact" else relative_error(exact, torch.cat(made[key]))
        row = {
            "name": names[key],
            "cells": number,
            "cells_per_second": one.steady(),
            "tokens_per_second": one.steady(1),
            "useful_utilisation": statistics.median(of_matmul),
            "ratio_to_peer": one.steady() / sides["peer"].steady() if "peer" in sides else None,
            "ratio_median": one.ratio_to(sides["peer"]) if "peer" in sides else None,
            "ratio_spread": one.spread_to(sides["peer"]) if "peer" in sides else None,
            "seconds": one.seconds,
        }
        rows.append(row if peer_error is None else row | {"max_error": peer_error})
    if "peer" not in sides:
        rows.append({"name": names["peer"], "cells_per_second": None, "ratio_to_peer": None})
    lengths = every.lengths.float()
    head = rows[0]
    return {
        "theme": "scfoundation",
        "title": f"Cell embeddings of PBMC3k, {settings.model}, cpu, float32",
        **{key: head[key] for key in ("ratio_to_peer", "useful_utilisation", "cells_per_second", "tokens_per_second")},
        "max_error": error,
        "matmul_rate": matmul.steady(1),
        "matmul_rate_onednn": onednn.steady(1),
        "peak_memory_mb": None,
        "rows": rows,
        "notes": [
            *rate_note(matmul, onednn),
            f"{number} cells evenly spaced in the file; in each of {turns} turns all sides embed the same cells, the "
            "official code one by one as its script does, without its reading and normalising. The ratio is that of "
            "cells/s over all turns, as cells differ in length.",
            "Random weights, the same on both sides. Max error: of the exact path against the official embeddings, of "
            "encode() against the exact path.",
        ],
        "shapes": {
            "encoder_layers": config.encoder_layers,
            "dim": config.encoder_dim,
            "heads": config.encoder_heads,
            "vocabulary": config.num_genes,
            "cells": number,
            "genes_per_cell": {"mean": float(lengths.mean()), "min": int(lengths.min()), "max": int(lengths.max())},
        },
        "settings": settings.as_json(),
        "machine": full_machine("cpu", torch.get_num_threads()),
        "versions": versions(("torch", "numpy")),
    }
