"""A predictor on disk: chem.json, arrays and weights as safetensors. Nothing here unpickles anything."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from cellfm_torch.data.files import PathLike
from cellfm_torch.errors import UserError
from cellfm_torch.files import write_text, written_beside
from cellfm_torch.model.kept import BACKBONE, empty_folder, keep_backbone, kept_backbone
from cellfm_torch.perturbation.chem.columns import Columns
from cellfm_torch.perturbation.chem.compounds import Compounds
from cellfm_torch.perturbation.chem.fitted import Fitted
from cellfm_torch.perturbation.chem.flow import Velocity
from cellfm_torch.perturbation.chem.readout import Readout
from cellfm_torch.perturbation.chem.shift import Conditions, Shift
from cellfm_torch.perturbation.chem.space import Space

if TYPE_CHECKING:
    from cellfm_torch.model.loading import Backbone

ABOUT, ARRAYS, FLOW, HISTORY = "chem.json", "arrays.safetensors", "flow.safetensors", "history.csv"
FILES = {ABOUT, ARRAYS, FLOW, HISTORY, BACKBONE}
METHOD = "frozen"
"""What was done to the backbone: nothing."""
FORMAT = 1
KERNEL = ("amplitude", "own", "decades", "local", "reach")


@dataclass
class Saved:
    """What a predictor is made of, besides its backbone."""

    columns: Columns
    fitted: Fitted
    model: Path | None
    reading: dict[str, Any]


def write_saved(
    folder: PathLike, saved: Saved, network: Backbone, *, overwrite: bool = False, include_model: bool = False
) -> None:
    """Write a folder; see :meth:`cellfm_torch.ChemicalPerturbation.save`. It is complete when chem.json is there."""
    folder = Path(folder).expanduser()
    empty_folder(folder, mark=ABOUT, files=FILES, what="predictor", overwrite=overwrite)
    model = keep_backbone(folder, network, source=saved.model, method=METHOD, include=include_model)
    fitted = saved.fitted
    with written_beside(folder / ARRAYS) as part:
        save_arrays(_arrays(fitted), part)
    with written_beside(folder / FLOW) as part:
        weights = {name: x.detach().cpu().contiguous() for name, x in fitted.flow.state_dict().items()}
        save_file(weights, part, metadata={"format": "pt"})
    write_text(folder / HISTORY, fitted.history.to_csv())
    about = {
        "format": FORMAT,
        "columns": dataclasses.asdict(saved.columns),
        "compounds": fitted.compounds.names,
        "smiles": fitted.compounds.smiles,
        "middle_dose": fitted.middle,
        "unit": fitted.space.unit,
        "shift": {name: getattr(fitted.shift, name) for name in KERNEL},
        "expression": {name: getattr(fitted.expression, name) for name in KERNEL},
        "flow": fitted.flow.options,
        "model": model,
        "reading": saved.reading,
    }
    write_text(folder / ABOUT, json.dumps(about, indent=2) + "\n")


def read_saved(folder: PathLike, *, model: PathLike | None = None) -> tuple[Backbone, Saved]:
    """Read a folder; see :meth:`cellfm_torch.ChemicalPerturbation.load`."""
    folder = Path(folder).expanduser()
    if not (folder / ABOUT).is_file():
        raise UserError(f"{folder} is not a saved predictor: it has no {ABOUT}; give the folder that save() wrote")
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        form, of_model = about["format"], {name: about["model"][name] for name in ("path", "sha256")}
    except (ValueError, KeyError, TypeError) as problem:
        raise UserError(f"{folder / ABOUT} is damaged ({problem!r}): save the predictor again") from problem
    if form != FORMAT:
        raise UserError(f"{folder / ABOUT} has format {form}, this version reads {FORMAT}: save the predictor again")
    network, path = kept_backbone(folder, of_model, moved=model)
    try:
        columns = Columns(**about["columns"] | {"control": tuple(about["columns"]["control"])})
        fitted, reading = _fitted(folder, about), dict(about["reading"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as problem:
        raise UserError(f"{folder}: is damaged ({' '.join(str(problem).split())}): save the predictor again") from None
    return network, Saved(columns, fitted, path, reading)


def _arrays(fitted: Fitted) -> dict[str, NDArray[Any]]:
    seen, compounds = fitted.shift.seen, fitted.compounds
    found = {
        "space.mean": fitted.space.mean,
        "space.scale": fitted.space.scale,
        "space.axes": fitted.space.axes,
        "compounds": np.stack([compounds.features[name] for name in compounds.names]),
        "seen.compounds": seen.compounds,
        "seen.doses": seen.doses,
        "seen.contexts": seen.contexts,
        "shift": fitted.shift.solved,
        "expression": fitted.expression.solved,
        "readout": fitted.readout.weights,
        "genes": fitted.genes,
    }
    return {name: np.ascontiguousarray(x) for name, x in found.items()}


def _fitted(folder: Path, about: dict[str, Any]) -> Fitted:
    arrays = load_arrays(folder / ARRAYS)
    seen = Conditions(*(arrays[f"seen.{name}"] for name in ("compounds", "doses", "contexts")))
    flow = Velocity(**about["flow"])
    flow.load_state_dict(load_file(folder / FLOW))
    features = dict(zip(about["compounds"], arrays["compounds"], strict=True))
    return Fitted(
        Space(arrays["space.mean"], arrays["space.scale"], arrays["space.axes"], float(about["unit"])),
        Compounds(features, dict(about["smiles"])),
        float(about["middle_dose"]),
        Shift(seen, arrays["shift"], **about["shift"]),
        Shift(seen, arrays["expression"], **about["expression"]),
        flow.eval(),
        Readout(arrays["readout"]),
        arrays["genes"],
        pd.read_csv(folder / HISTORY, index_col=0),
    )
