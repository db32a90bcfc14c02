"""Peak memory of one thing done in a fresh process: ``peak_of``, and the process itself."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

PBMC3K_LIKE = 780
"""Genes per cell of the batches made for these figures, the mean of PBMC3k in the 80M vocabulary."""


def run_fresh(kind: str, lengths: Sequence[int], settings: Any, **more: Any) -> dict[str, Any] | None:
    """Do one thing in a fresh process and return its peak, start and seconds; None where it did not fit.

    Parameters
    ----------
    kind
        One that :func:`prepare` knows; ``"retention"`` with ``mode=...``.
    lengths
        Genes of each cell.
    settings
        Of this run.
    """
    job = {"kind": kind, "lengths": list(lengths), "model": settings.model, "device": settings.device}
    job |= {"dtype": settings.dtype, "threads": settings.threads, "seed": settings.seed}
    job |= {"keep_memory": settings.keep_memory, **more}
    if settings.peer is not None:
        job["peer"] = str(settings.peer)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fresh", json.dumps(job)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    if done.returncode == 0:
        return dict(json.loads(done.stdout))
    if "alloc" in done.stderr.lower() or "out of memory" in done.stderr.lower() or done.returncode < 0:
        return None
    raise RuntimeError(done.stderr)


def peak_of(kind: str, settings: Any) -> float | None:
    """Return the peak memory (MB) of one batch of the token budget, in cells as long as PBMC3k's; padded for a peer."""
    cells = settings.peer_cells if kind.startswith("peer") else max(1, settings.token_budget // PBMC3K_LIKE)
    found = run_fresh(kind, [PBMC3K_LIKE] * cells, settings)
    return None if found is None else found["peak"] / 1e6


def prepare(job: dict[str, Any]) -> Callable[[], object]:
    """Build what the job needs and return the call to be watched; it has run once on little."""
    import torch

    from benchmarks import cells
    from benchmarks.settings import Settings

    settings = Settings(
        theme="fresh", model=job["model"], device=job["device"], dtype=job["dtype"], seed=job["seed"],
        peer=Path(job["peer"]) if "peer" in job else None,
    )  # fmt: skip
    if job["kind"] == "retention":
        from benchmarks.retention import operands, run_mode

        few, many = (operands(n, settings) for n in ([64], job["lengths"]))
        run_mode(job["mode"], *few)
        return lambda: run_mode(job["mode"], *many)
    if job["kind"].startswith("bulk"):
        from benchmarks import bulk

        return bulk.prepare(job["kind"], *job["lengths"], settings)
    network = cells.network_of(settings)
    batch = cells.synthetic(job["lengths"], num_genes=network.config.num_genes, device=settings.device)
    small = cells.synthetic([64, 32], num_genes=network.config.num_genes, device=settings.device)
    if job["kind"].startswith("peer"):
        from benchmarks.peer import Peer, padded

        assert settings.peer is not None
        peer = Peer(settings.peer, network)
        del network
        x = padded(batch if job["kind"] == "peer_train" else cells.visible(batch))

        def call_peer() -> object:
            with settings.autocast():
                return peer.embed(x) if job["kind"] == "peer_embed" else peer.loss(x).backward()

        return call_peer
    if job["kind"] == "train":
        from cellfm_torch import pretraining_loss

        network.train()

        def train(some: Any) -> None:
            network.zero_grad(set_to_none=True)
            with settings.autocast():
                loss = pretraining_loss(network(some, targets_only=True), some)
            loss.backward()

        train(small)
        return lambda: train(batch)
    network.eval().to(settings.torch_dtype)
    small, batch = cells.visible(small), cells.visible(batch)
    if job["kind"] == "encode":

        def encode() -> object:
            with torch.inference_mode():
                return network.encode(batch).cell

        return encode
    embedder = network.embedder(int8=job["kind"] == "int8")
    cells.fill_tables(embedder, batch.gene_ids, small)  # part of the start
    return lambda: embedder(batch)


def watch(job: dict[str, Any]) -> dict[str, Any]:
    """Run the job in this process; bytes and seconds."""
    import torch

    from benchmarks.machine import sampled
    from benchmarks.timing import seconds_of
    from cellfm_torch.memory.device import keep_freed_memory

    torch.set_num_threads(job["threads"])
    if job["keep_memory"]:
        keep_freed_memory()
    if job["device"] == "cuda":
        call = prepare(job)
        torch.cuda.synchronize()
        start = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        seconds = seconds_of(call, "cuda")
        return {"start": start, "peak": torch.cuda.max_memory_allocated(), "seconds": seconds}
    # What does not fit shall fail here, and not take the machine's other processes with it.
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (int(0.8 * free), resource.RLIM_INFINITY))
    call = prepare(job)
    with contextlib.suppress(OSError, AttributeError):  # what was freed counts as used until the C library returns it
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with sampled() as peak:
        seconds = seconds_of(call, "cpu")
    return {"start": peak.start, "peak": peak.highest, "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(watch(json.loads(sys.argv[1]))))
