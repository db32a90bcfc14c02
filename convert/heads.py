"""Cell-type heads of official checkpoints: which tensors belong to them, in what shape.

Heads travel in a file of their own, because they load with their task and not with the backbone.
Shapes: C classes, D width, r rank of the adapters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from cellfm_torch.errors import UserError
from cellfm_torch.model import CellFMConfig

from .names import HEAD

HEADS = "heads.safetensors"
"""File of a model folder; its metadata names the task."""

Shapes = dict[str, tuple[int, ...]]


def head_task(names: Iterable[str]) -> str | None:
    """Return which task heads belong to, by their names: "label" (in pretraining), "annotation", or None for none."""
    kinds = {name.removeprefix(HEAD).split(".")[0] for name in names}
    if "query_layers" in kinds:
        return "annotation"
    return "label" if kinds else None


def head_shapes(found: Shapes, *, config: CellFMConfig) -> Shapes:
    """Return what the heads must hold, given how many classes and layers were found.

    Raises
    ------
    UserError
        If the cluster embeddings or a layer are missing.
    """
    task = head_task(found)
    if task is None:
        return {}
    dim = config.dim
    clusters = found.get(f"{HEAD}cluster_emb", ())
    if len(clusters) != 2:
        raise UserError("the checkpoint has heads but no cluster_emb of two dimensions; nothing was written")
    expected: Shapes = {"cluster_emb": (clusters[0], dim), "classifier.weight": (1, dim)}
    if task == "label":
        rank = config.lora_rank if any(name.endswith(".lora_a") for name in found) else 0
        expected |= _layer("query", ("retention",), dim=dim, rank=rank)
        for i in (0, 2, 4):
            expected |= {f"proj.{i}.weight": (dim, dim), f"proj.{i}.bias": (dim,)}
    else:
        layers = {int(match[1]) for name in found if (match := re.match(rf"{HEAD}query_layers\.(\d+)\.", name))}
        if layers != set(range(len(layers))):
            raise UserError(f"the checkpoint has query layers {sorted(layers)}: some are missing; nothing was written")
        for i in layers:
            expected |= _layer(f"query_layers.{i}", ("self_retention", "cross_retention"), dim=dim, rank=0)
    return {HEAD + name: shape for name, shape in expected.items()}


def _layer(prefix: str, retentions: tuple[str, ...], *, dim: int, rank: int) -> Shapes:
    """Tensors of one retention layer: retentions, the GLU, and a norm after each."""
    shapes: Shapes = {}
    parts = [*((f"{prefix}.{name}", "qkvuo") for name in retentions), (f"{prefix}.glu", "uvo")]
    for i, (part, letters) in enumerate(parts, start=1):
        for letter in letters:
            shapes[f"{part}.{letter}_proj.weight"] = (dim, dim)
            if rank:
                shapes |= {f"{part}.{letter}_proj.lora_a": (rank, dim), f"{part}.{letter}_proj.lora_b": (dim, rank)}
        shapes |= {f"{prefix}.norm{i}.weight": (dim,), f"{prefix}.norm{i}.bias": (dim,)}
    return shapes
