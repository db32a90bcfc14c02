"""Preparing a store: which sources are new, resumable after a kill at any moment."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cellfm_torch.data import store_manifest
from cellfm_torch.data.files import Input
from cellfm_torch.data.fingerprint import checksum, fingerprint
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.options import ReadOptions
from cellfm_torch.data.source import open_source
from cellfm_torch.data.store_genes import store_genes, synonyms
from cellfm_torch.data.store_jobs import Progress, run_jobs
from cellfm_torch.data.store_source import READ_CELLS, Job, repeat
from cellfm_torch.errors import UserError
from cellfm_torch.files import write_text


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """How a store is made.

    Parameters
    ----------
    read
        How sources are read, and which of their cells are kept.
    genes
        File of gene symbols to keep besides those of the bundled vocabularies; of a new store only.
    shard_cells, block_cells
        Cells per file, and cells that are compressed together; of a new store only.
    processes
        Sources read at the same time.
    tool
        Name and version of what makes the store.
    """

    read: ReadOptions = field(default_factory=ReadOptions)
    genes: str | None = None
    shard_cells: int = 65_536
    block_cells: int = 64
    processes: int = 1
    tool: str = "cellfm_torch"


@dataclass
class Outcome:
    """What became of the sources of one call.

    Attributes
    ----------
    added, known : list of dict
        Manifest entries of the sources read now, and of those that were there already.
    repeated : list of dict
        Entries of sources left out for having the contents of another one.
    failed : list of (Path, UserError)
        Sources that cannot be used, and why.
    """

    added: list[dict[str, Any]] = field(default_factory=list)
    known: list[dict[str, Any]] = field(default_factory=list)
    repeated: list[dict[str, Any]] = field(default_factory=list)
    failed: list[tuple[Path, UserError]] = field(default_factory=list)


def prepare(sources: Sequence[Input], folder: Path, options: StoreOptions, progress: Progress) -> Outcome:
    """Add sources to a store, which is made where there is none; those it has already are not read again.

    Raises
    ------
    UserError
        If the folder is something else, another process is writing to it, or a source has changed since it was added.
    """
    sources = [Input(entry.path.resolve(), entry.obs) for entry in sources]
    if folder.exists() and not (folder / store_manifest.NAME).is_file():
        there = {file.name for file in folder.iterdir()} if folder.is_dir() else {"a file"}
        if not there <= {".lock", "shards", "obs", "genes.txt", f"{store_manifest.NAME}.part", "genes.txt.part"}:
            raise UserError(f"{folder}: exists and is no prepared store: give another --output")
    for part in ("shards", "obs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if not (folder / store_manifest.NAME).is_file():
            _create(folder, sources, options)
        store_manifest.repair(folder)
        entries = store_manifest.read(folder)
        _remove_leftovers(folder)
        outcome = Outcome()
        known = {entry["sha256"]: entry["source"] for entry in entries if entry["kind"] == "source"}
        jobs = _plan(sources, folder, entries, options, known, outcome)
        for job, result in run_jobs(jobs, options.processes, progress):
            if isinstance(result, UserError):
                outcome.failed.append((job.source, result))
                continue
            if result["kind"] == "source" and result["sha256"] in known:  # by a source of this call
                changed = {name: result[name] for name in ("bytes", "changed")}
                result = repeat(job, result["sha256"], changed, of=known[result["sha256"]])
            store_manifest.append(folder, result)
            if result["kind"] == "repeat":
                outcome.repeated.append(result)
            else:
                known[result["sha256"]] = result["source"]
                outcome.added.append(result)
        _remove_leftovers(folder)
    return outcome


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Refuse a second writer; the lock goes with the process, however it ends."""
    try:
        import fcntl
    except ImportError:  # there is no such lock on Windows
        yield
        return
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{folder}: another cellfm prepare is writing to it: wait for it, or end it") from None
        yield


def _create(folder: Path, sources: Sequence[Input], options: StoreOptions) -> None:
    """Write the gene list and the first line of the manifest."""
    ordered = _by_prevalence(store_genes(options.genes), sources, options)
    text = "".join(f"{symbol}\n" for symbol in ordered)
    write_text(folder / "genes.txt", text)
    header = {
        "synonyms": synonyms(ordered),
        "genes_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "tool": options.tool,
        "shard_cells": options.shard_cells,
        "block_cells": options.block_cells,
    }
    store_manifest.create(folder, header)


def _by_prevalence(genes: tuple[str, ...], sources: Sequence[Input], options: StoreOptions) -> tuple[str, ...]:
    """Order genes by how many of the first cells express them: frequent genes side by side take a quarter less room."""
    vocab = GeneVocab(genes)
    for entry in sources:
        try:
            with open_source(entry.path, vocab, options.read) as source:
                counts = next(source.blocks(READ_CELLS)).counts
        except (UserError, StopIteration):  # reported when the source's turn comes
            continue
        number = np.bincount(counts.indices, minlength=len(genes))
        return tuple(genes[i] for i in np.argsort(-number, kind="stable"))
    return genes


def _plan(
    sources: Sequence[Input],
    folder: Path,
    entries: list[dict[str, Any]],
    options: StoreOptions,
    known: dict[str, str],
    outcome: Outcome,
) -> list[Job]:
    """Return a job for each new source, with the number it had when an earlier call was killed."""
    done = {entry["source"]: entry for entry in entries if entry["kind"] in ("source", "repeat")}
    planned = {path: number for entry in entries if entry["kind"] == "plan" for path, number in entry["sources"]}
    free = max(planned.values(), default=-1) + 1
    jobs, fresh = [], []
    genes = tuple((folder / "genes.txt").read_text(encoding="utf-8").split())
    for path, obs in {entry.path: entry.obs for entry in sources}.items():
        if entry := done.get(str(path)):
            _check_unchanged(path, entry, folder)
            _check_options(path, entry, options.read, folder)
            (outcome.known if entry["kind"] == "source" else outcome.repeated).append(entry)
            continue
        if str(path) not in planned:
            planned[str(path)] = free
            fresh.append([str(path), free])
            free += 1
        jobs.append(
            Job(
                number=planned[str(path)],
                source=path,
                obs=obs,
                folder=folder,
                genes=genes,
                synonyms=tuple(entries[0]["synonyms"]),
                options=options.read,
                known=dict(known),
                shard_cells=entries[0]["shard_cells"],
                block_cells=entries[0]["block_cells"],
            )
        )
    if fresh:
        store_manifest.append(folder, {"kind": "plan", "sources": fresh})
    return jobs


def _check_unchanged(path: Path, entry: dict[str, Any], folder: Path) -> None:
    now = fingerprint(path) if path.exists() else None
    if now is None or now == {name: entry[name] for name in now}:
        return
    if checksum(path) != entry["sha256"]:
        raise UserError(
            f"{path}: has changed since it was added to {folder}: prepare a new store, or give it a new name"
        )


def _check_options(path: Path, entry: dict[str, Any], options: ReadOptions, folder: Path) -> None:
    """Refuse to pass over a file whose cells would be others now."""
    there, now = entry.get("options"), dataclasses.asdict(options)
    if there is None or there == now:
        return
    changed = [f"{name}={there.get(name)} there, {now[name]} now" for name in now if there.get(name) != now[name]]
    raise UserError(
        f"{path}: is in {folder} already, read with other options ({', '.join(changed)}): prepare a new store"
    )


def _remove_leftovers(folder: Path) -> None:
    """Remove what no entry names: files half written, or of a source that was not finished."""
    entries = [entry for entry in store_manifest.read(folder) if entry["kind"] == "source"]
    named = {shard["file"] for entry in entries for shard in entry["shards"]} | {entry["obs"] for entry in entries}
    for part in ("shards", "obs"):
        for file in (folder / part).iterdir():
            if file.name not in named:
                file.unlink(missing_ok=True)
