"""Names in saved files, written out: a rename must not break people's files unseen."""

from __future__ import annotations

import torch

from cellfm_torch import CellFM, CellFMConfig

# Files that people saved carry these names: a rename needs a migration in model/checkpoint.py and convert/names.py.
LAYER_NAMES = [
    "glu.o_proj.weight",
    "glu.u_proj.weight",
    "glu.v_proj.weight",
    "norm1.bias",
    "norm1.weight",
    "norm2.bias",
    "norm2.weight",
    "retention.k_proj.weight",
    "retention.o_proj.weight",
    "retention.q_proj.weight",
    "retention.u_proj.weight",
    "retention.v_proj.weight",
]
NAMES = [
    "cell_decoder.expressed.bias",
    "cell_decoder.expressed.weight",
    "cell_decoder.map.weight",
    "cls_token",
    "depth_emb",
    "depth_enc.a",
    "depth_enc.table.weight",
    "depth_enc.w1.weight",
    "depth_enc.w3.weight",
    "gene_decoder.expressed.0.bias",
    "gene_decoder.expressed.0.weight",
    "gene_decoder.expressed.2.bias",
    "gene_decoder.expressed.2.weight",
    "gene_decoder.expressed.4.bias",
    "gene_decoder.expressed.4.weight",
    "gene_decoder.w1.weight",
    "gene_decoder.w2.weight",
    "gene_emb.weight",
    "mask_emb",
    "value_enc.a",
    "value_enc.table.weight",
    "value_enc.w1.weight",
    "value_enc.w3.weight",
    "zero_emb",
]


def test_names_in_saved_files_are_pinned() -> None:
    with torch.device("meta"):
        names = CellFM(CellFMConfig.preset("tiny", zeros=True, read_depth=True)).state_dict().keys()
    assert sorted(names) == sorted(NAMES + [f"encoder.{i}.{name}" for i in range(4) for name in LAYER_NAMES])


def test_names_of_adapters_and_of_a_bare_encoder_are_pinned() -> None:
    with torch.device("meta"):
        adapted = CellFM(CellFMConfig.preset("tiny", zeros=True, read_depth=True, lora_rank=2)).state_dict().keys()
        bare = CellFM(CellFMConfig.preset("tiny", decoders=False)).state_dict().keys()
    weights = [name for name in LAYER_NAMES if name.endswith("_proj.weight")]
    adapters = [name.replace("weight", part) for name in weights for part in ("lora_a", "lora_b")]
    layers = [f"encoder.{i}.{name}" for i in range(4) for name in LAYER_NAMES]
    assert len(adapters) == 16
    assert sorted(adapted) == sorted(NAMES + layers + [f"encoder.{i}.{name}" for i in range(4) for name in adapters])
    left_out = ("gene_decoder.", "cell_decoder.", "depth_", "zero_emb")
    assert sorted(bare) == sorted([name for name in NAMES if not name.startswith(left_out)] + layers)
