"""MindSpore's Adam, which weights decay, the schedule, clipping."""

from __future__ import annotations

import copy
import functools
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cellfm_torch import CellFM, CellFMConfig
from cellfm_torch.errors import UserError
from cellfm_torch.optim import MindSporeAdam, Recipe, clip_each, decay_groups, warmup_cosine

Array = NDArray[np.float64]


def adam_by_hand(
    w: Array, grads: list[Array], lrs: list[float], *, b1: float, b2: float, eps: float, l2: float
) -> Array:
    """ERETNET.md: w -= lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps), L2 in the gradient."""
    w, m, v = w.copy(), np.zeros_like(w), np.zeros_like(w)
    for t, (g, lr) in enumerate(zip(grads, lrs, strict=True), 1):
        g = g + l2 * w
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        w = w - lr * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)
    return w


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("eps", [1e-8, 0.1])
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_adam_is_mindspores(eps: float, l2: float, fused: bool) -> None:
    rng = np.random.default_rng(0)
    starts = [rng.normal(size=shape) for shape in ((3, 4), (5,), (1, 1))]
    # Gradients from 1e-9 to 1: where sqrt(v) is near eps the place of eps decides.
    grads = [[rng.normal(size=w.shape) * 10.0 ** rng.integers(-9, 1, w.shape) for _ in range(7)] for w in starts]
    lrs = [0.1 / (t + 1) for t in range(7)]
    weights = [nn.Parameter(torch.tensor(w)) for w in starts]
    optimizer = MindSporeAdam(weights, lr=1.0, betas=(0.9, 0.95), eps=eps, weight_decay=l2, fused=fused)
    for t in range(7):
        optimizer.param_groups[0]["lr"] = lrs[t]
        for w, g in zip(weights, grads, strict=True):
            w.grad = torch.tensor(g[t])
        optimizer.step()
        for w, g in zip(weights, grads, strict=True):
            assert torch.equal(w.grad, torch.tensor(g[t]))  # the decay is not left behind in the gradient
    for w, start, g in zip(weights, starts, grads, strict=True):
        expected = adam_by_hand(start, g, lrs, b1=0.9, b2=0.95, eps=eps, l2=l2)
        # float64 rounding of seven steps on weights of magnitude 1.
        np.testing.assert_allclose(w.detach().numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fused", [True, False])
def test_adam_takes_gradients_of_any_layout(fused: bool) -> None:
    rows = torch.arange(12, dtype=torch.float64).reshape(3, 4) - 5.5
    gradients = [rows, rows.t().contiguous().t(), rows[:, :1].expand(3, 4)]
    starts = [torch.ones(3, 4, dtype=torch.float64), torch.ones(4, 3, dtype=torch.float64).t()]
    for grad in gradients:
        for start in starts:
            w = nn.Parameter(start.clone())
            w.grad = grad
            MindSporeAdam([w], lr=0.1, fused=fused).step()
            expected = adam_by_hand(start.numpy(), [grad.numpy()], [0.1], b1=0.9, b2=0.95, eps=1e-8, l2=0.0)
            np.testing.assert_allclose(w.detach().numpy(), expected, rtol=0, atol=1e-14)  # float64 rounding


def test_adam_groups_what_one_kernel_can_take() -> None:
    weights = [nn.Parameter(torch.ones(3, dtype=dtype)) for dtype in (torch.float32, torch.float64)]
    for w in weights:
        w.grad = torch.full_like(w, 2.0)
    MindSporeAdam(weights, lr=0.5).step()
    for w in weights:
        assert w.detach().tolist() == pytest.approx([0.5] * 3, abs=1e-6)  # first step: lr, float32


def test_states_of_before_the_fused_step_still_load() -> None:
    w = nn.Parameter(torch.ones(2))
    old = MindSporeAdam([w]).state_dict()
    for group in old["param_groups"]:
        del group["fused"]
    optimizer = MindSporeAdam([w])
    optimizer.load_state_dict(old)
    w.grad = torch.ones(2)
    optimizer.step()


def test_adam_differs_from_torchs_where_the_gradient_is_near_eps() -> None:
    ours, theirs = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    for w, optimizer in ((ours, MindSporeAdam([ours], lr=1.0)), (theirs, torch.optim.Adam([theirs], lr=1.0))):
        w.grad = torch.full((1,), 1e-8)
        optimizer.step()
    # First step: g / (g + eps) = 0.5 in torch's form; with b2 = 0.95, 0.224 g / (0.224 g + eps) = 0.183 in this one.
    assert float(theirs.detach()) == pytest.approx(-0.5, abs=1e-4)
    size = math.sqrt(1 - 0.95)
    assert float(ours.detach()) == pytest.approx(-size / (size + 1), abs=1e-6)  # float32


def test_tensors_without_a_gradient_keep_their_own_clock() -> None:
    a, b = (nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    optimizer = MindSporeAdam([a, b], lr=0.1)
    rng = np.random.default_rng(1)
    grads = rng.normal(size=(5, 2))
    late = [0, 3]
    for t in range(5):
        a.grad = torch.tensor(grads[t])
        b.grad = torch.tensor(grads[t]) if t in late else None
        before = b.detach().clone()
        optimizer.step()
        assert t in late or torch.equal(b, before)
    for w, steps in ((a, range(5)), (b, late)):
        expected = adam_by_hand(
            np.ones(2), [grads[t] for t in steps], [0.1] * len(steps), b1=0.9, b2=0.95, eps=1e-8, l2=0.0
        )
        np.testing.assert_allclose(w.detach().numpy(), expected, rtol=0, atol=1e-14)  # float64 rounding
    assert optimizer.state[a]["step"] == 5 and optimizer.state[b]["step"] == 2


def test_closure_is_called_with_gradients_on() -> None:
    w = nn.Parameter(torch.ones(1))
    optimizer = MindSporeAdam([w], lr=0.5)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (w * 3).sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 3.0 and float(w.detach()) == pytest.approx(0.5)  # first step: lr, float32
    assert optimizer.step() is None


def problem() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(16, 4)


def train(network: nn.Module, x: Tensor, optimizer: Any, schedule: Any, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()
        schedule.step()


def test_state_dict_continues_identically() -> None:
    recipe = Recipe(lr=0.01, warmup_steps=3, weight_decay=0.1, min_lr=1e-4)
    network, x = problem()
    optimizer, schedule = recipe.build(network, steps=12)
    train(network, x, optimizer, schedule, 5)
    file = io.BytesIO()
    torch.save({"o": optimizer.state_dict(), "s": schedule.state_dict(), "w": network.state_dict()}, file)
    train(network, x, optimizer, schedule, 7)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed, _ = problem()
    resumed.load_state_dict(saved["w"])
    optimizer2, schedule2 = recipe.build(resumed, steps=12)
    optimizer2.load_state_dict(saved["o"])
    schedule2.load_state_dict(saved["s"])
    train(resumed, x, optimizer2, schedule2, 7)
    for a, b in zip(network.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert schedule.get_last_lr() == schedule2.get_last_lr()
    forgot, _ = problem()
    forgot.load_state_dict(saved["w"])
    train(forgot, x, *recipe.build(forgot, steps=12), 7)
    assert not torch.equal(next(forgot.parameters()), next(network.parameters()))  # the state matters


def test_adam_can_be_copied() -> None:
    w = nn.Parameter(torch.ones(2))
    optimizer = MindSporeAdam([w], lr=0.1)
    w.grad = torch.ones(2)
    optimizer.step()
    twin = copy.deepcopy(optimizer)
    assert twin.state_dict()["state"][0]["step"] == 1


SPARED = [
    "gene_emb.weight",
    "mask_emb",
    "zero_emb",
    "depth_emb",
    "gene_decoder.expressed.0.bias",
    "gene_decoder.expressed.2.bias",
    "gene_decoder.expressed.4.bias",
    "cell_decoder.expressed.bias",
]
DECAYED_AMONG_OTHERS = [
    "cls_token",
    "value_enc.a",
    "value_enc.w1.weight",
    "value_enc.w3.weight",
    "value_enc.table.weight",
    "depth_enc.a",
    "depth_enc.table.weight",
    "encoder.0.norm1.weight",
    "encoder.0.norm1.bias",
    "encoder.1.norm2.weight",
    "encoder.1.norm2.bias",
    "encoder.0.retention.q_proj.weight",
    "encoder.1.glu.o_proj.weight",
    "gene_decoder.w1.weight",
    "gene_decoder.w2.weight",
    "cell_decoder.map.weight",
    "gene_decoder.expressed.4.weight",
    "cell_decoder.expressed.weight",
]


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("read_depth", [False, True])
def test_which_weights_decay(zeros: bool, read_depth: bool) -> None:
    network = CellFM(CellFMConfig(2, 32, 2, 20, zeros=zeros, read_depth=read_depth))
    names = {id(p): name for name, p in network.named_parameters()}
    decayed, spared = decay_groups(network, 0.25)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.25, 0.0)
    found = [[names[id(p)] for p in group["params"]] for group in (decayed, spared)]
    assert sorted(found[0] + found[1]) == sorted(names.values())  # each once
    assert set(found[1]) == set(SPARED) & set(names.values())
    assert set(DECAYED_AMONG_OTHERS) & set(names.values()) <= set(found[0])
    if zeros and read_depth:
        assert set(SPARED + DECAYED_AMONG_OTHERS) <= set(names.values())  # no list names what no longer exists


def test_frozen_weights_are_left_out() -> None:
    network = CellFM(CellFMConfig(2, 32, 2, 20))
    for p in network.encoder.parameters():
        p.requires_grad_(False)
    given = {id(p) for group in decay_groups(network, 1.0) for p in group["params"]}
    assert given == {id(p) for p in network.parameters() if p.requires_grad}


def test_warmup_and_cosine() -> None:
    options: dict[str, Any] = {"lr": 1e-6, "warmup_steps": 10, "total_steps": 110, "start_lr": 1e-7, "min_lr": 5e-7}
    expected = {
        0: 1e-7,
        5: 5.5e-7,
        10: 1e-6,
        35: 5e-7 + 5e-7 * (1 + math.sqrt(0.5)) / 2,  # an eighth of a turn
        60: 7.5e-7,
        110: 5e-7,
        500: 5e-7,
    }
    for step, lr in expected.items():
        assert warmup_cosine(step, **options) * 1e-6 == pytest.approx(lr, rel=1e-12), step  # float64
    rates = [warmup_cosine(step, **options) for step in range(111)]
    assert max(rates) == rates[10] == 1 and rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_schedule_without_warmup_and_of_no_length() -> None:
    options: dict[str, Any] = {"lr": 1.0, "start_lr": 0.0, "min_lr": 0.1}
    assert warmup_cosine(0, warmup_steps=0, total_steps=4, **options) == 1
    assert warmup_cosine(4, warmup_steps=0, total_steps=4, **options) == pytest.approx(0.1)
    assert warmup_cosine(3, warmup_steps=5, total_steps=2, **options) == pytest.approx(0.6)  # never past the warm-up
    assert warmup_cosine(5, warmup_steps=5, total_steps=5, **options) == 1


def test_recipe_builds_what_it_says() -> None:
    network, x = problem()
    recipe = Recipe(lr=0.5, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1, warmup_steps=2, start_lr=0.1, total_steps=4)
    optimizer, schedule = recipe.build(network, steps=1000)
    assert isinstance(optimizer, MindSporeAdam)
    for group, decay in zip(optimizer.param_groups, (0.1, 0.0), strict=True):
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.9), 1e-3, decay)
    rates = []
    for _ in range(6):
        rates.append(schedule.get_last_lr()[0])
        train(network, x, optimizer, schedule, 1)
    assert rates == pytest.approx([0.1, 0.3, 0.5, 0.25, 0.0, 0.0], abs=1e-12)  # float64; total_steps beats steps
    other = Recipe(torch.optim.AdamW, lr=0.1).build(network, steps=3)[0]
    assert isinstance(other, torch.optim.AdamW) and other.defaults["lr"] == 0.1


def gradients(*values: list[float] | None) -> list[nn.Parameter]:
    weights = []
    for value in values:
        w = nn.Parameter(torch.zeros(2 if value is None else len(value)))
        w.grad = None if value is None else torch.tensor(value)
        weights.append(w)
    return weights


def test_clipping() -> None:
    norm_of = lambda w: float(w.grad.norm())  # noqa: E731
    # 1e-6: torch adds that to the norm it divides by.
    a, b, c = gradients([3.0, 4.0], [0.3, 0.4], None)
    Recipe(clip_norm=1.0).clip([a, b, c])
    assert norm_of(a) == pytest.approx(1.0, rel=1e-6) and a.grad is not None
    assert a.grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-6)  # the direction stays
    assert b.grad is not None and torch.equal(b.grad, torch.tensor([0.3, 0.4]))  # each on its own
    assert c.grad is None
    a, b = gradients([3.0, 4.0], [0.3, 0.4])
    Recipe(clip_norm=1.0, clip_per_tensor=False).clip([a, b])
    assert math.hypot(norm_of(a), norm_of(b)) == pytest.approx(1.0, rel=1e-6)
    assert norm_of(a) / norm_of(b) == pytest.approx(10, rel=1e-5)  # float32
    (a,) = gradients([3.0, 4.0])
    Recipe(clip_norm=None).clip([a])
    assert norm_of(a) == 5.0


def test_clipping_each_is_clipping_one_after_the_other() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1,), (7,), (3, 5), (1000,), (33, 65), (2, 3)]
    values = [torch.randn(shape, generator=generator) * 10.0**i for i, shape in zip(range(-3, 3), shapes, strict=True)]
    values += [torch.zeros(4), torch.tensor([1.0, math.nan]), torch.tensor([math.inf, 1.0]), torch.tensor([0.6, 0.8])]
    ours, theirs = ([nn.Parameter(torch.zeros_like(value)) for value in values] for _ in range(2))
    for mine, other, value in zip(ours, theirs, values, strict=True):
        mine.grad, other.grad = value.clone(), value.clone()
    clip_each([*ours, nn.Parameter(torch.zeros(2))], 1.0)
    for mine, other in zip(ours, theirs, strict=True):
        nn.utils.clip_grad_norm_([other], 1.0)
        assert mine.grad is not None and other.grad is not None
        assert mine.grad.numpy().tobytes() == other.grad.numpy().tobytes()  # bit for bit, NaN included
    clip_each([nn.Parameter(torch.zeros(2))], 1.0)


def test_fused_steps_leave_the_scaling_of_losses_to_the_scaler() -> None:
    network, _ = problem()
    assert torch.optim.AdamW(network.parameters(), fused=True)._step_supports_amp_scaling
    optimizer, _ = Recipe(functools.partial(torch.optim.AdamW, fused=True)).build(network, steps=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for p in network.parameters():
        p.grad = torch.full_like(p, 512.0)
    before = [p.detach().clone() for p in network.parameters()]
    scaler.scale(torch.ones(()))  # as at the start of a step
    scaler.unscale_(optimizer)
    assert all(p.grad is not None and (p.grad == 0.5).all() for p in network.parameters())  # what clipping sees
    scaler.step(optimizer)
    assert all(p.grad is not None and (p.grad == 0.5).all() for p in network.parameters())  # and not divided again
    assert all(not torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"lr": 0.0}, "optim.lr=0.0"),
        ({"lr": -1.0}, "optim.lr=-1.0"),
        ({"lr": math.nan}, "optim.lr=nan"),
        ({"lr": math.inf}, "optim.lr=inf"),
        ({"lr": "1e-3 "}, "optim.lr=1e-3"),
        ({"lr": None}, "optim.lr=None"),
        ({"eps": -1e-8}, "optim.eps"),
        ({"weight_decay": -0.1}, "optim.weight_decay=-0.1"),
        ({"weight_decay": math.nan}, "optim.weight_decay=nan"),
        ({"warmup_steps": -1}, "optim.warmup_steps=-1"),
        ({"start_lr": None}, "optim.start_lr=None"),
        ({"min_lr": -1.0}, "optim.min_lr=-1.0"),
        ({"total_steps": 0}, "optim.total_steps=0"),
        ({"clip_norm": 0}, "optim.clip_norm=0"),
        ({"clip_norm": math.nan}, "optim.clip_norm=nan"),
        ({"betas": (0.9, 1.0)}, "optim.betas"),  # would divide by zero
        ({"betas": (0.9,)}, "optim.betas"),
        ({"betas": (-0.1, 0.9)}, "optim.betas"),
    ],
)
def test_refused(options: dict[str, Any], part: str) -> None:
    with pytest.raises(UserError, match=part) as refused:
        Recipe(**options)
    assert "\n" not in str(refused.value)
