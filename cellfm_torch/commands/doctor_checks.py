"""What ``cellfm doctor`` looks at. Each check imports what it needs itself, so that the others go on without it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

DISTRIBUTION = "cellfm_torch"
LITTLE_MEMORY, NO_MEMORY = 6e9, 1e9
"""Bytes: below the first, training of the 80M model does not fit; below the second, nothing but the tiny one does."""

LITTLE_DISK, NO_DISK = 5e9, 2e8
"""Bytes: an 800M model folder takes 3.2 GB, a run of the tiny model 0.1 GB."""

GPU_DRIVER = Path("/proc/driver/nvidia/version")


class Finding(NamedTuple):
    """One line: ok, a note or a problem; what it is about, what is so, and what to do."""

    state: str
    subject: str
    said: str
    advice: str = ""


def python() -> Iterator[Finding]:
    """Look at Python itself, and the packages that this one needs, against the bounds of its metadata."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    try:
        about = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        advice = "pip install -e . in the checkout, to have versions checked"
        yield Finding("note", "python", f"{platform.python_version()}; {DISTRIBUTION} is not installed", advice)
        return
    bounds = SpecifierSet(str(about.json.get("requires_python") or ""))
    if bounds.contains(platform.python_version(), prereleases=True):
        yield Finding("ok", "python", f"{platform.python_version()} at {sys.executable}")
    else:
        advice = f"make an environment with Python {bounds}"
        yield Finding("problem", "python", f"{platform.python_version()} is not {bounds}", advice)
    needed = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or ()]
    yield from _packages([x for x in needed if x.marker is None or x.marker.evaluate({"extra": ""})])
    yield from _extras(about.get_all("Provides-Extra", []), needed)


def _state(requirement: Any) -> str:
    """Return what is wrong with a package, or an empty string."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} {version} is not {requirement.specifier}"


def _packages(needed: list[Any]) -> Iterator[Finding]:
    wrong = [(requirement, state) for requirement in needed if (state := _state(requirement))]
    for requirement, state in wrong:
        wanted = f"{requirement.name}{requirement.specifier}"
        yield Finding("problem", "packages", state, f"pip install '{wanted}'")
    if not wrong:
        yield Finding("ok", "packages", f"{len(needed)} needed, all installed and within their bounds")


def _extras(names: list[str], needed: list[Any]) -> Iterator[Finding]:
    there: list[str] = []
    absent: list[str] = []
    for name in sorted(set(names) - {"dev"}):
        own = [x for x in needed if x.marker is not None and x.marker.evaluate({"extra": name})]
        (absent if any(_state(x) for x in own) else there).append(name)
    said = f"installed: {', '.join(there) or 'none'}"
    if absent:
        said += f"; not installed: {', '.join(absent)} (pip install '{DISTRIBUTION}[{absent[0]}]')"
    yield Finding("ok", "extras", said)


def devices() -> Iterator[Finding]:
    """Look at the build of torch, and the GPUs that it can use."""
    import torch

    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    yield Finding("ok", "torch", f"{torch.__version__}, built {built}")
    if torch.backends.mps.is_built():
        usable = torch.backends.mps.is_available()
        said = (
            "MPS can be used: accelerator=mps" if usable else "MPS cannot be used on this system: work runs on the CPU"
        )
        yield Finding("ok" if usable else "note", "gpu", said)
    elif torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            yield _cuda(torch, number)
    elif not has_driver():
        yield Finding("ok", "gpu", "none: work runs on the CPU")
    elif torch.version.cuda is None:
        advice = "install a build for CUDA: cellfm help install"
        yield Finding("note", "gpu", "an NVIDIA GPU is here, and torch is built without CUDA", advice)
    else:
        reason = _why_not(torch)
        advice = "update the driver, or install a build of torch for the CUDA that nvidia-smi names"
        yield Finding("problem", "gpu", f"an NVIDIA GPU is here, and torch cannot use it ({reason})", advice)


def has_driver() -> bool:
    """Whether NVIDIA's driver is loaded."""
    return GPU_DRIVER.exists()


def _why_not(torch: Any) -> str:
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as problem:
        return str(problem).split("\n")[0]
    return "no device is visible; is CUDA_VISIBLE_DEVICES set?"


def _cuda(torch: Any, number: int) -> Finding:
    name = f"cuda:{number} {torch.cuda.get_device_name(number)}"
    try:
        torch.ones(8, 8, device=f"cuda:{number}").sum().item()
        free, total = torch.cuda.mem_get_info(number)
    except RuntimeError as problem:
        reason = str(problem).split("\n")[0]
        return Finding("problem", "gpu", f"{name} does not compute ({reason})", "install a build of torch for this GPU")
    return Finding("ok", "gpu", f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")


def processor() -> Iterator[Finding]:
    """Look at the CPU, and how much of it torch uses."""
    import torch

    from cellfm_torch.ops.int8 import has_vnni

    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    kind = f"{torch.backends.cpu.get_cpu_capability()}, {'VNNI (int8=true)' if has_vnni() else 'no VNNI (no int8)'}"
    said = f"{threads} threads on {here} cores; {kind}"
    if threads > here:
        yield Finding("note", "cpu", said, f"more threads than cores are slow: OMP_NUM_THREADS={here}")
    elif threads == 1 < here:
        yield Finding("note", "cpu", said, "one thread only: is OMP_NUM_THREADS=1 meant?")
    else:
        yield Finding("ok", "cpu", said)


def memory() -> Iterator[Finding]:
    """Look at the memory that can still be had, of the machine or of a container."""
    from cellfm_torch.memory.device import available_memory, total_memory

    free = available_memory()
    said = f"{free / 1e9:.1f} of {total_memory() / 1e9:.1f} GB free"
    if free < NO_MEMORY:
        yield Finding("problem", "memory", said, "end other programs, or take a machine with more")
    elif free < LITTLE_MEMORY:
        yield Finding("note", "memory", said, "too little to train the 80M model: cellfm estimate 80m says more")
    else:
        yield Finding("ok", "memory", said)


def disk() -> Iterator[Finding]:
    """Look at room and permission in the folders that commands write to."""
    from cellfm_torch.data.gene_table import cached_table

    for name, folder in (("here", Path.cwd()), ("temporary", _temporary()), ("cache", cached_table().parent)):
        if folder is None:
            yield Finding("problem", "disk", "no temporary folder can be written to", "set TMPDIR to one that can")
            continue
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        said = f"{name}: {folder}, {free / 1e9:.1f} GB free"
        if not os.access(there, os.W_OK):
            state, advice = "problem" if name == "here" else "note", "no permission to write: choose another folder"
        elif free < NO_DISK:
            state, advice = "problem", "free some, or work in another folder"
        else:
            state, advice = ("note", "free some before a long job") if free < LITTLE_DISK else ("ok", "")
        yield Finding(state, "disk", said, advice)


def _temporary() -> Path | None:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        return None


def hdf5() -> Iterator[Finding]:
    """Look at HDF5, and the compressions that it reads."""
    import h5py

    said = f"{h5py.version.hdf5_version} of h5py {h5py.__version__}"
    if importlib.util.find_spec("hdf5plugin") is None:
        advice = f"pip install '{DISTRIBUTION}[compression]' to read more"
        yield Finding("note", "hdf5", f"{said}, gzip only: no files compressed with zstd, Blosc and others", advice)
    else:
        import hdf5plugin

        yield Finding("ok", "hdf5", f"{said}, more compressions by hdf5plugin {hdf5plugin.version}")


def genes() -> Iterator[Finding]:
    """Look at the gene table that every command uses."""
    from cellfm_torch.data.gene_table import BUNDLED, ENVIRONMENT, GeneTable, cached_table, find_table
    from cellfm_torch.errors import UserError

    named = os.environ.get(ENVIRONMENT)
    path = Path(named).expanduser() if named else own if (own := cached_table()).is_file() else BUNDLED
    try:
        table: GeneTable = find_table()
    except UserError as problem:
        advice = f"unset {ENVIRONMENT}" if named else f"or remove {path}"
        yield Finding("problem", "genes", str(problem), advice)
        return
    said = f"{len(table):,} genes, {len(table.ensembl):,} Ensembl ids, in {path}"
    if path == BUNDLED:
        advice = "cellfm genes build adds previous symbols and aliases"
        yield Finding("ok", "genes", f"the bundled table: {said}; {advice}")
    else:
        yield Finding("ok", "genes", f"{'named by ' + ENVIRONMENT if named else 'your own'}: {said}")


def model_folder(folder: str) -> Iterator[Finding]:
    """Look at a model folder: its configuration, its genes and whether its weights are whole; no weights are loaded."""
    from cellfm_torch.errors import UserError
    from cellfm_torch.model.loading import described

    try:
        network = described(Path(folder).expanduser())
    except UserError as problem:
        yield Finding("problem", "model", str(problem))
        return
    weights = sum(x.numel() for x in network.parameters())
    said = f"{folder}: {type(network).__name__}, {weights:,} weights, {len(network.genes or ()):,} genes; whole"
    yield Finding("ok", "model", said)


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "python": python,
    "torch": devices,
    "cpu": processor,
    "memory": memory,
    "disk": disk,
    "hdf5": hdf5,
    "genes": genes,
}
