"""A fine-tuned annotator on disk: annotator.json, and weights as safetensors. Nothing here unpickles anything."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import nn

from cellfm_torch.analysis.knn import NearestCells
from cellfm_torch.analysis.probe import LinearProbe
from cellfm_torch.analysis.rejection import Rejection
from cellfm_torch.annotation.methods import Fitted
from cellfm_torch.data.files import PathLike
from cellfm_torch.data.fingerprint import checksum
from cellfm_torch.errors import UserError
from cellfm_torch.files import write_text, written_beside
from cellfm_torch.model.checkpoint import WEIGHTS
from cellfm_torch.model.head_file import FILE as HEAD
from cellfm_torch.model.head_file import load_head, save_head
from cellfm_torch.model.loading import load_model
from cellfm_torch.model.lora import add_lora
from cellfm_torch.tasks.annotate import AnnotateTask

if TYPE_CHECKING:
    from cellfm_torch.model.loading import Backbone

ABOUT, ARRAYS, ADAPTER, HISTORY, BACKBONE = (
    "annotator.json",
    "arrays.safetensors",
    "adapter.safetensors",
    "history.csv",
    "model",
)
FILES = {ABOUT, ARRAYS, ADAPTER, HISTORY, BACKBONE, HEAD}
FORMAT = 1


@dataclass
class Saved:
    """What an annotator is made of, besides its backbone."""

    method: str
    label: str
    classes: tuple[str, ...]
    fitted: Fitted
    model: Path | None
    reading: dict[str, Any]
    labels_map: str | None


def write_saved(
    folder: PathLike, saved: Saved, network: Backbone, *, overwrite: bool = False, include_model: bool = False
) -> None:
    """Write a folder; see :meth:`cellfm_torch.CellAnnotator.save`. It is complete when annotator.json is there."""
    folder = Path(folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise UserError(f"{folder}: exists already: choose another folder, or save with overwrite=True")
        others = sorted(path.name for path in folder.iterdir() if path.name not in FILES) if folder.is_dir() else ["it"]
        if others:
            raise UserError(f"{folder}: is not a saved annotator (what is {others[0]}?): choose another folder")
        (folder / ABOUT).unlink(missing_ok=True)
    # A model inside the folder, of an annotator that was loaded from it, is about to be removed: it is written again.
    include_model = include_model or (
        saved.model is not None and saved.model.resolve() == (folder / BACKBONE).resolve()
    )
    fitted = saved.fitted
    whole = saved.method == "full"
    if saved.model is None and not (include_model or whole):
        raise UserError("the model was not given as a folder: save with include_model=True")
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / BACKBONE).is_dir():
        shutil.rmtree(folder / BACKBONE)
    for name in (ARRAYS, ADAPTER, HEAD):
        (folder / name).unlink(missing_ok=True)
    if include_model or whole:
        (fitted.model.network if whole else network).save_pretrained(folder / BACKBONE)  # type: ignore[union-attr,operator]
        model: dict[str, Any] = {"path": BACKBONE, "sha256": checksum(folder / BACKBONE / WEIGHTS)}
    else:
        assert saved.model is not None
        model = {"path": str(saved.model.resolve()), "sha256": checksum(saved.model / WEIGHTS)}
    if isinstance(fitted.model, AnnotateTask):
        save_head(fitted.model.head, folder)  # type: ignore[arg-type]
        if saved.method == "lora":
            with written_beside(folder / ADAPTER) as part:
                save_file(adapter_of(fitted.model.network), part, metadata={"format": "pt"})
    else:
        with written_beside(folder / ARRAYS) as part:
            save_arrays(fitted.model.tensors(), part)
    write_text(folder / HISTORY, fitted.history.to_csv())
    about = {
        "format": FORMAT,
        "method": saved.method,
        "label": saved.label,
        "classes": saved.classes,
        "rejection": dataclasses.asdict(fitted.rejection),
        "model": model,
        "reading": saved.reading,
        "labels_map": saved.labels_map,
    }
    write_text(folder / ABOUT, json.dumps(about, indent=2) + "\n")


def read_saved(folder: PathLike, *, model: PathLike | None = None) -> tuple[Backbone, Saved]:
    """Read a folder; see :meth:`cellfm_torch.CellAnnotator.load`."""
    folder = Path(folder).expanduser()
    if not (folder / ABOUT).is_file():
        raise UserError(f"{folder} is not a saved annotator: it has no {ABOUT}; give the folder that save() wrote")
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        form, method, classes, of_model = (about[name] for name in ("format", "method", "classes", "model"))
        rejection = Rejection(**about["rejection"])
    except (ValueError, KeyError, TypeError) as problem:
        raise UserError(f"{folder / ABOUT} is damaged ({problem!r}): save the annotator again") from problem
    if form != FORMAT:
        raise UserError(f"{folder / ABOUT} has format {form}, this version reads {FORMAT}: save the annotator again")
    path = folder / of_model["path"] if model is None else Path(model).expanduser()  # an absolute path stays as it is
    network = load_model(path)
    if (found := checksum(path / WEIGHTS)) != of_model["sha256"]:
        raise UserError(
            f"{path} is not the model that {folder} was trained with (its weights' SHA-256 begins {found[:8]}, not "
            f"{of_model['sha256'][:8]}): give the right one as model="
        )
    network.eval().requires_grad_(False)
    try:
        learned = _learned(folder, method, network, num_classes=len(classes))
        history = pd.read_csv(folder / HISTORY, index_col=0)
    except (SafetensorError, OSError, KeyError, ValueError) as problem:
        if isinstance(problem, UserError):
            raise
        raise UserError(f"{folder}: is damaged ({' '.join(str(problem).split())}): save the annotator again") from None
    fitted = Fitted(method, len(classes), learned, rejection, history)
    return network, Saved(method, about["label"], tuple(classes), fitted, path, about["reading"], about["labels_map"])


def adapter_of(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of the low-rank adapters."""
    state = network.state_dict()
    return {name: x.detach().cpu().clone() for name, x in state.items() if name.endswith((".lora_a", ".lora_b"))}


def _learned(folder: Path, method: str, network: Any, *, num_classes: int) -> NearestCells | LinearProbe | AnnotateTask:
    if method == "knn":
        return NearestCells.from_tensors(load_arrays(folder / ARRAYS), num_classes=num_classes)
    if method == "linear":
        return LinearProbe.from_tensors(load_arrays(folder / ARRAYS))
    if method == "lora":
        tensors = load_file(folder / ADAPTER)
        rank = next(len(x) for name, x in tensors.items() if name.endswith(".lora_a"))
        network = add_lora(network, rank)
        unknown = network.load_state_dict(tensors, strict=False).unexpected_keys
        if unknown:
            raise ValueError(f"{ADAPTER} holds {unknown[0]}, which the model does not have")
    return AnnotateTask(network, load_head(folder, network)).eval()
