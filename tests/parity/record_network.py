"""The official network, built for a checkpoint from the user's own checkout and loaded strictly.

Nothing of the official code is in here (CC BY-NC-ND 4.0): its classes are imported from where the user has them.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from record_cells import Refusal

# Of a training checkpoint, and of no use to the network.
STATE = re.compile(
    r"moment[12]\..+|global_step|learning_rate|beta[12]_power|current_iterator_step|last_overflow_iterator_step"
    r"|scale_sense|.*loss_scale.*"
)
MODULES = {  # layout: (folder of the checkout, module, class)
    "pretrain": (".", "model", "CellFM"),
    "depth": ("tutorials/BatchIntegration", "finetune_intergration_model", "FinetuneModel"),
    "annotation": ("tutorials/CellAnnotation", "annotation_model", "Net"),
}
# What the two calls of each layout take, by the names of the recorded arrays.
ENCODED = {
    "pretrain": ("masked", "gene", "zero_idx"),
    "depth": ("masked", "gene", "ST_feat", "zero_idx"),
    "annotation": ("raw", "gene", "zero_idx"),
}
TRAINED = {
    "pretrain": ("raw", "masked", "gene", "mask_gene", "zero_idx", "label"),
    "depth": ("raw", "masked", "ST_feat", "gene", "mask_gene", "zero_idx", "label"),
    "annotation": ("raw", "gene", "zero_idx", "label"),
}


def find_layout(shapes: dict[str, tuple[int, ...]], *, num_heads: int | None) -> dict[str, Any]:
    """Read layout and sizes off the names and shapes of a checkpoint."""
    prefix = "extractor." if "extractor.gene_emb" in shapes else ""
    emb = shapes.get(prefix + "gene_emb", ())
    layers = {int(m[1]) for m in (re.match(re.escape(prefix) + r"encoder\.(\d+)\.", name) for name in shapes) if m}
    if len(emb) != 2 or not layers or layers != set(range(len(layers))):
        raise Refusal("unknown layout: no gene_emb (rows, width) with encoder.0 .. encoder.N beside it")
    if num_heads is None and emb[1] % 32:
        raise Refusal(f"the width {emb[1]} is not a multiple of 32; say --num-heads")
    num_heads = num_heads or emb[1] // 32
    if num_heads < 1 or emb[1] % num_heads:
        raise Refusal(f"--num-heads {num_heads}: does not divide the width {emb[1]}")
    return {
        "layout": "annotation" if prefix else "depth" if "ST_emb" in shapes else "pretrain",
        "rows": emb[0],
        "dim": emb[1],
        "num_layers": len(layers),
        "num_heads": num_heads,
        "lora": shapes.get(prefix + "encoder.0.attn.lora_q.A.weight", (0,))[0],
        "zeros": "cellwise_dec.zero_logit.weight" in shapes,
        "num_classes": shapes.get("cluster_emb", (0,))[0],
        "ecs": not prefix and "ST_emb" in shapes,
    }


def build(ms: Any, official: Path, found: dict[str, Any]) -> Any:
    """Make the official network of a layout, without dropout: loss and gradients must not depend on chance."""
    folder, module, name = MODULES[found["layout"]]
    for file in (official / "config.py", official / "model.py", official / folder / f"{module}.py"):
        if not file.is_file():
            raise Refusal(f"--official {official}: there is no {file.relative_to(official)}; is it a CellFM checkout?")
    if not hasattr(ms.common.api, "ms_function"):  # its name before MindSpore 2, which the official code imports
        ms.common.api.ms_function = ms.jit
    sys.path[:0] = [str(official), str(official / folder)]
    config = importlib.import_module("config").Config()
    settings = {
        "enc_dims": found["dim"],
        "enc_nlayers": found["num_layers"],
        "enc_num_heads": found["num_heads"],
        "lora": found["lora"],
        "add_zero": found["zeros"],
        "pad_zero": not found["zeros"],
        "label": found["layout"] != "annotation" and found["num_classes"] > 0,
        "num_cls": found["num_classes"],
        "ecs": found["ecs"],
        "ecs_threshold": 0.8,
        "enc_dropout": 0.0,
        "dropout": 0.0,
        "recompute": False,
    }
    for key, value in settings.items():
        setattr(config, key, value)
    library = importlib.import_module(module)
    if found["layout"] == "annotation":
        return library.Net(library.Backbone(found["rows"] - 1, config), config)
    network = getattr(library, name)(found["rows"] - 1, config)
    if config.label:  # P.BatchMatMul broadcasts a batch of one on Ascend only
        network.query.attn.qkvmul = ms.ops.matmul
    return network


def load(ms: Any, network: Any, weights: dict[str, Any]) -> None:
    """Load strictly: every parameter of the network, and nothing left over but training state."""
    kept = {name: x for name, x in weights.items() if not STATE.fullmatch(name)}
    wanted = {name: tuple(x.shape) for name, x in network.parameters_and_names()}
    missing, unknown = sorted(wanted.keys() - kept.keys()), sorted(kept.keys() - wanted.keys())
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"holds {unknown[0]}, which the official network does not have"
        raise Refusal(f"unknown layout: the checkpoint {what}")
    for name, shape in wanted.items():
        if tuple(kept[name].shape) != shape:
            raise Refusal(f"{name} has shape {tuple(kept[name].shape)} in the checkpoint, the network needs {shape}")
    left = ms.load_param_into_net(network, kept, strict_load=True)
    if any(left):
        raise Refusal(f"MindSpore left unloaded: {', '.join(map(str, left))}")


def wrap(ms: Any, network: Any, found: dict[str, Any], *, num_cells: int, num_tokens: int) -> tuple[Any, list[Any]]:
    """Make one cell that gives encodings and predictions, while each layer keeps what it made.

    A layer writes its output into a parameter: hooks do not exist in graph mode, assignments do.

    Returns
    -------
    The cell, and the wrapped layers with ``.output`` (and ``.input`` of the first).
    """
    shape = (num_cells, num_tokens, found["dim"])

    class Kept(ms.nn.Cell):
        def __init__(self, layer: Any, index: int) -> None:
            super().__init__()
            self.layer, self.first = layer, index == 0
            self.output = ms.Parameter(ms.ops.zeros(shape, ms.float32), name=f"kept_{index}", requires_grad=False)
            self.input = ms.Parameter(ms.ops.zeros(shape, ms.float32), name=f"input_{index}", requires_grad=False)
            self.assign = ms.ops.Assign()

        def construct(self, x: Any, **options: Any) -> Any:
            if self.first:
                self.assign(self.input, x.astype(ms.float32))
            y = self.layer(x, **options)
            self.assign(self.output, y.astype(ms.float32))
            return y

    class Predictions(ms.nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def construct(self, *inputs: Any) -> Any:
            genes, rows, cls = self.network.forward(*inputs)
            return self.network.value_dec(genes), self.network.cellwise_dec(cls, rows)

    class Logits(ms.nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def construct(self, *inputs: Any) -> Any:
            return self.network.forward(*inputs)

    holder = network.extractor if found["layout"] == "annotation" else network
    layers = [Kept(layer, index) for index, layer in enumerate(holder.encoder)]
    holder.encoder = ms.nn.CellList(layers)
    network.set_train(False)
    return (Logits() if found["layout"] == "annotation" else Predictions()), layers
