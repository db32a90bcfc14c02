"""Model folders: config.json, model.safetensors, genes.txt. Nothing here unpickles anything."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from cellfm_torch.distributed.sharding import class_name, whole_tensors
from cellfm_torch.errors import UserError, shortened
from cellfm_torch.files import write_text, written_beside
from cellfm_torch.model.card import CARD, model_card

CONFIG, WEIGHTS, GENES = "config.json", "model.safetensors", "genes.txt"


class _Network(Protocol):
    config: Any
    genes: tuple[str, ...] | None

    def state_dict(self) -> dict[str, torch.Tensor]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


Loaded = TypeVar("Loaded", bound=nn.Module)


def folder_texts(model: str, config: Any, genes: Sequence[str]) -> dict[str, str]:
    """Return what stands in genes.txt and config.json, the latter last: a folder that has it is complete."""
    fields = {"model": model, **dataclasses.asdict(config)}
    return {GENES: "".join(f"{gene}\n" for gene in genes), CONFIG: json.dumps(fields, indent=2) + "\n"}


def save_folder(network: _Network, folder: str | Path) -> None:
    """Write a model folder; see :meth:`CellFM.save_pretrained`.

    Of a sharded network (FSDP2) every process calls this, and the first one writes.
    """
    if network.genes is None:
        made = f"{class_name(network)}(config, genes=[...])"
        raise ValueError(f"this network does not know its genes; give {made} one symbol per row")
    folder = Path(folder)
    # Clones: safetensors refuses tensors that share memory.
    tensors = {name: full.cpu().contiguous().clone() for name, full in whole_tensors(network.state_dict())}
    if not tensors:
        return
    folder.mkdir(parents=True, exist_ok=True)
    kind = class_name(network)
    texts = folder_texts(kind, network.config, network.genes)
    if not (folder / CARD).exists():  # what its author wrote there stays
        weights = sum(p.numel() for p in network.parameters())
        name = folder.resolve().name
        write_text(folder / CARD, model_card(name, kind, network.config, genes=len(network.genes), weights=weights))
    write_text(folder / GENES, texts[GENES])
    with written_beside(folder / WEIGHTS) as part:
        save_file(tensors, part, metadata={"format": "pt"})
    write_text(folder / CONFIG, texts[CONFIG])


def model_named(folder: str | Path) -> str:
    """Return the class that config.json names; of folders without a name, CellFM.

    Raises
    ------
    UserError
        If it is no model folder.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise UserError(f"{folder} is not a model folder: it has no {CONFIG}; give the folder save_pretrained wrote")
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("model", "CellFM"))
    except (ValueError, AttributeError) as problem:
        raise UserError(f"{path} is not the configuration of a model: {shortened(problem, longest=200)}") from problem


def load_folder(model: Callable[..., Loaded], config: type, folder: str | Path, *, dtype: torch.dtype) -> Loaded:
    """Read a model folder; see :meth:`CellFM.from_pretrained`."""
    folder = Path(folder)
    network_config, genes = _texts(model, config, folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as problem:
        raise _unreadable(folder, problem) from problem
    network = _without_weights(model, network_config, genes, folder)
    _check_tensors(folder / WEIGHTS, tensors, network.state_dict())
    weights = {name: x.to(dtype) if x.is_floating_point() else x for name, x in tensors.items()}
    network.load_state_dict(weights, strict=True, assign=True)
    for name, parameter in network.named_parameters():  # assign keeps what the file says; ours are trainable
        if not parameter.requires_grad:
            raise AssertionError(f"{name} lost its gradient")
    return network


def describe_folder(model: Callable[..., Loaded], config: type, folder: str | Path) -> Loaded:
    """Return the network of a model folder without memory for its weights, of which only the header is read.

    Raises
    ------
    UserError
        As loading it would, but for what is wrong with single weights.
    """
    folder = Path(folder)
    network_config, genes = _texts(model, config, folder)
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:  # refuses a file that is shorter than its header says
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  (no dict)
    except (SafetensorError, OSError) as problem:
        raise _unreadable(folder, problem) from problem
    network = _without_weights(model, network_config, genes, folder)
    found = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    _check_tensors(folder / WEIGHTS, found, network.state_dict())
    return network


def _texts(model: Callable[..., Loaded], config: type, folder: Path) -> tuple[Any, list[str]]:
    """Read the configuration and the genes of a model folder."""
    for name in (CONFIG, WEIGHTS, GENES):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not a model folder: it has no {name}; give the folder save_pretrained wrote")
    try:
        fields = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        expected = fields.pop("model", getattr(model, "__name__", None))
    except (ValueError, TypeError, AttributeError) as problem:
        raise UserError(
            f"{folder / CONFIG} is not a configuration of this model: {shortened(problem, longest=200)}"
        ) from problem
    if expected != getattr(model, "__name__", expected):  # first: another model's fields are not mistakes
        raise UserError(f"{folder / CONFIG} describes a {shortened(expected)}, not a {model.__name__}")
    try:
        network_config = config(**fields)
    except (ValueError, TypeError) as problem:
        raise UserError(
            f"{folder / CONFIG} is not a configuration of this model: {shortened(problem, longest=200)}"
        ) from problem
    try:
        lines = (folder / GENES).read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as problem:
        raise UserError(f"{folder / GENES} is not UTF-8 text ({problem})") from problem
    return network_config, [line.strip() for line in lines if line.strip()]


def _unreadable(folder: Path, problem: Exception) -> UserError:
    return UserError(f"{folder / WEIGHTS} cannot be read ({problem}); copy or convert it again")


def _without_weights(model: Callable[..., Loaded], config: Any, genes: list[str], folder: Path) -> Loaded:
    try:
        with torch.device("meta"):  # weights are read, or not needed: do not draw any
            return model(config, genes=genes)
    except ValueError as problem:
        raise UserError(f"{folder / GENES}: {problem}") from problem


def _check_tensors(file: Path, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Refuse a file whose tensors are not exactly those of the network, naming the first that differs."""
    for name, x in expected.items():
        if name not in found:
            raise UserError(f"{file} lacks the tensor {name}; convert the checkpoint again")
        if found[name].shape != x.shape:
            raise UserError(
                f"{file}: {name} has shape {tuple(found[name].shape)}, config.json asks for {tuple(x.shape)}"
            )
    unknown = sorted(set(found) - set(expected))
    if unknown:
        raise UserError(f"{file} holds {unknown[0]}, which the model of config.json does not have")
