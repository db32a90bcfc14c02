"""Predicted memory of activations against what a step really allocates, and against what autograd says it keeps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cellfm_torch import CellBatch, CellFM, CellFMConfig, pretraining_loss
from cellfm_torch.commands.activations import checkpointed_activations, embedding_activations, training_activations
from cellfm_torch.memory.checkpointing import checkpoint_layers
from cellfm_torch.memory.ledger import Ledger

CPU = torch.device("cpu")
# Counting is exact; what is left is what does not grow in a straight line, such as the chunks of retention.
CLOSE = 0.02
GENES = 500


def batch_of(config: CellFMConfig, lengths: list[int]) -> CellBatch:
    generator = torch.Generator().manual_seed(0)
    total = sum(lengths)
    target = torch.rand(total, generator=generator) < 0.2
    return CellBatch(
        gene_ids=torch.randint(1, config.num_genes + 1, (total,), generator=generator),
        values=torch.rand(total, generator=generator) * 5,
        hidden=target & (torch.rand(total, generator=generator) < 0.8),
        offsets=torch.tensor([0, *lengths]).cumsum(0),
        cell_index=torch.arange(len(lengths)),
        target=target,
        target_values=torch.rand(total, generator=generator),
        read_depth=torch.full((len(lengths), 2), 2000.0) if config.read_depth else None,
    )


def allocated(config: CellFMConfig, lengths: list[int], *, dtype: torch.dtype, checkpointed: int) -> int:
    torch.manual_seed(0)
    network, batch = CellFM(config), batch_of(config, lengths)
    checkpoint_layers(network.encoder, checkpointed)
    with Ledger() as ledger:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = pretraining_loss(network(batch), batch)
        ledger.backward(loss, network.parameters())
    return max(ledger.peak, ledger.backward_peak)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("checkpointed", [0, 2, 4])
def test_tiny_step(dtype: torch.dtype, checkpointed: int) -> None:
    config, lengths = CellFMConfig.preset("tiny"), [900, 1500, 700, 800]
    expected = checkpointed_activations(
        config, dtype=dtype, device=CPU, cells=4, tokens=3900, layers=checkpointed
    ).chosen
    found = allocated(config, lengths, dtype=dtype, checkpointed=checkpointed)
    # Between none and all the layers count as equal; the first has no dropout, the first half drops masked genes.
    close = CLOSE if checkpointed in (0, 4) else 0.08
    assert expected == pytest.approx(found, rel=close)


@pytest.mark.parametrize("variant", [{}, {"read_depth": True}, {"zeros": True}, {"lora_rank": 4}], ids=str)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_scaled_up_from_smaller_networks(variant: dict, checkpointed: bool) -> None:
    config = CellFMConfig(7, dim=256, num_heads=8, num_genes=GENES, **variant)  # deeper and wider than what is tried
    guess = training_activations(config, dtype=torch.float32, device=CPU, checkpointed=checkpointed)
    found = allocated(config, [150, 250], dtype=torch.float32, checkpointed=7 * checkpointed)
    assert guess.of(cells=2, tokens=400) == pytest.approx(found, rel=CLOSE)


def test_autograd_agrees() -> None:
    config = CellFMConfig(3, dim=64, num_heads=2, num_genes=GENES)
    network, batch = CellFM(config), batch_of(config, [300, 500])
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return x

    with Ledger() as ledger, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = pretraining_loss(network(batch), batch)
        live = ledger.live
    assert loss.requires_grad
    # 2 %: the batch's own tensors were there before and are none of the ledger's; indices and the loss are small.
    assert live == pytest.approx(sum(storage.nbytes() for storage in kept.values()), rel=0.02)
    guess = training_activations(config, dtype=torch.float32, device=CPU, checkpointed=False).of(cells=2, tokens=800)
    assert live < guess < 1.1 * live  # the peak adds what is being worked on


@pytest.mark.parametrize("num_layers", [1, 2, 6])
def test_embedding(num_layers: int) -> None:
    config = CellFMConfig(num_layers, dim=96, num_heads=3, num_genes=GENES)
    guess = embedding_activations(config, dtype=torch.float32, device=CPU).of(cells=3, tokens=900)
    network, batch = CellFM(config).eval(), batch_of(config, [200, 300, 400])
    with torch.no_grad(), Ledger() as ledger:
        network.encode(batch)
    assert guess == pytest.approx(ledger.peak, rel=CLOSE)
    assert isinstance(network, nn.Module)
