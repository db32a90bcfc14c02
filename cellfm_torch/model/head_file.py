"""heads.safetensors: the cell-type head of a model folder, as the converter keeps it and as fine-tuning writes it."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from cellfm_torch.errors import UserError
from cellfm_torch.files import written_beside
from cellfm_torch.model.cell_types import HEADS, AnnotationHead, LabelHead

FILE = "heads.safetensors"
PREFIX = "head."


def save_head(head: LabelHead | AnnotationHead, folder: str | Path) -> None:
    """Write a head into a folder, beside and renamed."""
    task = next(name for name, kind in HEADS.items() if isinstance(head, kind))
    tensors = {PREFIX + name: x.detach().cpu().contiguous().clone() for name, x in head.state_dict().items()}
    with written_beside(Path(folder) / FILE) as part:
        save_file(tensors, part, metadata={"format": "pt", "task": task})


def load_head(folder: str | Path, network: nn.Module) -> LabelHead | AnnotationHead:
    """Return the head of a folder, for the backbone that it belongs to.

    Parameters
    ----------
    folder
        Holds heads.safetensors: a converted checkpoint with a head, or a fine-tuned annotator.
    network
        The backbone; it gives widths and the number of heads.

    Raises
    ------
    UserError
        If there is no such file, it is damaged, or its head has other sizes than the backbone.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise UserError(f"{folder} has no {FILE}: this model has no cell-type head")
    try:
        with safe_open(path, framework="pt") as file:
            task = (file.metadata() or {}).get("task", "")
            tensors = {name.removeprefix(PREFIX): file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as problem:
        raise UserError(f"{path} cannot be read ({problem}); copy or convert it again") from problem
    if task not in HEADS or "cluster_emb" not in tensors:
        raise UserError(f"{path} holds no cell-type head that is known ('{task}'): there are {', '.join(HEADS)}")
    options = {}
    if task == "annotation":
        options["num_layers"] = len({name.split(".")[1] for name in tensors if name.startswith("query_layers.")})
    elif adapters := [x for name, x in tensors.items() if name.endswith(".lora_a")]:
        options["lora_rank"] = len(adapters[0])
    head = HEADS[task].for_network(network, len(tensors["cluster_emb"]), **options)
    expected = head.state_dict()
    for name in sorted({*tensors, *expected}):
        found, wanted = (tuple(x[name].shape) if name in x else None for x in (tensors, expected))
        if found != wanted:
            raise UserError(f"{path}: {name} has shape {found}, a head for this model {wanted}: it is another model's")
    head.load_state_dict(tensors)
    return head
