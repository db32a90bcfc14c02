"""A fine-tuned annotator on disk: annotator.json, and weights as safetensors. Nothing here unpickles anything."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays

from cellfm_torch.analysis.knn import NearestCells
from cellfm_torch.analysis.probe import LinearProbe
from cellfm_torch.analysis.rejection import Rejection
from cellfm_torch.annotation.methods import Fitted
from cellfm_torch.data.files import PathLike
from cellfm_torch.errors import UserError
from cellfm_torch.files import write_text, written_beside
from cellfm_torch.model.head_file import FILE as HEAD
from cellfm_torch.model.head_file import load_head, save_head
from cellfm_torch.model.kept import ADAPTER, BACKBONE, empty_folder, keep_backbone, kept_backbone, with_kept_adapter
from cellfm_torch.tasks.annotate import AnnotateTask

if TYPE_CHECKING:
    from cellfm_torch.model.loading import Backbone

ABOUT, ARRAYS, HISTORY = "annotator.json", "arrays.safetensors", "history.csv"
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
    if saved.model is None and not (include_model or saved.method == "full"):
        raise UserError("the model was not given as a folder: save with include_model=True")
    empty_folder(folder, mark=ABOUT, files=FILES, what="annotator", overwrite=overwrite)
    fitted = saved.fitted
    for name in (ARRAYS, HEAD):
        (folder / name).unlink(missing_ok=True)
    trained = getattr(fitted.model, "network", None)
    model = keep_backbone(
        folder, network, source=saved.model, method=saved.method, trained=trained, include=include_model
    )
    if isinstance(fitted.model, AnnotateTask):
        save_head(fitted.model.head, folder)  # type: ignore[arg-type]
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
    network, path = kept_backbone(folder, of_model, moved=model)
    try:
        learned = _learned(folder, method, network, num_classes=len(classes))
        history = pd.read_csv(folder / HISTORY, index_col=0)
    except (SafetensorError, OSError, KeyError, ValueError) as problem:
        if isinstance(problem, UserError):
            raise
        raise UserError(f"{folder}: is damaged ({' '.join(str(problem).split())}): save the annotator again") from None
    fitted = Fitted(method, len(classes), learned, rejection, history)
    return network, Saved(method, about["label"], tuple(classes), fitted, path, about["reading"], about["labels_map"])


def _learned(folder: Path, method: str, network: Any, *, num_classes: int) -> NearestCells | LinearProbe | AnnotateTask:
    if method == "knn":
        return NearestCells.from_tensors(load_arrays(folder / ARRAYS), num_classes=num_classes)
    if method == "linear":
        return LinearProbe.from_tensors(load_arrays(folder / ARRAYS))
    if method == "lora":
        network = with_kept_adapter(network, folder)
    return AnnotateTask(network, load_head(folder, network)).eval()
