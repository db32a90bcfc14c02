"""Adapters: nothing at the start, a low-rank product once trained, the same network when merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cellfm_torch import CellBatch, CellFM, CellFMConfig, PretrainTask, pretraining_loss
from cellfm_torch.errors import UserError
from cellfm_torch.model.lora import LoRALinear, merge_lora, merged_weight

SIZES = {"num_layers": 2, "dim": 32, "num_heads": 2, "num_genes": 31}
GENES = [f"G{i}" for i in range(31)]


def batch() -> CellBatch:
    gene = torch.arange(1, 13).reshape(2, 6)
    hidden = torch.zeros(2, 6, dtype=torch.bool)
    hidden[:, :2] = True
    return CellBatch.from_padded(
        gene, gene / 4.0, valid=gene > 0, hidden=hidden, target=hidden, target_values=gene / 4.0
    )


def network(**changes: int | bool) -> CellFM:
    torch.manual_seed(0)
    return CellFM(CellFMConfig(**(SIZES | changes)), genes=GENES).eval()  # type: ignore[arg-type]


def trained() -> CellFM:
    """Adapters as they may be after training: B is not zero."""
    adapted = network(lora_rank=3)
    for name, p in adapted.named_parameters():
        if name.endswith(("lora_a", "lora_b")):
            torch.nn.init.normal_(p, std=0.2)
    return adapted


def test_adapters_start_as_nothing() -> None:
    adapted = network(lora_rank=3)
    plain = merge_lora(adapted)
    assert torch.equal(adapted(batch()).by_gene, plain(batch()).by_gene)
    layers = [module for module in adapted.modules() if isinstance(module, LoRALinear)]
    assert len(layers) == 16 and all(not layer.lora_b.any() and layer.lora_a.std() > 0 for layer in layers)


def test_layer_is_the_formula() -> None:
    layer = LoRALinear(5, 7, rank=2)
    torch.nn.init.normal_(layer.lora_b)
    x = torch.randn(4, 5)
    expected = x.double() @ (layer.weight.double() + layer.lora_b.double() @ layer.lora_a.double()).T
    torch.testing.assert_close(layer(x).double(), expected, rtol=0, atol=1e-5)  # float32 sums of 5 terms near 1
    merged = merged_weight(layer.weight, layer.lora_a, layer.lora_b)
    torch.testing.assert_close(merged.double() @ x.double().T, expected.T, rtol=0, atol=1e-5)


def test_merged_network_gives_the_same_outputs() -> None:
    adapted = trained().double()
    merged = merge_lora(adapted)
    assert merged.config.lora_rank == 0 and merged.genes == adapted.genes and not merged.training
    assert not any("lora" in name for name in merged.state_dict())
    for output in ("by_gene", "by_cell"):
        ours, theirs = getattr(merged(batch()), output), getattr(adapted(batch()), output)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)  # float64: another order of the sums
    assert (adapted(batch()).by_gene - network().double()(batch()).by_gene).abs().max() > 1e-3


def test_every_adapter_gets_a_gradient() -> None:
    adapted = trained().train()
    pretraining_loss(adapted(batch()), batch()).backward()
    missing = [name for name, p in adapted.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


def test_round_trip(tmp_path: Path) -> None:
    adapted = trained()
    adapted.save_pretrained(tmp_path)
    loaded = CellFM.from_pretrained(tmp_path)
    assert loaded.config == adapted.config
    assert all(torch.equal(x, loaded.state_dict()[name]) for name, x in adapted.state_dict().items())


def test_a_bare_encoder_encodes_and_predicts_nothing() -> None:
    bare, full = network(decoders=False), network()
    bare.load_state_dict({name: x for name, x in full.state_dict().items() if name in bare.state_dict()})
    prediction = bare(batch())
    assert (prediction.by_gene, prediction.by_cell) == (None, None)
    assert torch.equal(prediction.encoding.cell, full(batch()).encoding.cell)
    with pytest.raises(UserError, match="predicts no expression"):
        pretraining_loss(prediction, batch())
    assert PretrainTask(full) is not None


@pytest.mark.parametrize(
    "wrong", [{"lora_rank": -1}, {"lora_rank": 1.5}, {"decoders": "no"}, {"decoders": False, "zeros": True}]
)
def test_sizes_that_make_no_network(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="model.config"):
        network(**wrong)
