"""Kill preparing and loading at random moments and compare what comes out with a run that was left alone.

    python tests/data/kills.py [--kills 200] [--journal FILE]

for the long run; the tests do a handful. A killed process gets SIGKILL, so nothing of it runs afterwards. After every
kill the store must hold finished sources only, each whole. The journal has a line for each round (work that was killed
again and again until it came to its end); the same command goes on where it ends, so that the run may be interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import anndata  # noqa: E402
import numpy as np  # noqa: E402

from cellfm_torch.batch import InputSpec  # noqa: E402
from cellfm_torch.data import store_jobs, store_manifest, store_write  # noqa: E402
from cellfm_torch.data.files import Input  # noqa: E402
from cellfm_torch.data.genes import GeneVocab  # noqa: E402
from cellfm_torch.data.module import CellDataModule  # noqa: E402
from cellfm_torch.data.options import ReadOptions  # noqa: E402
from cellfm_torch.data.store import Store, damage  # noqa: E402
from cellfm_torch.data.store_write import StoreOptions  # noqa: E402
from cellfm_torch.errors import UserError  # noqa: E402
from cellfm_torch.paths import PBMC3K  # noqa: E402

OPTIONS = StoreOptions(read=ReadOptions(min_genes=1), shard_cells=32, block_cells=8)
BATCH_SECONDS = 0.002
"""What the consumer of a batch takes, so that kills fall between batches and within them."""


def quietly(sources: list[Path], folder: Path) -> None:
    """Prepare a store."""
    store_write.prepare([Input(path) for path in sources], folder, OPTIONS, lambda *_: None)


def dies_reporting(number: int, job: Any) -> str:
    """What a process of preparing does that is killed while it tells of its progress."""
    lock = getattr(store_jobs._messages, "_wlock", None)
    if lock is not None:
        lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def make_files(folder: Path, number: int) -> list[Path]:
    """Files of 60 real cells each."""
    adata = anndata.read_h5ad(PBMC3K)
    files = []
    for i in range(number):
        files.append(folder / f"cells{i:02}.h5ad")
        adata[60 * i : 60 * (i + 1)].copy().write_h5ad(files[-1])
    return files


def moment(rng: random.Random, lasts: float, kills: int) -> float:
    """Draw when to kill work that lasts so many seconds in peace: later with every kill, so that it ends at all."""
    return rng.uniform(0, 1.1 * lasts * (1 + kills / 10))


def run_and_kill(work: Callable[[], None], seconds: float) -> bool:
    """Run in a forked process that is killed after some time; True where it had ended well before."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as problem:  # noqa: BLE001  (whatever it is, the parent must hear of it)
            print(f"in the child: {problem!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, "the work failed by itself"
            return True
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status) == 0


def command_and_kill(command: list[str], seconds: float, *, group: bool) -> bool:
    """Run a command that is killed after some time, alone or with the processes it has started."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        said = process.communicate(timeout=seconds)
        assert process.returncode == 0, said
        return True
    except subprocess.TimeoutExpired:
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.communicate()
        return process.returncode == 0


def contents(folder: Path) -> dict[str, bytes]:
    """What a finished store holds."""
    files = [path for part in ("shards", "obs") for path in sorted((folder / part).iterdir())]
    return {path.name: path.read_bytes() for path in [*files, folder / "genes.txt"]}


def check_unfinished(folder: Path) -> int:
    """Check a store after a kill: every source that it claims is there once and whole; returns their number."""
    if not (folder / store_manifest.NAME).is_file():
        return 0
    try:
        store = Store(folder)
    except UserError as problem:
        assert "holds no cells yet" in str(problem), problem
        return 0
    assert max(Counter(source["source"] for source in store.sources).values()) == 1
    for shard in store.shards:
        assert damage(shard) is None, damage(shard)
    for i, source in enumerate(store.sources):
        assert len(store.read_obs(i, source["obs_index"])) == source["cells"]
    return len(store.sources)


def kill_preparing(folder: Path, *, seed: int, files: int = 12, command: bool = False) -> Iterator[list[int]]:
    """Prepare one store after another under kills; yields the finished sources at each kill of a store.

    Parameters
    ----------
    command
        Run the command line with two processes (slow to start); otherwise the function in a forked process.
    """
    rng = random.Random(seed)
    sources = make_files(folder, files)
    plain, target = folder / "plain", folder / "killed"
    quietly(sources, folder / "first")  # loads and compiles what later runs find ready
    began = time.monotonic()
    quietly(sources, plain)
    lasts = time.monotonic() - began
    expected, entries = contents(plain), Store(plain).sources
    typed = [sys.executable, "-m", "cellfm_torch.cli", "prepare", *map(str, sources), "--output", str(target)]
    typed += ["--processes", "2", "--min-genes", "1", "shard_cells=32", "block_cells=8", "page=false"]
    if command:
        began = time.monotonic()
        assert command_and_kill(typed, 600, group=False), "the command takes minutes without any kill"
        lasts = time.monotonic() - began
    while True:
        shutil.rmtree(target, ignore_errors=True)
        finished = []
        while True:
            if command:
                done = command_and_kill(typed, moment(rng, lasts, len(finished)), group=rng.random() < 0.5)
            else:
                done = run_and_kill(partial(quietly, sources, target), moment(rng, lasts, len(finished)))
            if done:
                break
            finished.append(check_unfinished(target))
        quietly(sources, target)
        assert contents(target) == expected, "the store differs from one that was prepared in peace"
        assert Store(target).sources == entries
        yield finished


def module(path: Path | list[Path], workers: int) -> CellDataModule:
    """A data module of a store or of streamed files, whose epochs have some hundred batches."""
    spec = InputSpec(genes=GeneVocab.bundled(27855).symbols, max_genes=400, read_depth=True)
    options = {"min_genes": 10, "token_budget": 2000, "fetch_cells": 128, "val_fraction": 0.05, "block_size": 8}
    return CellDataModule(path, input_spec=spec, num_workers=workers, stream=True, **options)


def record(batch: Any) -> list[Any]:
    """What tells a batch apart: its cells, and sums of its masks and values."""
    hidden = int(batch.hidden.nonzero().sum())
    return [batch.cell_index.tolist(), hidden, float(batch.values.double().sum())]


def load(path: Path | list[Path], journal: Path, workers: int, epochs: int) -> None:
    """Go through epochs, one line in the journal per batch, from where the journal ends."""
    loader = module(path, workers).train_dataloader()
    lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
    if lines and not lines[-1].endswith(b"\n"):
        os.truncate(journal, sum(map(len, lines[:-1])))
        lines.pop()
    if lines:
        loader.load_state_dict(json.loads(lines[-1])["state"])
    with journal.open("ab", buffering=0) as file:
        for epoch in range(loader.sampler.epoch, epochs):
            loader.sampler.set_epoch(epoch)
            for batch in loader:
                time.sleep(BATCH_SECONDS)
                line = {"epoch": epoch, "batch": record(batch), "state": loader.state_dict()}
                file.write(json.dumps(line).encode() + b"\n")


def kill_loading(folder: Path, *, seed: int, epochs: int = 2, streamed: bool = False) -> Iterator[list[int]]:
    """Load epochs of a store, or of streamed files, under kills; yields the batches done at each kill of a run."""
    rng = random.Random(seed)
    files = make_files(folder, 20)
    path: Path | list[Path] = files if streamed else folder / "store"
    if not streamed:
        quietly(files, folder / "store")
    load(path, folder / "first.jsonl", 0, 1)  # loads and compiles what later runs find ready
    began = time.monotonic()
    # In a process of its own, as those that are killed: what each of them starts anew counts.
    assert run_and_kill(partial(load, path, folder / "plain.jsonl", 0, epochs), 600)
    lasts = time.monotonic() - began
    expected = [json.loads(line) for line in (folder / "plain.jsonl").read_text().splitlines()]
    cells = module(path, 0).train_cells
    while True:
        journal = folder / "killed.jsonl"
        journal.unlink(missing_ok=True)
        done: list[int] = []
        while not run_and_kill(partial(load, path, journal, rng.choice([0, 2]), epochs), moment(rng, lasts, len(done))):
            done.append(journal.read_bytes().count(b"\n") if journal.exists() else 0)
        seen = [json.loads(line) for line in journal.read_text().splitlines()]
        for epoch in range(epochs):
            own = np.concatenate([line["batch"][0] for line in seen if line["epoch"] == epoch])
            np.testing.assert_array_equal(np.sort(own), cells)
        assert [line["batch"] for line in seen] == [line["batch"] for line in expected]
        yield done


def until(rounds: Iterator[list[int]], kills: int) -> Iterator[list[int]]:
    """Yield rounds until there were enough kills."""
    while kills > 0:
        done = next(rounds)
        kills -= len(done)
        yield done


def main() -> None:
    """Run the long version, a line for each round and a table at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="of each of the two")
    parser.add_argument("--commands", type=int, default=20, help="of those of preparing, kills of the real command")
    parser.add_argument("--streamed", type=int, default=100, help="kills of loading from files that stay on disk")
    parser.add_argument("--journal", type=Path, help="file of rounds to go on with")
    options = parser.parse_args()
    lines = options.journal.read_text().splitlines() if options.journal and options.journal.exists() else []
    rounds: list[dict[str, Any]] = [json.loads(line) for line in lines]
    for what, kills, run in (
        ("preparing", options.kills - options.commands, kill_preparing),
        ("preparing, command", options.commands, partial(kill_preparing, command=True)),
        ("loading", options.kills, kill_loading),
        ("loading, streamed", options.streamed, partial(kill_loading, streamed=True)),
    ):
        before = [one["at"] for one in rounds if one["what"] == what]
        with tempfile.TemporaryDirectory() as name:
            for at in until(run(Path(name), seed=len(before)), kills - sum(map(len, before))):
                rounds.append({"what": what, "at": at})
                killed = sum(len(one["at"]) for one in rounds if one["what"] == what)
                print(f"{what}: {killed} of {kills} kills", file=sys.stderr, flush=True)
                if options.journal:
                    with options.journal.open("a") as journal:
                        journal.write(json.dumps(rounds[-1]) + "\n")
    for what in dict.fromkeys(one["what"] for one in rounds):
        own = [one["at"] for one in rounds if one["what"] == what]
        kills, done = sum(map(len, own)), "batches" if what.startswith("loading") else "sources"
        most = max(map(max, filter(None, own)))
        print(
            f"{what}: {kills} kills in {len(own)} rounds, each with 0 to {most} {done} done; nothing lost or repeated"
        )


if __name__ == "__main__":
    main()
