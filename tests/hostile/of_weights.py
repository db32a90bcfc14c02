"""Checkpoints and model folders, damaged: each must end in a network or in one clear line."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import READ, Case, judged, refusal
from json_mutations import ODD, mutated_json
from mutations import BYTES, Rng

from cellfm_torch import CellFM, CellFMConfig, load_model
from cellfm_torch.convert import ms2pt, scf2pt
from cellfm_torch.convert.mindspore_ckpt import read_checkpoint
from cellfm_torch.convert.wire import value_header

PARITY = Path(__file__).resolve().parents[1] / "parity"
KINDS = {"float32": "Float32", "float16": "Float16", "int32": "Int32", "float64": "Float64"}
SCF_GENES = 200


def _converted(main: Callable[[list[str]], int], what: str, arguments: list[str], folder: Path) -> Case:
    """Run a converter; what it refuses must leave nothing behind."""
    before = sorted(folder.rglob("*"))
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(io.StringIO()):
            code = main(arguments)
    except BaseException as error:
        return what, f"fault: {type(error).__name__}", str(error)
    said = shown.getvalue()
    if code == 0:
        return what, READ, ""
    if sorted(folder.rglob("*")) != before:
        return what, "fault: something was left behind", said
    if code != 2 or not said.startswith("error: ") or said.count("\n") != 1:
        return what, f"fault: exit code {code}", said
    return what, refusal(said.strip(), ("given.ckpt", "genes.txt")), said


def _genes(folder: Path, number: int) -> str:
    (folder / "genes.txt").write_text("".join(f"G{i}\n" for i in range(number)))
    return str(folder / "genes.txt")


@functools.cache
def _messages(case: str) -> tuple[tuple[str, np.ndarray], ...]:  # type: ignore[type-arg]
    return tuple((name, x.numpy()) for name, x in read_checkpoint(PARITY / f"{case}.ckpt").items())


def mindspore(number: int, folder: Path) -> Case:
    """An official checkpoint: bytes changed, or tensors that are sound by themselves."""
    rng = np.random.default_rng([6, number])
    case = str(rng.choice(["pretrain", "zeros", "lora", "label"]))
    if rng.random() < 0.5:
        change = BYTES[int(rng.integers(len(BYTES)))]
        content, what = change((PARITY / f"{case}.ckpt").read_bytes(), rng), f"{case}: {change.__name__}"
    else:
        parts, what = list(_messages(case)), f"{case}: tensors"
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(parts)))
            parts[at : at + 1] = _other_tensor(*parts[at], rng)
        content = b"".join(
            value_header(name, KINDS[x.dtype.name], x.shape, x.nbytes) + x.tobytes() for name, x in parts
        )
    (folder / "given.ckpt").write_bytes(content)
    arguments = [str(folder / "given.ckpt"), "--genes", _genes(folder, 101), "--num-heads", "4"]
    return _converted(ms2pt.main, what, arguments, folder)


def _other_tensor(name: str, x: Any, rng: Rng) -> list[tuple[str, Any]]:
    """Return what stands in the place of a tensor: nothing, two of it, or another."""
    changes: list[Callable[[], list[tuple[str, Any]]]] = [
        lambda: [],
        lambda: [(name, x), (name, x)],
        lambda: [(name[: int(rng.integers(len(name) + 1))], x)],
        lambda: [(name.replace(".", "..", 1), x)],
        lambda: [(name.replace("0", "99999999999"), x)],
        lambda: [(name, x[:-1])] if x.ndim and len(x) > 1 else [],
        lambda: [(name, x.reshape(-1))],
        lambda: [(name, x[..., None])],
        lambda: [(name, x.astype(np.float16))],
        lambda: [(name, (x * 0 + np.nan).astype(x.dtype))] if x.dtype.kind == "f" else [],
        lambda: [(name, np.zeros((0, *x.shape[1:]), x.dtype))],
        lambda: [("x" * 500, x)],
    ]
    return changes[int(rng.integers(len(changes)))]()


@functools.cache
def _scfoundation() -> dict[str, Any]:
    return dict(torch.load(PARITY / "scfoundation.ckpt", weights_only=True))


def scfoundation(number: int, folder: Path) -> Case:
    """scFoundation's checkpoint, a zip with a pickle: bytes changed, or its plain values."""
    rng = np.random.default_rng([7, number])
    if rng.random() < 0.5:
        change = BYTES[int(rng.integers(len(BYTES)))]
        (folder / "given.ckpt").write_bytes(change((PARITY / "scfoundation.ckpt").read_bytes(), rng))
        what = change.__name__
    else:
        content = {name: dict(part) for name, part in _scfoundation().items()}
        content["cell"]["config"], what = mutated_json(content["cell"]["config"], rng)
        if rng.random() < 0.5:
            tensors = dict(content["cell"]["state_dict"])
            name = list(tensors)[int(rng.integers(len(tensors)))]
            tensors[name] = ODD[int(rng.integers(len(ODD)))] if rng.random() < 0.3 else tensors[name].reshape(-1)[:1]
            content["cell"]["state_dict"], what = tensors, f"{what}, {name}"
        torch.save(content, folder / "given.ckpt")
    arguments = [str(folder / "given.ckpt"), "--genes", _genes(folder, SCF_GENES)]
    return _converted(scf2pt.main, what, arguments, folder)


@functools.cache
def _model() -> Path:
    made = Path(tempfile.mkdtemp(prefix="fuzz-model"))
    config = CellFMConfig.preset("tiny", num_layers=1, dim=16, num_heads=1, num_genes=30, read_depth=True, zeros=True)
    CellFM(config, genes=[f"G{i}" for i in range(30)]).save_pretrained(made)
    return made


def model_folder(number: int, folder: Path) -> Case:
    """A model folder: its configuration, its genes, its weights."""
    rng = np.random.default_rng([8, number])
    given = folder / "given"
    shutil.copytree(_model(), given)
    file = given / str(rng.choice(["config.json", "config.json", "genes.txt", "model.safetensors"]))
    if file.name == "config.json" and rng.random() < 0.8:
        changed, what = mutated_json(json.loads(file.read_text()), rng)
        file.write_text(json.dumps(changed))
    else:
        change = BYTES[int(rng.integers(len(BYTES)))]
        file.write_bytes(change(file.read_bytes(), rng))
        what = change.__name__

    def read() -> str:
        load_model(given)
        return ""

    return judged(f"{file.name}: {what}", read, (str(given),))
