"""A trained predictor of gene perturbations on disk: JSON and safetensors; nothing here unpickles anything."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cellfm_torch.data.files import PathLike
from cellfm_torch.errors import UserError
from cellfm_torch.files import write_text, written_beside
from cellfm_torch.model.kept import ADAPTER, BACKBONE, empty_folder, keep_backbone, kept_backbone, with_kept_adapter
from cellfm_torch.model.perturbation import GeneTables, PerturbationHead
from cellfm_torch.perturbation.gene.effects import Condition
from cellfm_torch.perturbation.gene.learned import sizes
from cellfm_torch.tasks.perturb import PerturbTask

ABOUT, HEAD, HISTORY = "predictor.json", "head.safetensors", "history.csv"
FILES = {ABOUT, HEAD, HISTORY, ADAPTER, BACKBONE}
FORMAT = 1


@dataclass(frozen=True)
class Saved:
    """What a predictor is made of, besides its backbone.

    Attributes
    ----------
    task : PerturbTask
        The trained head on the backbone as it was trained.
    method : str
        How the backbone was trained.
    trained : tuple of Condition
        What was learned from.
    cells : dict of str to int
        Cells of each of these, by name.
    reading : dict
        How files of cells are read.
    column : str
        Column of obs that had the conditions.
    control : str or None
        Word for control cells, besides the usual ones.
    control_cells, seed : int
        Control cells that are drawn at most, and the seed of the draw.
    history : DataFrame
        One row per epoch.
    """

    task: PerturbTask
    method: str
    trained: tuple[Condition, ...]
    cells: dict[str, int]
    reading: dict[str, Any]
    column: str
    control: str | None
    control_cells: int
    seed: int
    history: pd.DataFrame

    @property
    def genes(self) -> list[str]:
        """Genes that were perturbed in training, in alphabetical order."""
        return sorted({gene for condition in self.trained for gene in condition})


def write_predictor(
    folder: PathLike,
    saved: Saved,
    network: Any,
    *,
    source: Path | None,
    overwrite: bool = False,
    include_model: bool = False,
) -> None:
    """Write a folder; it is complete when predictor.json is there.

    Raises
    ------
    UserError
        If it is there already, or there is no model folder to refer to.
    """
    folder = Path(folder).expanduser()
    if source is None and not (include_model or saved.method == "full"):
        raise UserError("the model was not given as a folder: save with include_model=True")
    empty_folder(folder, mark=ABOUT, files=FILES, what="predictor", overwrite=overwrite)
    model = keep_backbone(
        folder, network, source=source, method=saved.method, trained=saved.task.network, include=include_model
    )
    head = saved.task.head
    with written_beside(folder / HEAD) as part:
        tensors = {name: x.detach().cpu().contiguous().clone() for name, x in head.state_dict().items()}
        save_file(tensors, part, metadata={"format": "pt"})
    write_text(folder / HISTORY, saved.history.to_csv())
    about = {
        "format": FORMAT,
        "task": "gene perturbation",
        "method": saved.method,
        "width": head.width,
        "num_heads": head.num_heads,
        "trained": saved.trained,
        "cells": saved.cells,
        "model": model,
        "reading": saved.reading,
        "condition": saved.column,
        "control": saved.control,
        "control_cells": saved.control_cells,
        "seed": saved.seed,
    }
    write_text(folder / ABOUT, json.dumps(about, indent=2, default=_plain) + "\n")


def _plain(option: Any) -> Any:
    """Return an option of reading that was given as an object, such as GeneOptions, as JSON has it."""
    return asdict(option) if is_dataclass(option) and not isinstance(option, type) else str(option)


def read_predictor(folder: PathLike, *, model: PathLike | None = None) -> tuple[Any, Path, Saved]:
    """Return the backbone, its folder, and what was learned.

    Raises
    ------
    UserError
        If the folder is none, is damaged, or its model is another one.
    """
    folder = Path(folder).expanduser()
    if not (folder / ABOUT).is_file():
        raise UserError(f"{folder} is not a saved predictor: it has no {ABOUT}; cellfm perturb train writes one")
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        form, method, width, heads = (about[name] for name in ("format", "method", "width", "num_heads"))
        trained = tuple(tuple(map(str, condition)) for condition in about["trained"])
        of_model, reading, cells = about["model"], dict(about["reading"]), dict(about["cells"])
        column, control = about["condition"], about["control"]
        drawn = int(about["control_cells"]), int(about["seed"])
    except (ValueError, KeyError, TypeError) as problem:
        raise UserError(f"{folder / ABOUT} is damaged ({problem!r}): train the predictor again") from problem
    if form != FORMAT:
        raise UserError(f"{folder / ABOUT} has format {form}, this version reads {FORMAT}: train the predictor again")
    network, path = kept_backbone(folder, of_model, moved=model)
    try:
        tensors = load_file(folder / HEAD)
        if not 0 <= int(tensors["readout"].min()) <= int(tensors["readout"].max()) < len(network.static_genes):
            raise ValueError("it reads out genes that the model does not have")
        tables = GeneTables(**{name: tensors[name] for name in GeneTables.__dataclass_fields__})
        backbone = with_kept_adapter(network, folder) if method == "lora" else network
        with torch.random.fork_rng():
            head = PerturbationHead(tables, width=width, num_heads=heads, **sizes(backbone))
        head.load_state_dict(tensors)
        history = pd.read_csv(folder / HISTORY, index_col=0)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError, IndexError) as problem:
        words = " ".join(str(problem).split())[:200]
        raise UserError(f"{folder}: is damaged ({words}): train the predictor again") from None
    task = PerturbTask(backbone, head).eval()
    return network, path, Saved(task, method, trained, cells, reading, column, control, *drawn, history)
