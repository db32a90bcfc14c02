"""Layers that compute forward twice give the same numbers, and keep less."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

from cellfm_torch import CellBatch, CellFM, CellFMConfig, pretraining_loss
from cellfm_torch.errors import UserError
from cellfm_torch.memory.checkpointing import checkpoint_layers
from cellfm_torch.memory.ledger import Ledger

NUM_LAYERS = 4


def network_of() -> CellFM:
    torch.manual_seed(0)
    return CellFM(CellFMConfig(NUM_LAYERS, dim=64, num_heads=2, num_genes=300, dropout=0.5))


def batch_of() -> CellBatch:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.rand(700, generator=generator) < 0.2
    return CellBatch(
        gene_ids=torch.randint(1, 301, (700,), generator=generator),
        values=torch.rand(700, generator=generator),
        hidden=hidden,
        offsets=torch.tensor([0, 200, 450, 700]),
        cell_index=torch.arange(3),
        target=hidden,
        target_values=torch.rand(700, generator=generator),
    )


def step(network: CellFM) -> tuple[Tensor, dict[str, Tensor], Tensor, int]:
    """Loss, gradients, the random number drawn next, bytes kept for the backward pass."""
    torch.manual_seed(2)
    network.zero_grad()
    with Ledger() as ledger:
        loss = pretraining_loss(network(batch_of()), batch_of())
        kept = ledger.live
    loss.backward()
    grads = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return loss.detach(), grads, torch.rand(1), kept


@pytest.mark.parametrize("policy", ["all", 1, 2, 3, 99])
def test_same_numbers_with_dropout(policy: int | str) -> None:
    network = network_of()
    names = list(network.state_dict())
    loss, grads, drawn, _ = step(network)
    number = checkpoint_layers(network.encoder, policy)
    assert number == {"all": NUM_LAYERS, 99: NUM_LAYERS}.get(policy, policy)
    loss2, grads2, drawn2, _ = step(network)
    assert torch.equal(loss, loss2) and torch.equal(drawn, drawn2)
    assert len(grads) == len(list(network.parameters()))
    for name, grad in grads.items():
        assert torch.equal(grad, grads2[name]), name
    assert list(network.state_dict()) == names == list(network_of().state_dict())


def test_kept_bytes_fall_by_what_a_layer_keeps() -> None:
    network = network_of()
    kept = []
    for number in range(NUM_LAYERS + 1):
        checkpoint_layers(network.encoder, number)
        kept.append(step(network)[3])
    tokens = 700 + 3
    falls = [before - after for before, after in zip(kept, kept[1:], strict=False)]
    # A layer keeps the inputs of eight projections at least, and then its own input only.
    assert min(falls) > 8 * tokens * 64 * 4 * 0.9, falls
    # Layers differ: the first has no dropout, the first half drops masked genes from the state.
    assert max(falls) < 1.25 * min(falls), falls
    assert kept[-1] < 0.35 * kept[0]


def test_undone() -> None:
    network = network_of()
    before = step(network)[3]
    checkpoint_layers(network.encoder, "all")
    checkpoint_layers(network.encoder, "all")  # not twice around the same layer
    assert checkpoint_layers(network.encoder, 1) == 1
    assert ["forward" in vars(layer) for layer in network.encoder] == [True, False, False, False]
    checkpoint_layers(network.encoder, "none")
    assert not any("forward" in vars(layer) for layer in network.encoder)
    assert step(network)[3] == before


def test_a_forward_of_somebody_else_survives() -> None:
    network = network_of()
    layer = network.encoder[0]
    calls = []

    def forward(*inputs: Tensor, **options: Tensor) -> Tensor:
        calls.append(1)
        return type(layer).forward(layer, *inputs, **options)

    layer.forward = forward
    checkpoint_layers(network.encoder, "none")
    assert layer.forward is forward
    checkpoint_layers(network.encoder, "all")
    step(network)
    assert len(calls) == 2  # forward, and once more for the backward pass
    checkpoint_layers(network.encoder, "none")
    assert layer.forward is forward


def test_copies_run_their_own_layers() -> None:
    network = network_of()
    checkpoint_layers(network.encoder, "all")
    expected = step(network)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):  # pickle: as a spawned process gets it
        with torch.no_grad():
            for p in network.parameters():
                p.mul_(0.5)
        assert torch.equal(step(twin)[0], expected[0])
        with torch.no_grad():
            for p in network.parameters():
                p.mul_(2)


def test_no_second_pass_without_gradients() -> None:
    network = network_of().eval()
    checkpoint_layers(network.encoder, "all")
    with torch.no_grad():
        checkpointed = network(batch_of()).by_gene
    checkpoint_layers(network.encoder, "none")
    with torch.no_grad():
        assert torch.equal(checkpointed, network(batch_of()).by_gene)


@pytest.mark.parametrize("policy", ["every", -1, 1.5, True, None])
def test_refused(policy: object) -> None:
    with pytest.raises(UserError, match="policy"):
        checkpoint_layers(network_of().encoder, policy)  # type: ignore[arg-type]


def test_auto_needs_a_trainer() -> None:
    with pytest.raises(UserError, match="Trainer"):
        checkpoint_layers(network_of().encoder, "auto")
