"""Layers and heads against direct written-out versions, and how they start."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from cellfm_torch import CellFMConfig
from cellfm_torch.model.heads import CellDecoder, GeneDecoder, ScalarEncoder
from cellfm_torch.model.layers import GatedLinearUnit, Retention, RetentionLayer, linear
from cellfm_torch.ops.gate import srms_norm

CONFIG = CellFMConfig(num_layers=6, dim=256, num_heads=8, num_genes=40)
OFFSETS = torch.tensor([0, 7, 7, 8, 20])


def leaky(x: Tensor) -> Tensor:
    return torch.where(x >= 0, x, 0.2 * x)


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-7).sqrt() * norm.weight + norm.bias


def direct_retention(layer: Retention, x: Tensor, keep: Tensor | None) -> Tensor:
    """ERETNET.md's lines one by one: cell by cell, head by head, with its scale factors where it has them."""
    width = x.shape[1] // layer.num_heads
    cells = []
    for rows in x.split(OFFSETS.diff().tolist()):
        start = sum(len(cell) for cell in cells)
        q = (rows @ layer.q_proj.weight.T).relu() / math.sqrt(width)
        k = (rows @ layer.k_proj.weight.T).relu() / math.sqrt(width)
        if keep is not None:
            k = k * keep[start : start + len(rows)]
        v = rows @ layer.v_proj.weight.T / math.sqrt(max(1, len(rows) - 1))  # but for the cls token
        u = rows @ layer.u_proj.weight.T
        u = u * u.sigmoid()
        heads = []
        for h in range(layer.num_heads):
            part = slice(h * width, (h + 1) * width)
            o = q[:, part] @ (k[:, part].T @ v[:, part])
            size = (o.square().sum(-1, keepdim=True) / width).sqrt()
            heads.append(o / size.clamp(min=1e-12) * u[:, part])
        cells.append(torch.cat(heads, 1) @ layer.o_proj.weight.T)
    return torch.cat(cells)


@pytest.mark.parametrize("masked", [False, True])
def test_layer_is_what_the_paper_says(masked: bool) -> None:
    torch.manual_seed(0)
    layer = RetentionLayer(CONFIG, index=3).double().eval()
    for norm in (layer.norm1, layer.norm2):
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x = torch.randn(20, 256, dtype=torch.float64)
    keep = (torch.rand(20, 1) < 0.7).double() if masked else None
    alpha, glu = 12**0.25, layer.glu
    expected = layer_norm(alpha * x + direct_retention(layer.retention, x, keep), layer.norm1)
    gated = (expected @ glu.u_proj.weight.T) * (expected @ glu.v_proj.weight.T) @ glu.o_proj.weight.T
    expected = layer_norm(alpha * expected + gated, layer.norm2)
    ours = layer(x, offsets=OFFSETS, keep=keep)
    # float64 rounding (2.2e-16) through about ten sums of 256 terms; outputs are of magnitude 1.
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_dropped_tokens_still_read() -> None:
    torch.manual_seed(0)
    layer = Retention(CONFIG).double()
    x = torch.randn(20, 256, dtype=torch.float64)
    keep = torch.ones(20, 1, dtype=torch.float64)
    keep[3] = 0
    before = layer(x, offsets=OFFSETS, keep=keep)
    assert before[3].abs().max() > 0.01
    x[3] = 100 * torch.randn(256, dtype=torch.float64)
    after = layer(x, offsets=OFFSETS, keep=keep)
    others = torch.arange(20) != 3
    assert torch.equal(before[others], after[others])  # times zero: nothing at all may pass


def test_srms_norm_has_unit_rows_and_no_nan_at_zero() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 4, 32, dtype=torch.float64)
    x[2] = 0
    x.requires_grad_()
    y = srms_norm(x)
    rms = y.detach().square().mean(-1).sqrt()
    assert not y[2].any()
    torch.testing.assert_close(
        rms[[0, 1, 3, 4]], torch.ones(4, 4, dtype=torch.float64), rtol=0, atol=1e-14
    )  # a division
    assert torch.equal(srms_norm(x * 2.0**40), y)  # powers of two do not round
    y.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    # The output does not depend on the scale, so the gradient is at right angles to the row.
    assert float((x.grad * x).detach().sum(-1).abs().max()) < 1e-13


def test_srms_norm_gradient() -> None:
    x = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(srms_norm, x)


def test_gradients_stay_finite_where_a_head_reads_nothing() -> None:
    """Zero over the floor 1e-12: a factor of 1e12 in the gradient must meet an exact zero, not rounding."""
    torch.manual_seed(0)
    layer = Retention(CONFIG)
    with torch.no_grad():
        layer.q_proj.weight[:32] = -layer.k_proj.weight[:32]  # head 0 of a one-token cell: relu(q) relu(k) = 0
    x = torch.randn(20, 256, requires_grad=True)
    layer(x, offsets=OFFSETS).square().sum().backward()
    for name, p in layer.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
        # 7 seen; one float32 rounding (1e-7) let through a factor of 1e12 would be above 1e4.
        assert float(p.grad.abs().max()) < 100, name
    assert x.grad is not None and x.grad.isfinite().all()


def test_value_path_starts_with_the_gain_of_deepnorm() -> None:
    torch.manual_seed(0)
    layer = RetentionLayer(CONFIG, index=0)
    xavier, beta = math.sqrt(2 / (256 + 256)), 48**-0.25
    gains = {name: float(p.detach().std()) / xavier for name, p in layer.named_parameters() if p.ndim == 2}
    expected = {f"retention.{x}_proj.weight": 1.0 if x in "qk" else beta for x in "qkvuo"}
    expected |= {f"glu.{x}_proj.weight": beta for x in "uvo"}
    assert gains.keys() == expected.keys()
    for name, gain in gains.items():
        # The standard deviation of 65,536 draws is known to 1 / sqrt(2 * 65536) = 0.3 %; five times that.
        assert abs(gain / expected[name] - 1) < 0.015, name
    for norm in (layer.norm1, layer.norm2):
        assert norm.eps == 1e-7 and (norm.weight == 1).all() and (norm.bias == 0).all()


def test_dropout_grows_with_depth() -> None:
    config = CellFMConfig(num_layers=4, dim=32, num_heads=1, num_genes=8, dropout=0.2)
    layers = [RetentionLayer(config, index=i) for i in range(4)]
    assert [layer.dropout.p for layer in layers] == pytest.approx([0.0, 0.05, 0.1, 0.15])
    x, offsets = torch.randn(50, 32), torch.tensor([0, 50])
    first, last = layers[0].train(), layers[3].train()
    assert torch.equal(first(x, offsets=offsets), first(x, offsets=offsets))
    assert not torch.equal(last(x, offsets=offsets), last(x, offsets=offsets))
    last.eval()
    assert torch.equal(last(x, offsets=offsets), last(x, offsets=offsets))


def test_dropout_is_on_the_branches_not_on_the_residual() -> None:
    torch.manual_seed(0)
    layer = RetentionLayer(CellFMConfig(num_layers=2, dim=32, num_heads=1, num_genes=8), index=1).train()
    layer.dropout.p = 1.0  # no branch survives: only alpha x is left, which the norm divides out
    x = torch.randn(6, 32)
    expected = layer.norm2(layer.norm1(x))
    # alpha x against x: the norm's epsilon of 1e-7 against a variance of 1, and float32 rounding.
    torch.testing.assert_close(layer(x, offsets=torch.tensor([0, 6])), expected, rtol=0, atol=2e-6)


def test_glu_has_no_activation() -> None:
    glu = GatedLinearUnit(CONFIG)
    x = torch.randn(3, 256)
    torch.testing.assert_close(glu(-2 * x), 4 * glu(x))  # quadratic; default tolerance of float32


def test_scalar_encoder_equals_the_direct_form() -> None:
    torch.manual_seed(0)
    encoder = ScalarEncoder(24).double()
    nn.init.constant_(encoder.a, 0.37)  # starts at zero, which would hide its term
    nn.init.normal_(encoder.w3.weight, std=0.3)
    x = torch.cat([torch.randn(200, dtype=torch.float64) * 4, torch.tensor([0.0, -0.0, 1e-30, -1e-30, 9.2, -9.2])])
    h = leaky(x[:, None] @ encoder.w1.weight.T)
    z = h @ encoder.w3.weight.T + encoder.a * h
    weights = (z - z.max(-1, keepdim=True).values).exp()
    expected = weights / weights.sum(-1, keepdim=True) @ encoder.table.weight.T
    # float64 rounding of logits up to 1e2, which softmax passes on: 1e2 * 2.2e-16, with room for sums of 256.
    torch.testing.assert_close(encoder(x), expected, rtol=0, atol=1e-12)
    assert encoder(x.view(2, -1)).shape == (2, 103, 24)
    zero = encoder(torch.zeros(1, dtype=torch.float64))[0]
    torch.testing.assert_close(zero, encoder.table.weight.mean(1), rtol=0, atol=1e-14)  # all 256 alike


def test_scalar_encoder_gradients_equal_the_direct_form() -> None:
    torch.manual_seed(0)
    encoder = ScalarEncoder(8).double()
    nn.init.constant_(encoder.a, 0.37)
    x = torch.tensor([0.3, 5.0, -2.0, 0.0], dtype=torch.float64)
    weight = torch.randn(4, 8, dtype=torch.float64)
    ours = torch.autograd.grad((encoder(x) * weight).sum(), list(encoder.parameters()))
    h = leaky(x[:, None] * encoder.w1.weight[:, 0])
    direct = (h @ encoder.w3.weight.T + encoder.a * h).softmax(-1) @ encoder.table.weight.T
    theirs = torch.autograd.grad((direct * weight).sum(), list(encoder.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)  # float64 rounding, values below 10


@pytest.mark.parametrize("zeros", [False, True])
def test_decoders_equal_the_direct_form(zeros: bool) -> None:
    torch.manual_seed(0)
    gene, cell = GeneDecoder(16, zeros=zeros).double(), CellDecoder(16, zeros=zeros).double()
    for p in [*gene.parameters(), *cell.parameters()]:
        nn.init.normal_(p, std=0.3)  # biases start at zero, which would hide them
    x, cls = torch.randn(9, 16, dtype=torch.float64), torch.randn(9, 16, dtype=torch.float64)
    value, expressed = gene(x)
    by_cell, expressed_by_cell = cell(x, cls)
    close = {"rtol": 0, "atol": 1e-13}  # float64 rounding, sums of 16 terms near 1
    torch.testing.assert_close(value, (leaky(x @ gene.w1.weight.T) @ gene.w2.weight.T)[:, 0], **close)
    torch.testing.assert_close(by_cell, (torch.sigmoid(x @ cell.map.weight.T) * cls).sum(1), **close)
    if not zeros:
        assert expressed is None and expressed_by_cell is None
        return
    y = x
    for i in (0, 2, 4):
        dense = gene.expressed[i]
        y = y @ dense.weight.T + dense.bias
        y = leaky(y) if i < 4 else y.sigmoid()[:, :1]
    torch.testing.assert_close(expressed, y[:, 0], **close)
    logit = ((x @ cell.expressed.weight.T + cell.expressed.bias) * cls).sum(1)
    torch.testing.assert_close(expressed_by_cell, logit.sigmoid(), **close)


def test_probabilities_keep_a_gradient_in_bfloat16() -> None:
    """Above 0.998 bfloat16 has only 1 left: 1 - p would be 0, its logarithm clamped, the gradient gone."""
    decoder = CellDecoder(16, zeros=True).bfloat16()
    nn.init.zeros_(decoder.expressed.weight), nn.init.ones_(decoder.expressed.bias)
    _, p = decoder(torch.zeros(1, 16, dtype=torch.bfloat16), torch.full((1, 16), 0.5, dtype=torch.bfloat16))
    (1 - p).log().sum().backward()
    # logit 8: log(1 - p) = -8, its slope -p; eight bits of bfloat16 in the gradient.
    assert float((1 - p).log().detach()) == pytest.approx(-8, abs=1e-2)
    assert float(decoder.expressed.bias.grad.float().sum()) == pytest.approx(-8, rel=1e-2)


def test_linear_biases_start_at_zero() -> None:
    layer = linear(3, 4, bias=True)
    assert not layer.bias.any() and layer.weight.any()
    assert linear(3, 4).bias is None
