"""The training command: what it leaves, what it refuses, and that it survives."""

from __future__ import annotations

import csv
import math
import signal
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
from jobs import finished, small_job, spawn, wait_for
from safetensors.torch import load_file

from cellfm_torch import CellFM, ScFoundation, load_model
from cellfm_torch.train import main


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_run_folder(small_cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    job = small_job(small_cells, run, "trainer.max_steps=6", "trainer.val_check_interval=3")
    job.remove("callbacks.umap=null")
    assert main(job) == 0
    made = files(run)
    assert {"model/config.json", "model/model.safetensors", "model/genes.txt", "metrics.json", "config.yaml"} <= made
    assert {"checkpoints/last.ckpt", "loss_curve.png", "umap.png", "logs/csv/version_0/metrics.csv"} <= made
    assert any(name.startswith("logs/tensorboard/") and "tfevents" in name for name in made)
    assert not any(name.endswith(".part") for name in made)
    network = CellFM.from_pretrained(run / "model")
    assert network.config.dim == 128 and len(network.genes or ()) == 24_078
    shown = capsys.readouterr().out
    for word in ("small.h5ad", "the model, by gene", "the model, by cell", "gene's training mean", "load_model"):
        assert word in shown
    assert "Tip" not in shown and f"{run}/umap.png, {run}/loss_curve.png; tensorboard" in shown

    before = {name: (run / name).stat().st_mtime_ns for name in made}
    assert main(job) == 2  # holds a run
    message = capsys.readouterr().err
    assert "resume=true" in message and message.count("\n") == 1
    assert main([*job, "optim.lr=1e-4", "resume=true"]) == 2  # holds another run
    assert "optim.lr=0.003 there, 0.0001 now" in capsys.readouterr().err
    assert main([*job, "resume=true"]) == 0  # finished: says so again and changes nothing
    assert "the model, by gene" in capsys.readouterr().out
    assert before == {name: (run / name).stat().st_mtime_ns for name in files(run)}

    longer = [override.replace("max_steps=6", "max_steps=8") for override in job]
    assert main([*longer, "resume=true"]) == 0
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 8


@pytest.mark.parametrize("variant", ["task.zeros=true", "task.read_depth=true"])
def test_variants_train(variant: str, small_cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = small_job(small_cells, tmp_path / "run", "trainer.max_steps=2", variant, "model.config.max_genes=1024")
    assert main(job) == 0
    assert "umap.png" not in capsys.readouterr().out  # none is drawn
    network = CellFM.from_pretrained(tmp_path / "run" / "model")
    assert getattr(network.config, variant.removeprefix("task.").removesuffix("=true"))


def test_scfoundation_trains(small_cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The published recipe from the same command; projections drawn anew all the time, and a resumed run."""
    small = ("model=scfoundation-tiny", "model.config.redraw_every=1", "trainer.val_check_interval=2")
    job = small_job(small_cells, tmp_path / "run", *small, "trainer.max_steps=4", "trainer.log_every_n_steps=1")
    assert main(job) == 0
    shown = capsys.readouterr().out
    assert "the model, by gene" in shown and "by cell" not in shown and "gene's training mean" in shown
    folder = tmp_path / "run" / "model"
    network = load_model(folder)
    assert isinstance(network, ScFoundation) and len(network.genes or ()) == 19_264
    with open(tmp_path / "run" / "logs" / "csv" / "version_0" / "metrics.csv", encoding="utf-8") as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file) if row["train_loss"]]
    assert losses and all(math.isfinite(loss) for loss in losses)
    longer = [override.replace("max_steps=4", "max_steps=6") for override in job]
    assert main([*longer, "resume=true"]) == 0
    assert not torch.equal(
        load_model(folder).decoder.layers[0].attention.projection, network.decoder.layers[0].attention.projection
    )

    goes_on = small_job(
        small_cells, tmp_path / "more", "model=pretrained", f"model.folder={folder}", "trainer.max_steps=1"
    )
    assert main(goes_on) == 0
    assert isinstance(load_model(tmp_path / "more" / "model"), ScFoundation)


def test_fitted_to_the_memory(small_cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = ("data.token_budget=auto", "callbacks.token_budget.most=9000", "callbacks.activation_checkpointing.policy=2")
    job = small_job(small_cells, tmp_path / "run", "trainer.max_steps=2", *fit)
    assert main(job) == 0
    assert "token budget: 9,000 gene tokens a batch" in capsys.readouterr().out
    plain = small_job(small_cells, tmp_path / "plain", "trainer.max_steps=2", "data.token_budget=9000")
    assert main(plain) == 0
    ours, theirs = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("run", "plain"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def broken_file(kind: str, folder: Path, cells: Path) -> str:
    """Make a file that cannot be trained on, and return the override that names it."""
    path = folder / f"{kind}.h5ad"
    if kind == "missing":
        return f"data.path={folder / 'smal.h5ad'}"
    if kind == "text":
        path.write_text("not hdf5")
    elif kind == "truncated":
        path.write_bytes(cells.read_bytes()[:100_000])
    else:
        data = anndata.read_h5ad(cells)
        if kind == "strangers":
            data.var_names = [f"thing{i}" for i in range(data.n_vars)]
        elif kind in ("negative", "nan"):
            data.X.data[7] = -1 if kind == "negative" else np.nan
        elif kind == "empty":
            data.X = data.X * 0
        elif kind == "lognorm":
            data.X.data = np.log1p(data.X.data * 3.7)
        data.write_h5ad(path)
    return f"data.path={path}"


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "smal.h5ad: no such file"),
        ("text", "text.h5ad"),
        ("truncated", "truncated.h5ad"),
        ("strangers", "strangers.h5ad"),
        ("negative", "negative"),
        ("nan", "nan"),
        ("empty", "empty.h5ad"),
        ("lognorm", "data.counts=recover"),
    ],
)
def test_bad_files(kind: str, says: str, small_cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    override = broken_file(kind, tmp_path, small_cells)
    assert main([*small_job(small_cells, run), override]) == 2
    message = capsys.readouterr().err
    assert says.lower() in message.lower() and message.startswith("error: ") and message.count("\n") == 1
    assert not run.exists()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["+experiment=pretrian"], "did you mean 'pretrain'?"),
        (["experiment=pretrain"], "+experiment=NAME"),
        (["model=tyni"], "did you mean 'tiny'?"),
        (["data.pth=x"], "did you mean 'data.path'?"),
        (["~callbacks.umap", "callbacks.umap.seed=1"], "leave one of the two out"),
        (["+model.config.layers=2"], "'model.config.layers'; did you mean 'model.config.num_layers'?"),
        (["+trainer.limit_val_batchs=2"], "did you mean 'trainer.limit_val_batches'?"),
        (["optim.lr=fast"], "optim.lr=fast: must be a number"),
        (["optim.lr=-1"], "optim.lr=-1"),
        (["trainer.max_steps=many"], "must be a number"),
        (["data.token_budget=aut"], "data.token_budget=aut: must be a number or auto"),
        (["data.token_budget=auto", "callbacks.activation_checkpointing.policy=auto"], "set data.token_budget"),
        (["callbacks.activation_checkpointing.policy=most"], "choose none, all, auto or a number"),
        (
            ["callbacks.activation_checkpointing.layers=encoder", "callbacks.activation_checkpointing.policy=1"],
            "encoder",
        ),
        (["callbacks.matmul_precision.precision=low"], "choose highest, high, medium"),
        (["resume=maybe"], "must be true or false"),
        (["data=files"], "data.path must be given"),
        (["data.mask_fraction=2"], "data.mask_fraction=2"),
        (["data.token_budget=100"], "data.token_budget=100"),
        (["model=pretrained", "model.folder=/nowhere"], "/nowhere is not a model folder"),
        (["task.zeros=true", "model=pretrained", "model.folder={model}"], "zeros=True, but the network"),
        (["seed=[1"], "seed=[1"),
    ],
)
def test_bad_options(
    overrides: list[str], says: str, small_cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, model = tmp_path / "run", tmp_path / "model"
    if "{model}" in "".join(overrides):
        from cellfm_torch import CellFMConfig

        CellFM(CellFMConfig(num_layers=1, dim=32, num_heads=1, num_genes=2), genes=["A", "B"]).save_pretrained(model)
    given = [override.format(model=model) for override in overrides]
    assert main([f"run_dir={run}", f"data.path={small_cells}", *given][2 if "data=files" in given else 0 :]) == 2
    message = capsys.readouterr().err
    assert says in message and message.startswith("error: ") and message.count("\n") == 1
    assert not run.exists()


def test_refuses_a_folder_of_something_else(
    small_cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(small_job(small_cells, tmp_path)) == 2
    assert "not empty" in capsys.readouterr().err
    assert files(tmp_path) == {"thesis.tex"}


@pytest.fixture(scope="module")
def unbroken(small_cells: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("unbroken")
    finished(long_job(small_cells, folder / "run"), folder)
    return load_file(folder / "run" / "model" / "model.safetensors")


def long_job(cells: Path, run: Path) -> list[str]:
    # Several epochs, so that runs stop within one and go on across their ends; dropout is on, the network narrow.
    more = ("trainer.max_steps=24", "trainer.val_check_interval=9", "callbacks.checkpoint.every_n_train_steps=4")
    return small_job(cells, run, "+model.config.dim=32", "+model.config.num_heads=1", *more)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_run_goes_on_to_the_same_weights(
    number: signal.Signals, unbroken: dict[str, torch.Tensor], small_cells: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = long_job(small_cells, run)
    process = spawn(job, tmp_path)
    wait_for(run / "checkpoints" / "last.ckpt", process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert not (run / "metrics.json").exists(), "the run ended before the signal came"
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 128 + number
        assert "resume=true" in out and str(run) in "".join(out.split("\n"))
        assert "Traceback" not in err
    # Nothing half-written takes the name of a whole file.
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert 0 < state["global_step"] < 24

    finished([*job, "resume=true"], tmp_path)
    resumed = load_file(run / "model" / "model.safetensors")
    assert resumed.keys() == unbroken.keys()
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)
