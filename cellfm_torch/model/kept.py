"""The backbone of something that was fine-tuned, on disk: referred to, or kept beside it, with what was adapted.

Nothing here unpickles anything.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from cellfm_torch.data.files import PathLike
from cellfm_torch.data.fingerprint import checksum
from cellfm_torch.errors import UserError
from cellfm_torch.files import written_beside
from cellfm_torch.model.checkpoint import WEIGHTS
from cellfm_torch.model.loading import Backbone, load_model
from cellfm_torch.model.lora import add_lora

BACKBONE, ADAPTER = "model", "adapter.safetensors"


def empty_folder(folder: Path, *, mark: str, files: set[str], what: str, overwrite: bool) -> None:
    """Make the folder of something that is saved, or what is left of an earlier one no longer complete.

    Parameters
    ----------
    folder
        Where.
    mark
        Its file that is written last.
    files
        All that such a folder may hold.
    what
        Its name, for messages.
    overwrite
        One that is there is replaced.

    Raises
    ------
    UserError
        If it is there already and `overwrite` is false, or is something else.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise UserError(f"{folder}: exists already: choose another folder, or save with overwrite=True")
        others = sorted(path.name for path in folder.iterdir() if path.name not in files) if folder.is_dir() else ["it"]
        if others:
            raise UserError(f"{folder}: is not a saved {what} (what is {others[0]}?): choose another folder")
        (folder / mark).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


def keep_backbone(
    folder: Path, network: Any, *, source: Path | None, method: str, trained: Any = None, include: bool = False
) -> dict[str, Any]:
    """Keep what is needed to have a backbone again; returns what tells where it is, for JSON.

    Parameters
    ----------
    folder
        Of what was fine-tuned.
    network
        The backbone as it was.
    source
        Its model folder; None if there is none to refer to.
    method
        ``"lora"``: the adapters are kept; ``"full"``: the whole backbone is.
    trained
        The backbone as the method left it.
    include
        Keep the backbone rather than refer to it.

    Raises
    ------
    UserError
        If there is no folder to refer to and `include` is false.
    """
    own = folder / BACKBONE
    # A model inside the folder, of something that was loaded from it, is about to be removed: it is written again.
    include = include or method == "full" or (source is not None and source.resolve() == own.resolve())
    if source is None and not include:
        raise UserError("the model was not given as a folder: save with include_model=True")
    if own.is_dir():
        shutil.rmtree(own)
    (folder / ADAPTER).unlink(missing_ok=True)
    if method == "lora":
        with written_beside(folder / ADAPTER) as part:
            save_file(adapter_of(trained), part, metadata={"format": "pt"})
    if include:
        (trained if method == "full" else network).save_pretrained(own)
        return {"path": BACKBONE, "sha256": checksum(own / WEIGHTS)}
    assert source is not None
    return {"path": str(source.resolve()), "sha256": checksum(source / WEIGHTS)}


def kept_backbone(folder: Path, about: dict[str, Any], *, moved: PathLike | None = None) -> tuple[Backbone, Path]:
    """Return the backbone, and where it is; in evaluation mode, without gradients and without adapters.

    Parameters
    ----------
    folder
        Of what was fine-tuned.
    about
        What :func:`keep_backbone` returned.
    moved
        Where the model folder is now, if it was moved.

    Raises
    ------
    UserError
        If it is not the model that was used.
    """
    path = folder / about["path"] if moved is None else Path(moved).expanduser()  # an absolute path stays as it is
    network = load_model(path)
    if (found := checksum(path / WEIGHTS)) != about["sha256"]:
        raise UserError(
            f"{path} is not the model that {folder} was trained with (its weights' SHA-256 begins {found[:8]}, not "
            f"{about['sha256'][:8]}): give the right one as model="
        )
    network.eval().requires_grad_(False)
    return network, path


def with_kept_adapter(network: Backbone, folder: Path) -> Backbone:
    """Return the backbone with the adapters that a folder keeps.

    Raises
    ------
    ValueError
        If they are another model's.
    """
    tensors = load_file(folder / ADAPTER)
    rank = next(len(x) for name, x in tensors.items() if name.endswith(".lora_a"))
    network = add_lora(network, rank)
    if unknown := network.load_state_dict(tensors, strict=False).unexpected_keys:
        raise ValueError(f"{ADAPTER} holds {unknown[0]}, which the model does not have")
    return network


def adapter_of(network: nn.Module) -> dict[str, Any]:
    """Return the tensors of the low-rank adapters."""
    state = network.state_dict()
    return {name: x.detach().cpu().clone() for name, x in state.items() if name.endswith((".lora_a", ".lora_b"))}
