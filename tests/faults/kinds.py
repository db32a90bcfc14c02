"""The jobs that are disturbed: their commands, what must always be whole, and what must be the same in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from jobs import small_job
from kills import check_unfinished
from made_up import make_cells, make_model
from safetensors.numpy import load_file

ALWAYS = ("kill", "terminate", "full disk", "read-only")
OF_CHECKPOINTS = ("cut checkpoint", "bit of a checkpoint")
PARITY = Path(__file__).resolve().parents[1] / "parity"


@dataclass(frozen=True)
class Job:
    """A command and what it leaves.

    Attributes
    ----------
    command
        Module and arguments for an output folder; called anew for each run, as `resume=true` needs something to resume.
    whole
        Raises AssertionError where something at the output's place is not whole; before the end there may be nothing.
    same
        Raises AssertionError where two outputs differ.
    faults
        What is done to it.
    processes
        So many are started, as torchrun would.
    """

    command: Callable[[Path], list[str]]
    whole: Callable[[Path], None]
    same: Callable[[Path, Path], None]
    faults: tuple[str, ...] = ALWAYS
    processes: int = 1


def _cli(*words: object) -> list[str]:
    return ["cellfm_torch.cli", *map(str, words)]


def _same_files(a: Path, b: Path, *patterns: str) -> None:
    """The same files there, byte for byte."""
    for pattern in patterns:
        names = sorted(path.relative_to(a) for path in a.glob(pattern))
        assert names and names == sorted(path.relative_to(b) for path in b.glob(pattern)), f"other files {pattern}"
        for name in names:
            assert (a / name).read_bytes() == (b / name).read_bytes(), f"{name} differs"


def _readable(out: Path) -> None:
    """Files of cells and of weights that are there can be read."""
    for path in out.rglob("*.h5ad"):
        anndata.read_h5ad(path)
    for path in out.rglob("*.safetensors"):
        load_file(path)


def _same_cells(a: Path, b: Path) -> tuple[Any, Any]:
    """The same cells with the same counts in the same order, with the same columns; returns both."""
    ours, theirs = (anndata.read_h5ad(folder / "out.h5ad") for folder in (a, b))
    assert ours.obs_names.tolist() == theirs.obs_names.tolist(), "other cells, or another order"
    assert (ours.X != theirs.X).nnz == 0, "other counts"
    assert list(ours.obs) == list(theirs.obs)
    # Float32 sums depend on which cells share a batch, and after an interruption they are others.
    np.testing.assert_allclose(ours.obsm["X_cellfm"], theirs.obsm["X_cellfm"], atol=1e-5)
    return ours, theirs


def _same_labels(a: Path, b: Path) -> None:
    ours, theirs = _same_cells(a, b)
    for name in ours.obs:
        if ours.obs[name].dtype.kind == "f":
            np.testing.assert_allclose(ours.obs[name], theirs.obs[name], atol=1e-5, err_msg=name)
        else:
            assert ours.obs[name].astype(str).tolist() == theirs.obs[name].astype(str).tolist(), f"{name} differs"
    for folder in (a, b):
        assert (folder / "results" / "annotator" / "annotator.json").is_file(), "an annotator that is not complete"
        assert (folder / "results" / "settings.json").is_file()


def jobs(given: Path) -> dict[str, Job]:
    """Write the files that the jobs need; returns the jobs."""
    adata = make_cells(given / "cells.h5ad")
    model = make_model(given / "model", list(adata.var_names))
    parts = [given / f"part{i}.h5ad" for i in range(4)]
    for i, path in enumerate(parts):
        adata[35 * i : 35 * (i + 1)].copy().write_h5ad(path)
    (given / "genes.txt").write_text("".join(f"G{i}\n" for i in range(101)))
    cells, checkpoint = given / "cells.h5ad", PARITY / "pretrain.ckpt"

    def train(*more: str) -> Callable[[Path], list[str]]:
        def command(out: Path) -> list[str]:
            job = small_job(cells, out / "run", "trainer.max_steps=10", "trainer.val_check_interval=5", *more)
            # Small, so that faults hit more than the writing of weights; what is dropped must be the same again.
            job += ["+model.config.dim=32", "+model.config.num_heads=1", "model.config.dropout=0.5"]
            job += ["data.min_genes=1", "data.token_budget=1200", "callbacks.checkpoint.every_n_train_steps=1"]
            return ["cellfm_torch.train", *job, *["resume=true"][: (out / "run" / "config.yaml").is_file()]]

        return command

    def annotate(*more: str) -> Callable[[Path], list[str]]:
        typed = ("annotate", "--reference", cells, "--label", "cell_type", "--query", cells, "--model", model, *more)
        return lambda out: _cli(*typed, "--output", out / "out.h5ad", f"results={out / 'results'}")

    def prepare(out: Path) -> list[str]:
        return _cli(
            "prepare", *parts, "--output", out / "store", "--processes", 2, "--min-genes", 1, "shard_cells=32",
            "block_cells=8", "page=false",
        )  # fmt: skip

    def embed(out: Path) -> list[str]:
        return _cli("embed", cells, "--model", model, "--output", out / "out.h5ad", "token_budget=1200")

    def convert(out: Path) -> list[str]:
        return _cli("convert", checkpoint, "--genes", given / "genes.txt", "--num-heads", 4, "--output", out / "model")

    def same_run(a: Path, b: Path) -> None:
        _same_files(a, b, "run/model/*", "run/metrics.json")

    trained = (_readable, same_run)
    return {
        "train": Job(train(), *trained, (*ALWAYS, *OF_CHECKPOINTS)),
        "train on two": Job(
            train("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"),
            *trained,
            ("terminate", "read-only", *["lost rank"] * 4, "cut checkpoint"),
        ),
        "train under torchrun": Job(
            train("trainer=ddp", "trainer.accelerator=cpu"),
            *trained,
            (*ALWAYS, *["lost rank"] * 4, *OF_CHECKPOINTS),
            processes=2,
        ),
        "prepare": Job(
            prepare,
            lambda out: check_unfinished(out / "store") and None,
            lambda a, b: _same_files(a, b, "store/shards/*", "store/obs/*", "store/genes.txt"),
            (*ALWAYS, "lost rank"),
        ),
        "embed": Job(embed, _readable, lambda a, b: _same_cells(a, b) and None),
        "embed on two": Job(
            lambda out: [*embed(out), "accelerator=cpu"],
            _readable,
            lambda a, b: _same_cells(a, b) and None,
            (*ALWAYS, *["lost rank"] * 4),
            processes=2,
        ),
        "convert": Job(convert, _readable, lambda a, b: _same_files(a, b, "model/*")),
        "annotate": Job(annotate(), _readable, _same_labels),
        "annotate, a head": Job(annotate("--method", "frozen", "trainer.max_epochs=3"), _readable, _same_labels),
    }
