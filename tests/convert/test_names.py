"""The name table against every name the official model was recorded with."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from cellfm_torch import CellFM, CellFMConfig
from cellfm_torch.convert.mindspore_ckpt import read_checkpoint
from cellfm_torch.convert.names import drop_reason, target_name
from cellfm_torch.convert.network import convert_tensors
from cellfm_torch.errors import UserError

PARITY = Path(__file__).resolve().parents[1] / "parity"
MANIFEST = json.loads((PARITY / "manifest.json").read_text())
CASES = ["pretrain", "zeros", "finetune", "train"]


@pytest.mark.parametrize("case", CASES)
def test_every_official_name_maps_or_is_dropped(case: str) -> None:
    recorded = MANIFEST[case]
    mapped: dict[str, str] = {}
    for name in recorded["parameters"]:
        target, reason = target_name(name), drop_reason(name)
        assert (target is None) != (reason is None), name  # one or the other, never both
        if target is not None:
            mapped[name] = target
    assert len(set(mapped.values())) == len(mapped)  # no two onto one
    config = recorded["config"]
    with torch.device("meta"):
        network = CellFM(
            CellFMConfig(
                num_layers=config["enc_nlayers"],
                dim=config["enc_dims"],
                num_heads=config["enc_num_heads"],
                num_genes=recorded["n_genes"],
                read_depth=case == "finetune",
                zeros=case == "zeros",
            )
        )
    shapes = {name: list(x.shape) for name, x in network.state_dict().items()}
    assert {target: recorded["parameters"][name] for name, target in mapped.items()} == shapes
    dropped = [name for name in recorded["parameters"] if name not in mapped]
    assert bool(dropped) == (case == "train")


def test_moments_are_not_weights() -> None:
    for name in ("moment1.gene_emb", "moment2.encoder.0.attn.q_proj.weight"):
        assert target_name(name) is None and drop_reason(name) == "Adam moment"
    for name in ("global_step", "beta1_power", "learning_rate", "current_iterator_step", "scale_sense"):
        assert target_name(name) is None and drop_reason(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "gene_emb.weight",
        "xgene_emb",
        "gene_emb\n",
        "encoder.x.attn.q_proj.weight",
        "encoder.0.attn.q_projXweight",  # a dot is a dot
        "encoder.0.attn.w_proj.weight",
        "encoder.0.attn.q_proj.bias",
        "encoder.0.post_norm3.gamma",
        "encoder.0.ffn.q_proj.weight",
        "value_dec.w3.weight",
        "moment3.gene_emb",
        "classifier.weight",
    ],
)
def test_unknown_names(name: str) -> None:
    assert target_name(name) is None and drop_reason(name) is None


def official() -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(PARITY / "pretrain.ckpt"))


GENES = [f"G{i}" for i in range(101)]


def refusal(tensors: dict[str, torch.Tensor], **options: object) -> str:
    with pytest.raises(UserError) as refused:
        convert_tensors(tensors, **{"num_heads": 4, "genes": GENES} | options)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_conversion_keeps_every_number() -> None:
    tensors = official()
    converted = convert_tensors(tensors, num_heads=4, genes=GENES)
    state = converted.network.state_dict()
    assert sorted(converted.names.values()) == sorted(state) and converted.dropped == {}
    assert all(torch.equal(state[ours], tensors[name]) for name, ours in converted.names.items())
    assert converted.network.genes == tuple(GENES) and converted.network.config.num_heads == 4
    assert all(p.requires_grad for p in converted.network.parameters())
    half = convert_tensors({name: x.half() for name, x in tensors.items()}, num_heads=4, genes=GENES).network
    assert {x.dtype for x in half.state_dict().values()} == {torch.float32}


def test_heads_default_to_a_width_of_32() -> None:
    assert convert_tensors(official(), genes=GENES).network.config.num_heads == 2


def test_published_vocabulary_is_chosen_by_its_rows() -> None:
    tensors = official()
    tensors["gene_emb"] = torch.zeros(24_080, 64)
    network = convert_tensors(tensors).network
    assert network.config.num_genes == 24_078 and network.genes is not None and len(network.genes) == 24_078


def test_unknown_missing_and_misshapen_tensors() -> None:
    tensors = official()
    assert "holds classifier.weight, which the name table does not know" in refusal(
        tensors | {"classifier.weight": torch.zeros(1, 64)}
    )
    assert "encoder.1.glu.v_proj.weight has shape (64, 63)" in refusal(
        tensors | {"encoder.1.ffn.v_proj.weight": torch.zeros(64, 63)}
    )
    for name, ours in (("cls_token", "cls_token"), ("encoder.1.post_norm2.beta", "encoder.1.norm2.bias")):
        assert f"lacks {ours}" in refusal({key: x for key, x in tensors.items() if key != name})
    without = {name: x for name, x in tensors.items() if not name.startswith("encoder.1.")}
    assert "layers [0, 2, 3]: some are missing" in refusal(without)
    assert "layers []" in refusal({name: x for name, x in tensors.items() if not name.startswith("encoder.")})
    assert "no gene_emb" in refusal({})
    assert "no gene_emb" in refusal(tensors | {"gene_emb": torch.zeros(64)})


def test_half_a_variant_is_refused() -> None:
    """One of two heads, or the encoder of S and T without their embedding: no network has that."""
    zeros = read_checkpoint(PARITY / "zeros.ckpt")
    one_head = {name: x for name, x in zeros.items() if not name.startswith("cellwise_dec.zero_logit")}
    assert "holds gene_decoder.expressed." in refusal(one_head)
    depth = read_checkpoint(PARITY / "finetune.ckpt")
    assert "holds depth_enc." in refusal({name: x for name, x in depth.items() if name != "ST_emb"})
    assert "holds encoder.00." in refusal(official() | {"encoder.00.ffn.v_proj.weight": torch.zeros(64, 64)})


def test_vocabularies_and_heads_that_do_not_fit() -> None:
    tensors = official()
    assert "104 rows, none of the published vocabularies; give its list with --genes" in refusal(tensors, genes=None)
    assert "needs 112 rows, gene_emb has 104" in refusal(tensors, genes=["G"] * 104)
    assert "num_heads=5" in refusal(tensors, num_heads=5)
    assert "num_heads=0" in refusal(tensors, num_heads=0)
    narrow = {name: x[..., :48] if name == "gene_emb" else x for name, x in tensors.items()}
    assert "48 is not a multiple of 32; say --num-heads" in refusal(narrow, num_heads=None)
    assert math.prod(tensors["gene_emb"].shape) == 104 * 64
