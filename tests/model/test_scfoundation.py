"""scFoundation: what a cell's numbers may depend on, how it is trained, saved and refused.

Shapes: B cells, N genes of all cells together, G genes of the vocabulary.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from scfoundation_cells import LENGTHS, cells_of, network_of
from synthetic import GENES, take
from torch import Tensor

from cellfm_torch import CellBatch, CellFM, CellFMConfig, ScFoundation, ScFoundationConfig, UserError, load_model
from cellfm_torch.model.scfoundation import decoding
from cellfm_torch.model.scfoundation import embedder as embedder_file
from cellfm_torch.model.scfoundation import encoder as encoder_file
from cellfm_torch.ops import attention as attention_file

BY_GENE = ("genes", "by_gene", "ids")
# The project's bar: float32 products of small and large matrices take other paths; float64 shows it is no more.
INDEPENDENT = {torch.float32: 1e-5, torch.float64: 1e-12}


def outputs(network: ScFoundation, batch: CellBatch) -> dict[str, Tensor]:
    prediction = network(batch)
    encoding = prediction.encoding
    by_cell = {"cell": encoding.cell, "prefix": encoding.prefix, "expression": prediction.expression}
    by_cell["gene_embeddings"] = network.gene_embeddings(batch)
    return by_cell | {"genes": encoding.genes, "by_gene": prediction.by_gene, "ids": encoding.gene_embedding}


@pytest.fixture(autouse=True)
def nan_in_fresh_memory() -> Iterator[None]:
    """Fill torch.empty with NaN, so that a row that nobody wrote is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("at_once", [1, 2**16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_a_cell_depends_on_itself_alone(dtype: torch.dtype, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, batch = network_of(dtype=dtype), cells_of()
    whole = outputs(network, batch)
    assert all(x.isfinite().all() for x in whole.values())
    monkeypatch.setattr(decoding, "DECODED_AT_ONCE", at_once)
    monkeypatch.setattr(encoder_file, "BLOCK", at_once)
    generator = torch.Generator().manual_seed(5)
    orders = [torch.randperm(n, generator=generator) for n in LENGTHS]
    straight = [torch.arange(n) for n in LENGTHS]
    groupings = [([c], straight) for c in range(len(LENGTHS))]
    groupings += [([6, 2, 0, 1, 5, 4, 3], straight), (list(range(7)), orders), ([6, 6, 1], orders)]
    for cells, order in groupings:
        part, rows = take(batch, cells, [order[c] for c in cells])
        for name, found in outputs(network, part).items():
            expected = whole[name][rows if name in BY_GENE else cells]
            assert (found - expected).abs().max() < INDEPENDENT[dtype], (cells, name)


def test_gradients_do_not_depend_on_the_grouping() -> None:
    network, batch = network_of(), cells_of([40, 60, 7])

    def gradient(parts: list[list[int]]) -> dict[str, Tensor]:
        network.zero_grad()
        for cells in parts:
            prediction = network(take(batch, cells)[0])
            (prediction.expression.square().sum() + prediction.encoding.cell.sum()).backward()
        return {name: p.grad.clone() for name, p in network.named_parameters()}

    whole, apart = gradient([[0, 1, 2]]), gradient([[2], [1, 0]])
    for name, g in whole.items():
        # float64 rounding of sums over hundreds of terms; keys' biases cancel in the softmax: their gradient is noise.
        assert float((g - apart[name]).norm()) < 1e-10 * max(float(g.norm()), 1e-3), name


def test_every_parameter_learns_from_hidden_values() -> None:
    network, batch = network_of(), cells_of()
    network.train()
    network(batch, targets_only=True).by_gene.square().sum().backward()
    for name, p in network.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), name


@torch.no_grad()
def test_what_is_read_and_what_is_not() -> None:
    network, batch = network_of(), cells_of()
    before = network(batch)
    # Values where hidden, and genes listed with value 0 instead of left out.
    other = dataclasses.replace(batch, values=torch.where(batch.hidden, 7.0, batch.values))
    listed = (batch.values != 0) | batch.hidden
    assert torch.equal(network(other).expression, before.expression) and not listed.all()
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), listed.cumsum(0)])[batch.offsets]
    names = ("gene_ids", "values", "hidden", "target", "target_values")
    left = dataclasses.replace(batch, offsets=offsets, **{name: getattr(batch, name)[listed] for name in names})
    assert (network(left).expression - before.expression).abs().max() < 1e-12
    # Everything else counts: values, S and T, which values are hidden.
    for name, value in {
        "values": batch.values * 1.1,
        "read_depth": batch.read_depth * torch.tensor([2.0, 1.0]),
        "hidden": torch.zeros_like(batch.hidden),
    }.items():
        changed = dataclasses.replace(batch, **{name: value.nan_to_num(1.0) if name == "hidden" else value})
        changed = dataclasses.replace(changed, values=changed.values.nan_to_num(1.0))
        assert (network(changed).expression - before.expression).abs().max() > 1e-3, name
    swapped = dataclasses.replace(batch, read_depth=batch.read_depth.flip(1))
    assert (network.encode(swapped).cell - before.encoding.cell).abs().max() > 1e-3


@torch.no_grad()
def test_targets_only_and_pools() -> None:
    network, batch = network_of(), cells_of()
    every, some = network(batch), network(batch, targets_only=True)
    assert some.rows is not None and torch.equal(some.by_gene, every.by_gene[some.rows])
    assert torch.equal(some.rows, batch.target.nonzero()[:, 0])
    encoding, visible = every.encoding, ~batch.hidden & (batch.values > 0)
    maximum = network_of(pool="max").encode(batch).cell
    assert encoding.cell.shape == (7, network.cell_dim) and network.cell_dim == 4 * 32
    for cell in range(7):
        genes = encoding.genes[visible & (batch.cell_of_gene == cell)]
        parts = [encoding.prefix[cell].flatten(), genes.amax(0), genes.mean(0)]
        assert (encoding.cell[cell] - torch.cat(parts)).abs().max() < 1e-14
        assert torch.equal(maximum[cell], torch.cat([genes, encoding.prefix[cell]]).amax(0))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("pool", ["all", "max"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_embedder_is_encode(dtype: torch.dtype, pool: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, batch, before = network_of(dtype=dtype, pool=pool), cells_of(), torch.get_num_threads()
    monkeypatch.setattr(embedder_file, "BLOCK", 50)
    monkeypatch.setattr(attention_file, "QUERIES", 30)
    expected = network.encode(batch).cell.detach()
    torch.set_num_threads(threads)
    try:
        embed = network.train().embedder()  # dropout would be seen
        found = embed(batch)
        assert network.training and not found.requires_grad
        assert (found - expected).abs().max() < INDEPENDENT[dtype]
        with torch.no_grad():
            network.encoder.layers[0].ff1.weight.mul_(1.5)
        assert (embed(batch) - found).abs().max() > 1e-3  # changed weights are seen
        assert (embed(batch) - network.eval().encode(batch).cell).abs().max() < INDEPENDENT[dtype]
        assert embed(cells_of([])).shape == (0, network.cell_dim)
    finally:
        torch.set_num_threads(before)
    with pytest.raises(UserError, match="8-bit"):
        network.embedder(int8=True)


@torch.no_grad()
def test_empty_cells_are_told_of_and_finite() -> None:
    network, batch = network_of(), cells_of([30, 0, 20, 0])
    batch = dataclasses.replace(batch, read_depth=torch.tensor([[3e3, 1e4], [0, 0], [1, 0.5], [0, 1e4]]))
    with pytest.warns(UserWarning, match=r"2 of 4 cells have no visible expressed gene \(in this batch: 1, 3\)"):
        prediction = network(batch)
    assert prediction.expression.isfinite().all() and prediction.encoding.cell.isfinite().all()
    assert not prediction.encoding.cell[[1, 3], 64:].any() and prediction.encoding.cell[[1, 3], :64].all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert network(cells_of([])).expression.shape == (0, GENES)
        assert network.gene_embeddings(cells_of([])).shape == (0, GENES, 16)


def test_redrawing_never_breaks_a_backward_pass() -> None:
    network, batch = network_of(redraw_every=1, dropout=0.0), cells_of([40, 20])
    network.train()
    states, losses = [], []
    for _ in range(3):  # the second and the third draw anew before the first has gone backwards
        losses.append(network(batch).expression.square().sum())
        states.append({name: x.clone() for name, x in network.state_dict().items()})
    assert len({float(loss.detach()) for loss in losses}) == 3
    sum(losses).backward()
    together = {name: p.grad for name, p in network.named_parameters()}
    # And each gradient is that of the projections its forward pass was made with.
    apart = network_of(dropout=0.0)
    for state in states:
        apart.load_state_dict(state)
        apart(batch).expression.square().sum().backward()
    for name, p in apart.named_parameters():
        # float64 rounding; keys' biases cancel in the softmax, so that their gradient is rounding alone.
        assert (p.grad - together[name]).norm() <= 1e-10 * max(float(p.grad.norm()), 1e-3), name


def test_projections_change_in_training_only() -> None:
    network, batch = network_of(redraw_every=3), cells_of([10])
    projection = network.decoder.layers[1].attention.projection

    def changes(calls: int) -> list[bool]:
        found = []
        for _ in range(calls):
            before = projection.clone()
            network(batch)
            found.append(not torch.equal(before, projection))
        return found

    with torch.no_grad():
        assert changes(5) == [False] * 5 and int(network.decoder.calls_since_redraw) == 0
        network.train()
        assert changes(7) == [False, False, False, True, False, False, True]
        network.decoder.redraw_every = 0
        assert not any(changes(4))


def test_folder_round_trip(tmp_path: Path) -> None:
    network = network_of(dtype=torch.float32, redraw_every=5)
    network.train()(cells_of([10]))
    network.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert isinstance(again, ScFoundation) and again.config == network.config and again.genes == network.genes
    state = network.state_dict()
    assert state.keys() == again.state_dict().keys()
    assert all(torch.equal(x, state[name]) and x.dtype == state[name].dtype for name, x in again.state_dict().items())
    assert int(again.decoder.calls_since_redraw) == 1
    assert ScFoundation.from_pretrained(tmp_path, pool="max", dtype=torch.float64).cell_dim == 32
    half = load_model(tmp_path, dtype=torch.bfloat16)
    assert half.gene_emb.weight.dtype == torch.bfloat16 and half.decoder.calls_since_redraw.dtype == torch.int64


def test_load_model_takes_what_config_json_names(tmp_path: Path) -> None:
    CellFM(CellFMConfig(num_layers=1, dim=32, num_heads=1, num_genes=2), genes=["A", "B"]).save_pretrained(tmp_path)
    assert isinstance(load_model(tmp_path), CellFM)
    with pytest.raises(UserError, match="describes a CellFM, not a ScFoundation"):
        ScFoundation.from_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model": "ScFundation"}))
    with pytest.raises(UserError, match="did you mean 'ScFoundation'"):
        load_model(tmp_path)
    config.write_text("[]")
    with pytest.raises(UserError, match="is not the configuration of a model"):
        load_model(tmp_path)
    config.unlink()
    with pytest.raises(UserError, match="is not a model folder: it has no config.json"):
        load_model(tmp_path)


def test_refusals() -> None:
    network, batch = network_of(), cells_of([5])
    with pytest.raises(UserError, match="reads the total counts"):
        network.encode(dataclasses.replace(batch, read_depth=None))
    for ids in (batch.gene_ids + GENES, batch.gene_ids - GENES):  # T's and S's rows are no genes
        with pytest.raises(ValueError, match=f"rows 0 to {GENES - 1}"):
            network.encode(dataclasses.replace(batch, gene_ids=ids))
    with pytest.raises(ValueError, match="2 gene symbols"):
        ScFoundation(network.config, genes=["A", "B"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_genes": 0}, "num_genes=0: must be a whole number, 1 to 16,777,216"),
        ({"encoder_dim": 30, "encoder_heads": 4}, "not a multiple"),
        ({"decoder_head_dim": 1}, "decoder_head_dim=1"),
        ({"redraw_every": -1}, "redraw_every=-1"),
        ({"dropout": 1.0}, r"dropout=1.0: must be a number in \[0, 1\)"),
        ({"bin_alpha": float("inf")}, "bin_alpha=inf"),
        ({"pool": "mean"}, "choose all or max"),
    ],
)
def test_config_refuses(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        ScFoundationConfig.preset("scfoundation", **changes)


def test_published_size() -> None:
    with pytest.raises(UserError, match="did you mean 'scfoundation'"):
        ScFoundationConfig.preset("scfoundaton")
    with torch.device("meta"):
        network = ScFoundation(ScFoundationConfig.preset("scfoundation"))
    # Measured on the official network; its 265 tensors hold the padding vector as a parameter, ours as a buffer.
    assert len(network.state_dict()) == 265
    assert sum(p.numel() for p in network.parameters()) == 119_252_285 - 768
    assert sum(x.numel() for x in network.state_dict().values()) == 119_252_285 + 102_145
    assert network.cell_dim == 3072 and len(network.input_spec.genes) == 19_264
    assert (network.input_spec.genes[0], network.input_spec.genes[-1]) == ("A1BG", "ZZZ3")
