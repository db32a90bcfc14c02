"""What a cell's numbers may depend on, and what they may not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch
from synthetic import GENES, batch_of, network_of, take
from torch import Tensor, nn

from cellfm_torch import CellFM, CellFMConfig, Prediction, pretraining_loss

# The project's bar. float32 products of small and large matrices take other paths; 2e-6 and 5e-15
# seen here, at outputs of magnitude 1.
INDEPENDENT = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.fixture(autouse=True)
def nan_in_fresh_memory() -> Iterator[None]:
    """Fill torch.empty with NaN, so that a weight or a row that nobody wrote is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def outputs(prediction: Prediction) -> dict[str, Tensor]:
    """Return everything that comes by gene."""
    names = ("by_gene", "by_cell", "expressed_by_gene", "expressed_by_cell")
    found = {name: getattr(prediction, name) for name in names if getattr(prediction, name) is not None}
    return found | {"genes": prediction.encoding.genes, "gene_embedding": prediction.encoding.gene_embedding}


def differences(ours: Prediction, whole: Prediction, cells: list[int], rows: Tensor) -> dict[str, float]:
    """Largest difference of each output between a selection of cells and the same cells of the whole."""
    a, b = outputs(ours), outputs(whole)
    assert a.keys() == b.keys()
    worst = {name: float((a[name] - b[name][rows]).abs().max()) if len(rows) else 0.0 for name in a}
    for name in ("cell", "prefix"):
        worst[name] = float((getattr(ours.encoding, name) - getattr(whole.encoding, name)[cells]).abs().max())
    return worst


@pytest.mark.parametrize("variant", ["plain", "read_depth", "zeros"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_a_cell_depends_on_itself_alone(dtype: torch.dtype, variant: str) -> None:
    network = network_of(dtype=dtype, read_depth=variant == "read_depth", zeros=variant == "zeros")
    lengths = [90, 1, 0, 150, 2, 33, 200, 64]
    batch = batch_of(lengths, read_depth=variant == "read_depth", zeros=variant == "zeros")
    whole = network(batch)
    assert all(x.isfinite().all() for x in outputs(whole).values())
    generator = torch.Generator().manual_seed(5)
    orders = [torch.randperm(n, generator=generator) for n in lengths]
    every, straight = list(range(8)), [torch.arange(n) for n in lengths]
    groupings: list[tuple[list[int], list[Tensor]]] = [([c], straight) for c in every]  # each alone
    groupings += [([7, 2, 0, 6, 1, 5, 4, 3], straight), (every, orders), ([3, 0], straight), ([6, 6, 1], orders)]
    for cells, order in groupings:
        part, rows = take(batch, cells, [order[c] for c in cells])
        worst = differences(network(part), whole, cells, rows)
        assert all(x < INDEPENDENT[dtype] for x in worst.values()), (cells, worst)


def test_gradients_do_not_depend_on_the_grouping() -> None:
    network = network_of(dtype=torch.float64)
    batch = batch_of([40, 0, 60, 7])

    def gradient(parts: list[list[int]]) -> dict[str, Tensor]:
        network.zero_grad()
        for cells in parts:
            network(take(batch, cells)[0]).by_gene.square().sum().backward()
        return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    whole, apart = gradient([[0, 1, 2, 3]]), gradient([[3], [1, 0], [2]])
    for name, g in whole.items():
        # float64 rounding of sums over a hundred tokens, relative to the gradient's own size.
        assert float((g - apart[name]).norm() / g.norm()) < 1e-12, name


def test_hidden_values_are_never_read() -> None:
    network = network_of()
    batch = batch_of([50, 70])
    assert batch.values[batch.hidden].isnan().all() and batch.hidden.any()
    results = []
    for planted in (float("nan"), float("inf"), -1e30, 0.0):
        values = batch.values.masked_fill(batch.hidden, planted).requires_grad_()
        network.zero_grad()
        prediction = network(dataclasses.replace(batch, values=values))
        pretraining_loss(prediction, batch).backward()
        assert values.grad is not None and not values.grad[batch.hidden].any()
        assert values.grad[~batch.hidden].all() and values.grad.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
        results.append(prediction.by_gene.detach())
    assert all(torch.equal(x, results[0]) for x in results)


@torch.no_grad()
def test_values_and_ids_are_read_where_they_are_visible() -> None:
    network = network_of()
    batch = batch_of([50])
    visible = int((~batch.hidden).nonzero()[0])
    before = network(batch)
    for name, change in (("values", 1.0), ("gene_ids", 1)):
        x = getattr(batch, name).clone()
        x[visible] = x[visible] + change if x[visible] < 5 else x[visible] - change
        after = network(dataclasses.replace(batch, **{name: x}))
        assert (after.encoding.cell - before.encoding.cell).abs().max() > 1e-4
        assert (after.by_gene - before.by_gene).abs().max() > 1e-4


@pytest.mark.parametrize("num_layers", [4, 5])
@torch.no_grad()
def test_a_hidden_gene_is_invisible_in_the_first_half(num_layers: int) -> None:
    network = network_of(num_layers=num_layers, read_depth=True)
    batch = batch_of([50, 20], read_depth=True)
    at = int(batch.hidden.nonzero()[3])
    ids = batch.gene_ids.clone()
    ids[at] = ids[at] % GENES + 1
    changed = dataclasses.replace(batch, gene_ids=ids)
    others = torch.arange(70) != at
    layers = network.encoder
    network.encoder = layers[:2]  # num_layers // 2: the config still says how many layers there were
    before, after = network.encode(batch), network.encode(changed)
    assert torch.equal(before.prefix, after.prefix) and torch.equal(before.genes[others], after.genes[others])
    assert not torch.equal(before.genes[at], after.genes[at])  # it reads, and knows its own id
    network.encoder = layers[:3]
    before, after = network.encode(batch), network.encode(changed)
    assert (before.cell[0] - after.cell[0]).abs().max() > 1e-4  # from there on it is seen
    assert torch.equal(before.cell[1], after.cell[1])  # by its own cell


@pytest.mark.parametrize("variant", [{}, {"read_depth": True}, {"zeros": True}, {"read_depth": True, "zeros": True}])
@pytest.mark.parametrize("lengths", [[0], [1], [2], [0, 0], [2, 0, 1], []])
def test_tiny_cells_are_finite(lengths: list[int], variant: dict[str, bool]) -> None:
    """The official code divides by sqrt(genes - 2) in the S, T layout: NaN for a cell of two genes."""
    network = network_of(**variant)
    batch = batch_of(lengths, read_depth=variant.get("read_depth", False))
    for hidden in (torch.zeros_like(batch.hidden), torch.ones_like(batch.hidden), batch.hidden):
        network.zero_grad()
        values = batch.values.nan_to_num(1.0).masked_fill(hidden, float("nan"))
        seen = dataclasses.replace(batch, hidden=hidden, target=hidden, values=values)
        prediction = network(seen)
        assert prediction.encoding.prefix.shape == (len(lengths), 3 if "read_depth" in variant else 1, 64)
        assert all(x.isfinite().all() for x in outputs(prediction).values())
        assert prediction.encoding.prefix.isfinite().all()
        (pretraining_loss(prediction, seen) + prediction.encoding.prefix.square().sum()).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@torch.no_grad()
def test_read_depth_tokens() -> None:
    network = network_of(dtype=torch.float64, read_depth=True)
    batch = batch_of([30, 40], read_depth=True)
    with_depth = network(batch)
    without = network(dataclasses.replace(batch, read_depth=None))
    assert with_depth.encoding.prefix.shape[1] == 3 and without.encoding.prefix.shape[1] == 1
    # Left out is left out: as a network without the tokens.
    plain = network_of(dtype=torch.float64)
    plain.load_state_dict({name: x for name, x in network.state_dict().items() if not name.startswith("depth_")})
    assert torch.equal(plain(batch).by_gene, without.by_gene)
    # S and T are distinct tokens, log1p(depth / 1000) each, and both reach the cell.
    depth = batch.read_depth
    assert depth is not None
    tokens = network._embed_prefix(batch)[:, 1:]
    expected = network.depth_emb + network.depth_enc((depth / 1000 + 1).log())
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-13)  # log1p and log of about 10
    for column in (0, 1):
        other = depth.clone()
        other[0, column] *= 3
        moved = network(dataclasses.replace(batch, read_depth=other)).encoding.cell
        assert (moved[0] - with_depth.encoding.cell[0]).abs().max() > 1e-6
        assert torch.equal(moved[1], with_depth.encoding.cell[1])


@torch.no_grad()
def test_zeros_variant_tells_zero_from_hidden() -> None:
    network = network_of(zeros=True)
    batch = batch_of([40], zeros=True)
    embedded = network._embed_values(batch)
    zero = (batch.values == 0) & ~batch.hidden
    assert zero.any() and batch.hidden.any()
    assert (embedded[zero] == network.zero_emb[0]).all() and (embedded[batch.hidden] == network.mask_emb[0]).all()
    expressed = ~zero & ~batch.hidden
    # One by one or together: float32 rounding at magnitude 0.1.
    torch.testing.assert_close(
        embedded[expressed], network.value_enc(batch.values[expressed].float()), atol=1e-6, rtol=0
    )
    plain = network_of()
    at_zero = plain._embed_values(batch)[zero]
    assert not torch.isclose(at_zero, plain.zero_emb[0]).all()  # without the variant a zero is a value like any other
    prediction = network(batch)
    for p in (prediction.expressed_by_gene, prediction.expressed_by_cell):
        assert p is not None and p.shape == (40,) and (p >= 0).all() and (p <= 1).all()
    assert plain(batch).expressed_by_gene is None and plain(batch).expressed_by_cell is None


def test_zero_emb_is_a_parameter_only_where_it_is_used() -> None:
    for zeros in (False, True):
        network = network_of(zeros=zeros).train()
        assert "zero_emb" in network.state_dict() and ("zero_emb" in dict(network.named_parameters())) == zeros
        batch = batch_of([60, 20], zeros=zeros)
        pretraining_loss(network(batch), batch).backward()
        without = [name for name, p in network.named_parameters() if p.grad is None]
        assert not without  # distributed training refuses parameters without a gradient


def test_ids_out_of_range_raise() -> None:
    network = network_of()
    batch = batch_of([5])
    for wrong in (network.config.num_rows, -1, 10**9):
        ids = batch.gene_ids.clone()
        ids[2] = wrong
        with pytest.raises(IndexError):
            network(dataclasses.replace(batch, gene_ids=ids))


def test_offsets_that_do_not_cover_the_genes_raise() -> None:
    network = network_of()
    batch = batch_of([5, 6])
    for offsets in ([0, 5, 10], [0, 5, 12], [1, 5, 11]):
        with pytest.raises((ValueError, RuntimeError, IndexError)):
            network(dataclasses.replace(batch, offsets=torch.tensor(offsets)))


@pytest.mark.parametrize("variant", [{}, {"read_depth": True, "zeros": True}])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.1), (torch.float16, 0.015)])
def test_half_precision(dtype: torch.dtype, bound: float, variant: dict[str, bool]) -> None:
    batch = batch_of([190, 3, 0, 120], **variant)
    if batch.read_depth is not None:
        batch.read_depth[0] = 250_000.0  # float16 ends at 65,504
    exact = network_of(dtype=torch.float64, **variant)(batch).encoding.cell
    network = network_of(dtype=dtype, **variant)
    prediction = network(batch)
    assert prediction.by_gene.dtype == dtype and prediction.encoding.cell.dtype == dtype
    assert all(x.isfinite().all() for x in outputs(prediction).values())
    # Four layers of weights and activations rounded to 2^-9 (bfloat16) and 2^-12: 6e-2 and 6e-3 seen, at magnitude 0.8.
    assert float((prediction.encoding.cell.double() - exact).abs().max().detach()) < bound
    pretraining_loss(prediction, batch).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@torch.no_grad()
def test_autocast() -> None:
    batch = batch_of([190, 3, 0, 120], read_depth=True)
    network = network_of(read_depth=True)
    exact = network(batch).encoding.cell
    with torch.autocast("cpu", torch.bfloat16):
        prediction = network(batch)
    assert prediction.encoding.cell.dtype == torch.float32  # the residual stream is not rounded
    # Products of four layers in bfloat16, 2^-9 each; 2e-3 seen, at magnitude 0.8.
    assert float((prediction.encoding.cell - exact).abs().max()) < 0.01


def test_float64_is_float64_throughout() -> None:
    network = network_of(dtype=torch.float64)
    batch = batch_of([50])
    assert network(batch).by_gene.dtype == torch.float64
    float32 = network_of()(batch).by_gene
    # Not the same numbers, and no further apart than float32 rounds: 7e-7 seen. (test_layers has the 1e-12.)
    assert 0 < float((network(batch).by_gene - float32).abs().max().detach()) < 1e-5
    double = dataclasses.replace(batch, values=batch.values.float())
    assert network(double).by_gene.dtype == torch.float64  # the model casts the values itself


def test_how_a_network_starts() -> None:
    torch.manual_seed(0)
    config = CellFMConfig(num_layers=2, dim=256, num_heads=8, num_genes=1000, read_depth=True, zeros=True)
    network = CellFM(config)
    assert all(x.isfinite().all() for x in network.state_dict().values())
    table = network.gene_emb.weight.detach()
    assert table.shape == (1008, 256) and not table[0].any() and table[1:].any(1).all()
    # Xavier-normal with gain 0.5; a standard deviation is known to 1 / sqrt(2 n): 0.14 % of n = 258,000, 4.4 % of 256.
    assert float(table[1:].std()) == pytest.approx(0.5 * math.sqrt(2 / (1008 + 256)), rel=0.01)
    for name in ("cls_token", "mask_emb", "zero_emb"):
        assert float(getattr(network, name).detach().std()) == pytest.approx(0.5 * math.sqrt(2 / 257), rel=0.18), name
    assert float(network.depth_emb.detach().std()) == pytest.approx(0.5 * math.sqrt(2 / 258), rel=0.14)
    torch.manual_seed(0)
    again = CellFM(config)
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in network.state_dict().items())


def test_dropout_rates_reach_the_layers() -> None:
    network = CellFM(CellFMConfig(num_layers=4, dim=32, num_heads=1, num_genes=8, dropout=0.1))
    assert [layer.dropout.p for layer in network.encoder] == pytest.approx([0.0, 0.025, 0.05, 0.075])
    assert {m.negative_slope for m in network_of(zeros=True).modules() if isinstance(m, nn.LeakyReLU)} == {0.2}


def test_genes_and_input_spec() -> None:
    config = CellFMConfig(num_layers=1, dim=32, num_heads=1, num_genes=3, max_genes=77, read_depth=True)
    assert CellFM(config).genes is None
    with pytest.raises(ValueError, match="2 gene symbols were given for a model of 3 genes"):
        CellFM(config, genes=["A", "B"])
    network = CellFM(config, genes=["A", "B", "C"])
    spec = network.input_spec
    assert (spec.genes, spec.first_id, spec.max_genes) == (("A", "B", "C"), 1, 77)
    assert spec.read_depth and spec.expressed_only and spec.value_transform == "log1p_cp10k"
    assert not CellFM(dataclasses.replace(config, zeros=True)).input_spec.expressed_only
    assert network.cell_dim == 32


@pytest.mark.parametrize("variant", [{}, {"read_depth": True}, {"zeros": True}])
def test_decoding_the_targets_alone_gives_the_same_loss_and_gradients(variant: dict[str, bool]) -> None:
    network = network_of(dtype=torch.float64, **variant)
    batch = batch_of([40, 0, 60, 7], **variant)
    found = []
    for targets_only in (False, True):
        network.zero_grad()
        prediction = network(batch, targets_only=targets_only)
        loss = pretraining_loss(prediction, batch)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)])
    assert (prediction.rows is None) == ("zeros" in variant)
    assert batch.target is not None and (prediction.rows is None or len(prediction.by_gene) == batch.target.sum())
    for all_genes, targets in zip(*found, strict=True):
        # The loss is summed in float32, here in another order; gradients are of magnitude 1.
        torch.testing.assert_close(targets, all_genes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", [{}, {"read_depth": True, "zeros": True}])
def test_all_modes_give_the_same(variant: dict[str, bool]) -> None:
    network = network_of(**variant)
    batch = batch_of([90, 1, 0, 150, 2], **variant)
    assert network.mode == "chunked"
    with torch.no_grad():
        chunked = network(batch)
        for mode in ("parallel", "recurrent"):
            network.mode = mode
            worst = differences(network(batch), chunked, list(range(5)), torch.arange(batch.num_genes))
            assert all(x < INDEPENDENT[torch.float32] for x in worst.values()), (mode, worst)
    with pytest.raises(ValueError, match="must be one of chunked, parallel, recurrent; got 'fast'"):
        network.mode = "fast"


def test_a_batch_waits_for_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network, batch = network_of(), batch_of([9, 5])
    read: list[Tensor] = []
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: read.append(self) or tolist(self))  # type: ignore[func-returns-value]
    network(batch)
    assert len(read) == 1
