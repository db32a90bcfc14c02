"""Cell embeddings of PBMC3k: the fast exact path, int8, and the plain forward pass, beside the peer.

Shapes: B cells, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.cells import (
    batches_of,
    fill_tables,
    first_cells,
    join,
    network_of,
    num_tokens,
    operations_per_token,
    pick,
)
from benchmarks.fresh import peak_of
from benchmarks.machine import full_machine, versions
from benchmarks.peer import Peer, padded
from benchmarks.report import progress
from benchmarks.settings import Settings
from benchmarks.timing import Side, Work, matmul_side, seconds_of, take_turns, utilisation
from cellfm_torch import CellBatch, CellFM
from cellfm_torch.errors import UserError
from cellfm_torch.ops.int8 import has_vnni

ALLOWED = 1e-4
"""Largest difference from the peer, in units of the mean magnitude, at which a speed is reported (float32)."""

Embed = Callable[[CellBatch], Tensor]


def relative_error(x: Tensor, reference: Tensor) -> float:
    """Largest difference in units of the reference's mean magnitude."""
    x, reference = x.double(), reference.double()
    return float((x - reference).abs().max() / reference.abs().mean())


def neighbours(x: NDArray[Any], number: int) -> NDArray[np.int64]:
    """Return the nearest rows of each row (Euclidean, itself left out), (B, number)."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=number).fit(x).kneighbors(return_distance=False)
    return np.asarray(found)


def overlap(a: Tensor, b: Tensor, number: int = 15) -> float:
    """Mean share of the nearest neighbours that two embeddings of the same cells have in common."""
    number = min(number, len(a) - 1)
    pairs = zip(neighbours(a.numpy(), number), neighbours(b.numpy(), number), strict=True)
    return float(np.mean([len(np.intersect1d(x, y)) / number for x, y in pairs]))


def building_seconds(network: CellFM, batches: list[CellBatch], settings: Settings, *, int8: bool) -> float:
    """Time what only an embedder's first call does, for all genes that occur: first call less the second."""
    ids = torch.cat([batch.gene_ids for batch in batches]).unique()
    # In cells of usual length, so that both calls work as the timed ones do.
    lengths = torch.tensor([min(512, len(ids) - start) for start in range(0, len(ids), 512)], device=ids.device)
    depth = None if batches[0].read_depth is None else batches[0].read_depth[:1].expand(len(lengths), 2)
    every = CellBatch(
        gene_ids=ids,
        values=torch.ones(len(ids), device=ids.device),
        hidden=torch.zeros(len(ids), dtype=torch.bool, device=ids.device),
        offsets=torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
        cell_index=torch.arange(len(lengths), device=ids.device),
        read_depth=depth,
    )
    embedder = network.embedder(int8=int8)
    first, second = (seconds_of(lambda: embedder(every), settings.device) for _ in range(2))
    return max(0.0, first - second)


class Chunks:
    """One share of the batches per turn; `few` cells of it for the slow sides."""

    def __init__(self, network: CellFM, batches: list[CellBatch], turns: int, few: int) -> None:
        self.network = network
        self.turns = [batches[i::turns] for i in range(min(turns, len(batches)))]
        self.few = [first_cells(share[0], few) for share in self.turns]
        self.made: dict[str, list[list[Tensor]]] = {}

    def side(self, name: str, embed: Embed, *, few: bool = False) -> Side:
        """Embed the share of each turn, or `few` cells of it, and keep the embeddings."""
        made: list[list[Tensor]] = [[] for _ in self.turns]
        self.made[name] = made

        def call(turn: int) -> Work:
            share = [self.few[turn]] if few else self.turns[turn]
            made[turn] = [embed(batch) for batch in share]
            return sum(b.num_cells for b in share), sum(num_tokens(self.network, b) for b in share)

        return Side(name, call)

    def all_of(self, name: str) -> Tensor:
        """Return what a side made of all cells, on the CPU."""
        return torch.cat([x for turn in self.made[name] for x in turn]).cpu().float()


def check_against_peer(peer: Peer, network: CellFM, batches: list[CellBatch], number: int) -> float:
    """Compare the exact path with the corrected peer in float32, on the first, the shortest and the longest cells."""
    batch = batches[0]
    order = batch.lengths.argsort().tolist()
    chosen = sorted({*range(min(number, len(order))), order[0], order[-1]})
    some = join([pick(batch, i, i + 1) for i in chosen])
    theirs = [peer.corrected_embedding(padded(pick(some, i, i + 1))) for i in range(some.num_cells)]
    error = relative_error(network.embedder()(some), torch.cat(theirs))
    if not error <= ALLOWED:  # NaN is beyond as well
        raise UserError(
            f"the embeddings differ from the peer's by {error:.1e} of their magnitude: no speed is reported"
        )
    return error


def measure(settings: Settings) -> dict[str, Any]:
    network = network_of(settings).eval()
    batches = batches_of(network, settings, training=False)
    peer = Peer(settings.peer, network) if settings.peer else None
    peer_error = check_against_peer(peer, network, batches, settings.peer_cells) if peer else None
    if settings.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    # After the comparison. The peer has float32 written into it, so it computes under autocast instead.
    network.to(settings.torch_dtype)
    chunks = Chunks(network, batches, settings.repeats, settings.peer_cells)

    def plain(batch: CellBatch) -> Tensor:
        with torch.inference_mode():
            return network.encode(batch).cell

    def fast(*, int8: bool) -> Embed:
        embedder = network.embedder(int8=int8)
        fill_tables(embedder, torch.cat([batch.gene_ids for batch in batches]), batches[0])
        return embedder

    int8 = settings.device == "cpu" and settings.dtype == "float32" and has_vnni()
    sides = {"exact": chunks.side("exact", fast(int8=False))}
    if int8:
        sides["int8"] = chunks.side("int8", fast(int8=True))
    sides["encode"] = chunks.side("encode", plain, few=True)
    matmul = matmul_side(settings.device, settings.torch_dtype)
    onednn = matmul_side(settings.device, settings.torch_dtype, onednn=True) if settings.device == "cpu" else None
    if peer:
        laid = [padded(few) for few in chunks.few]

        def peer_call(turn: int) -> Work:
            with settings.autocast():
                peer.embed(laid[turn])
            few = chunks.few[turn]
            return few.num_cells, num_tokens(network, few)

        sides["peer"] = Side("peer", peer_call)
        peer_call(0)
    with torch.inference_mode():
        for name in ("exact", "int8", "encode"):
            if name in sides:
                sides[name].call(0)
    order = [matmul, *([onednn] if onednn else []), *sides.values()]
    take_turns(order, progress(len(chunks.turns), "embed"), device=settings.device)

    exact = chunks.all_of("exact")
    few = torch.cat([chunks.made["exact"][i][0][: b.num_cells] for i, b in enumerate(chunks.few)]).cpu()
    encode_error = relative_error(few, chunks.all_of("encode"))
    total = len(exact)
    cost = operations_per_token(network.config)
    rows: list[dict[str, Any]] = []

    def row(name: str, side: Side, **more: Any) -> dict[str, Any]:
        made = {
            "name": name,
            "cells": sum(work[0] for work in side.work),
            "cells_per_second": side.steady(),
            "tokens_per_second": side.steady(1),
            "useful_utilisation": utilisation(side, matmul, cost),
            "ratio_to_peer": side.ratio_to(sides["peer"]) if peer else None,
            "ratio_spread": side.spread_to(sides["peer"]) if peer else None,
            "seconds": side.seconds,
            **more,
        }
        rows.append(made)
        return made

    def with_building(name: str, side: Side, *, in_bytes: bool) -> float:
        """Add the row in which one pass over these cells pays for the tables as well."""
        built = building_seconds(network, batches, settings, int8=in_bytes)
        rate = total / (total / side.steady() + built)
        slower = rate / side.steady()
        made = rows[-1]
        rows.append(
            {
                "name": name,
                "cells": total,
                "cells_per_second": rate,
                "tokens_per_second": made["tokens_per_second"] * slower,
                "useful_utilisation": made["useful_utilisation"] * slower,
                "ratio_to_peer": made["ratio_to_peer"] * slower if peer else None,
                "building_seconds": built,
            }
        )
        return built

    head = row(
        "exact, embedder()",
        sides["exact"],
        max_error=peer_error if peer else encode_error,
        error_to_encode=encode_error,
        error_to_peer=peer_error,
        peak_memory_mb=peak_of("embed", settings),
    )
    built = with_building(f"the same, with the tables ({total:,} cells)", sides["exact"], in_bytes=False)
    notes = [
        f"Exact against encode(), {settings.dtype}: {encode_error:.1e}; against the peer with slope 0.2, epsilon 1e-7 "
        f"and read depths, float32: {f'{peer_error:.1e}' if peer else 'not measured'} (largest difference over mean "
        "magnitude).",
        f"Tables of the exact path, made once per network: {built:.1f} s; the other rows are the steady state.",
    ]
    if int8:
        made = chunks.all_of("int8")
        cosine = torch.nn.functional.cosine_similarity(exact, made, dim=1)
        shared = overlap(exact, made)
        row(
            "int8, embedder(int8=True)",
            sides["int8"],
            max_error=relative_error(made, exact),
            cosine_min=float(cosine.min()),
            cosine_mean=float(cosine.mean()),
            neighbour_overlap=shared,
            peak_memory_mb=peak_of("int8", settings),
        )
        built = with_building("the same, with the tables", sides["int8"], in_bytes=True)
        notes.append(
            f"int8 against exact over {total:,} cells: cosine at least {float(cosine.min()):.5f}, mean "
            f"{float(cosine.mean()):.5f}; overlap of the 15 nearest neighbours {shared:.3f}; tables and weights "
            f"{built:.1f} s."
        )
    else:
        rows.append({"name": "int8, embedder(int8=True)", "cells_per_second": None, "ratio_to_peer": None})
    row("plain, encode().cell", sides["encode"], peak_memory_mb=peak_of("encode", settings))
    if peer:
        row("CellFM-torch, padded to 2,048", sides["peer"], peak_memory_mb=peak_of("peer_embed", settings))
        notes.append(
            f"The peer is given the first {settings.peer_cells} cells of each turn in one call, laid out beforehand; "
            "its cost per cell does not depend on the cell. Recomputation off (no effect in evaluation). Peak memory: "
            "a batch of the token budget for ours, these cells for the peer."
        )
    if settings.device == "cpu":
        rows.append({"name": "on a GPU, bf16", "cells_per_second": None, "ratio_to_peer": None})
    return {
        "theme": "embed",
        "title": f"Embedding PBMC3k, {settings.model}, {settings.device}, {settings.dtype}",
        **{key: head[key] for key in ("ratio_to_peer", "useful_utilisation", "max_error")},
        **{key: head[key] for key in ("cells_per_second", "tokens_per_second", "peak_memory_mb")},
        "matmul_rate": matmul.steady(1),
        "matmul_rate_onednn": onednn.steady(1) if onednn else None,
        "matmul_seconds": matmul.seconds,
        "rows": rows,
        "notes": [*rate_note(matmul, onednn), *notes],
        "shapes": shapes(network, batches),
        "settings": settings.as_json(),
        "machine": full_machine(settings.device, torch.get_num_threads()),
        "versions": versions(("torch", "numpy", "scikit-learn")),
    }


def rate_note(matmul: Side, onednn: Side | None) -> list[str]:
    also = f", by oneDNN {onednn.steady(1) / 1e9:.0f}" if onednn else ""
    return [
        f"Plain matmul (4096, 1536) x (1536, 6144) in the same turns: {matmul.steady(1) / 1e9:.0f} GFLOP/s{also}. "
        f"{len(matmul.seconds)} turns; ratios and U are medians of the turns' own."
    ]


def shapes(network: CellFM, batches: list[CellBatch]) -> dict[str, Any]:
    config, lengths = network.config, torch.cat([batch.lengths for batch in batches]).float()
    return {
        "layers": config.num_layers,
        "dim": config.dim,
        "heads": config.num_heads,
        "vocabulary": config.num_genes,
        "cells": len(lengths),
        "genes_per_cell": {"mean": float(lengths.mean()), "median": float(lengths.median()), "max": int(lengths.max())},
        "batches": len(batches),
    }
