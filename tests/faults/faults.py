"""Kill, stop and starve the commands at random moments, and compare what comes out with a run that was left alone.

    python tests/faults/faults.py [--runs 200] [--jobs train,prepare,embed,convert,annotate] [--journal FILE]

A round is one job in a new folder: the same command again and again, each time with a fault, until one comes to an end.
Faults are SIGKILL and SIGTERM to all of its processes, a limit on the size of files (a full disk as a program sees it),
and a newest checkpoint that is cut or has a bit turned over. After each nothing half written may stand for a whole, a
command that could speak must have said what happened in one line, and none may take minutes. The journal keeps a line
for each round, and the same command goes on where it ends.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "commands")]

import anndata  # noqa: E402
import numpy as np  # noqa: E402
from jobs import small_job  # noqa: E402
from made_up import make_cells, make_model  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

PATIENCE = 300
"""Seconds that a command of some ten seconds may take on a busy machine; longer is a hang."""

FAULTS = ("kill", "terminate", "full disk", "cut checkpoint", "bit of a checkpoint")
PARITY = ROOT / "tests" / "parity"


@dataclass(frozen=True)
class Job:
    """A command and what it leaves.

    Attributes
    ----------
    command
        Arguments of Python for an output folder; called anew for each run, as `resume=true` needs something to resume.
    whole
        Raises AssertionError where something at the output's place is not whole; before the end there may be nothing.
    same
        Raises AssertionError where two outputs differ.
    """

    command: Callable[[Path], list[str]]
    whole: Callable[[Path], None]
    same: Callable[[Path, Path], None]


def _cli(*words: object) -> list[str]:
    return ["-m", "cellfm_torch.cli", *map(str, words)]


def _same_tensors(a: Path, b: Path) -> None:
    ours, theirs = load_file(a), load_file(b)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours), "other weights"


def _h5ad(folder: Path) -> None:
    for path in folder.glob("*.h5ad"):
        anndata.read_h5ad(path)


def jobs(given: Path) -> dict[str, Job]:
    """Write the files that the jobs need; returns the jobs."""
    adata = make_cells(given / "cells.h5ad")
    model = make_model(given / "model", list(adata.var_names))
    parts = [given / f"part{i}.h5ad" for i in range(4)]
    for i, path in enumerate(parts):
        adata[35 * i : 35 * (i + 1)].copy().write_h5ad(path)
    (given / "genes.txt").write_text("".join(f"G{i}\n" for i in range(101)))

    def train(out: Path) -> list[str]:
        job = small_job(given / "cells.h5ad", out / "run", "trainer.max_steps=10", "trainer.val_check_interval=5")
        job += ["data.min_genes=1", "data.token_budget=1200", "callbacks.checkpoint.every_n_train_steps=1"]
        job += ["resume=true"] if (out / "run" / "config.yaml").is_file() else []
        return ["-m", "cellfm_torch.train", *job]

    def same_store(a: Path, b: Path) -> None:
        for name in sorted(path.relative_to(a / "store") for path in (a / "store" / "shards").iterdir()):
            assert (a / "store" / name).read_bytes() == (b / "store" / name).read_bytes(), f"{name} differs"

    def same_embedding(a: Path, b: Path) -> None:
        ours, theirs = (anndata.read_h5ad(folder / "out.h5ad").obsm["X_cellfm"] for folder in (a, b))
        # Float32 sums depend on which cells share a batch, and after an interruption they are others.
        np.testing.assert_allclose(ours, theirs, atol=1e-5)

    def same_labels(a: Path, b: Path) -> None:
        ours, theirs = (anndata.read_h5ad(folder / "out.h5ad").obs for folder in (a, b))
        assert list(ours.columns) == list(theirs.columns) and len(ours) == len(theirs)
        for name in (name for name in ours if ours[name].dtype == "category"):
            assert ours[name].astype(str).tolist() == theirs[name].astype(str).tolist(), f"{name} differs"

    cells, checkpoint = given / "cells.h5ad", PARITY / "pretrain.ckpt"
    annotate = ("annotate", "--reference", cells, "--label", "cell_type", "--query", cells, "--model", model)
    return {
        "train": Job(
            train,
            lambda out: [load_file(path) for path in out.rglob("model.safetensors")] and None,
            lambda a, b: _same_tensors(*(folder / "run" / "model" / "model.safetensors" for folder in (a, b))),
        ),
        "prepare": Job(
            lambda out: _cli(
                "prepare", *parts, "--output", out / "store", "--processes", 2, "--min-genes", 1, "page=false"
            ),
            lambda out: None,
            same_store,
        ),
        "embed": Job(
            lambda out: _cli("embed", cells, "--model", model, "--output", out / "out.h5ad", "token_budget=1200"),
            _h5ad,
            same_embedding,
        ),
        "convert": Job(
            lambda out: _cli(
                "convert", checkpoint, "--genes", given / "genes.txt", "--num-heads", 4, "--output", out / "model"
            ),
            lambda out: [load_file(path) for path in out.glob("model/model.safetensors")] and None,
            lambda a, b: _same_tensors(*(folder / "model" / "model.safetensors" for folder in (a, b))),
        ),
        "annotate": Job(lambda out: _cli(*annotate, "--output", out / "out.h5ad"), _h5ad, same_labels),
    }


def run(command: list[str], cwd: Path, *, fault: str = "", after: float = 0.0, most: int = 0) -> tuple[int, str, float]:
    """Run a command, with a fault; returns its exit code, what it said on stderr, and the seconds it took."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    limit = None if not most else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *command], cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, start_new_session=True, preexec_fn=limit,
    )  # fmt: skip
    try:
        said = process.communicate(timeout=after if fault in ("kill", "terminate") else PATIENCE)[1]
        return process.returncode, said, time.monotonic() - began
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM if fault == "terminate" else signal.SIGKILL)
    try:
        said = process.communicate(timeout=PATIENCE)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise AssertionError(f"{command}: hangs after {fault or 'nothing'}") from None
    assert fault in ("kill", "terminate"), f"{command}: hangs"
    return process.returncode, said, time.monotonic() - began


def spoil(out: Path, fault: str, rng: random.Random) -> bool:
    """Damage the newest checkpoint; False where there is none."""
    there = sorted(out.rglob("last.ckpt"))
    if not there or not there[0].stat().st_size:
        return False
    data = bytearray(there[0].read_bytes())
    at = rng.randrange(len(data))
    if fault == "cut checkpoint":
        there[0].write_bytes(bytes(data[:at]))
    else:
        data[at] ^= 1 << rng.randrange(8)
        there[0].write_bytes(bytes(data))
    return True


def rounds(name: str, folder: Path, *, seed: int, most_faults: int = 20) -> Iterator[list[str]]:
    """Run a job under faults, round after round, at most so many in each; yields the faults of each round.

    Raises
    ------
    AssertionError
        If something was lost, half written, said badly, or hung.
    """
    rng = random.Random(f"{name} {seed}")
    given = folder / "given"
    given.mkdir()
    job = jobs(given)[name]
    plain, out = folder / "plain", folder / "out"
    plain.mkdir()
    code, said, _ = run(job.command(plain), folder)  # loads and compiles what later runs find ready
    assert code == 0, said
    shutil.rmtree(plain)
    plain.mkdir()
    lasts = run(job.command(plain), folder)[2]
    while True:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        done: list[str] = []
        while True:
            fault = rng.choice(FAULTS) if len(done) < most_faults else ""
            if "checkpoint" in fault:
                if not spoil(out, fault, rng):
                    continue
                done.append(fault)
                fault = "kill"
            # Later with every fault, so that the work ends at all.
            after, most = rng.uniform(0.1, 1.1) * lasts * (1 + len(done) / 10), 0
            if fault == "full disk":
                most = rng.choice([1 << 10, 1 << 14, 1 << 18, 1 << 22])
                if len(done) > 8:
                    continue
            code, said, _ = run(job.command(out), folder, fault=fault, after=after, most=most)
            job.whole(out)
            if code == 0 or "exists already" in said:  # the one before was killed after its last write
                break
            done.append(fault)
            if fault != "kill":
                assert "Traceback" not in said, f"{name}, {fault}: {said[-2000:]}"
        job.same(plain, out)
        left = [str(path) for path in out.rglob("*.part")]
        assert not left, f"left behind: {left}"
        yield done


def main() -> int:
    """Run the long version; returns 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="with a fault, over all jobs")
    parser.add_argument("--jobs", default="train,prepare,embed,convert,annotate")
    parser.add_argument("--journal", type=Path, help="file of rounds to go on with")
    options = parser.parse_args()
    names = options.jobs.split(",")
    lines = options.journal.read_text().splitlines() if options.journal and options.journal.exists() else []
    journal: list[dict[str, Any]] = [json.loads(line) for line in lines]
    for name in names:
        before = [one for one in journal if one["job"] == name]
        wanted = -(-options.runs // len(names)) - sum(len(one["faults"]) for one in before)
        if wanted <= 0:
            continue
        with tempfile.TemporaryDirectory() as folder:
            for faults in rounds(name, Path(folder), seed=len(before)):
                journal.append({"job": name, "faults": faults})
                if options.journal:
                    with options.journal.open("a") as file:
                        file.write(json.dumps(journal[-1]) + "\n")
                wanted -= len(faults)
                print(f"{name}: {len(faults)} faults, then whole and equal", file=sys.stderr, flush=True)
                if wanted <= 0:
                    break
    for name in names:
        own = [one["faults"] for one in journal if one["job"] == name]
        counts = Counter(fault for faults in own for fault in faults)
        parts = ", ".join(f"{number} {fault}" for fault, number in sorted(counts.items()))
        print(f"{name}: {sum(counts.values())} runs with a fault in {len(own)} rounds ({parts}); nothing lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
