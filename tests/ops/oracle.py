"""Retention the long way round, and how far another way is from it.

Shapes: B cells, N tokens of all cells together, M queries, H heads, K head dim of q and k, V head dim of v.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LONG = [0, 1, 700, 0, 5000, 2, 0]
LENGTHS = [0, 1, 1201, 0, 300, 2, 0]

# Largest error over largest magnitude: one rounding (float32 1.2e-7, float64 2.2e-16), about twenty times over for sums
# of 5,000 terms. 1.7e-6 and 5e-15 seen, a factor of three kept. A product rounded to bfloat16 anywhere gives 4e-3.
BOUNDS = {torch.float64: 1.5e-14, torch.float32: 5e-6}
# Half precision accumulates in float32 and rounds once, by half a unit in the last place; the sums before are the 1 %.
BOUNDS |= {dtype: torch.finfo(dtype).eps / 2 * 1.01 for dtype in (torch.float16, torch.bfloat16)}


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def draw(tokens: int, width: int, *, heads: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random (tokens, heads, width), already rounded to `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    # 1/4: outputs of 5,000 tokens stay below the 65,504 of float16.
    return (torch.randn(tokens, heads, width, generator=generator, dtype=torch.float64) / 4).to(dtype)


def draw_all(
    lengths: list[int],
    q_lengths: list[int] | None = None,
    *,
    heads: int = 2,
    widths: tuple[int, int] = (8, 5),
    with_state: bool = False,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Random q, k, v and, if wanted, a state seen before."""
    k_dim, v_dim = widths
    tokens = (sum(lengths if q_lengths is None else q_lengths), sum(lengths), sum(lengths))
    inputs = {
        name: draw(n, width, heads=heads, seed=seed + i, dtype=dtype)
        for i, (name, n, width) in enumerate(zip("qkv", tokens, (k_dim, k_dim, v_dim), strict=True))
    }
    if with_state:
        sums = torch.float64 if dtype == torch.float64 else torch.float32
        inputs["state"] = draw(len(lengths) * heads * k_dim, v_dim, heads=1, seed=seed + 3, dtype=sums)
        inputs["state"] = inputs["state"].reshape(len(lengths), heads, k_dim, v_dim)
    return inputs


def oracle(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None = None,
    *,
    lengths: list[int],
    q_lengths: list[int] | None = None,
    decay: Tensor | None = None,
) -> Tensor:
    """Return retention in float64, (M, H, V): per cell and head all query-key products, then all values.

    With `decay` (H,) the causal form. `state` (B, H, K, V) is that of what came before.
    """
    q, k, v = q.double(), k.double(), v.double()
    cells = zip(q.split(q_lengths or lengths), k.split(lengths), v.split(lengths), strict=True)
    outs = []
    for b, (q_cell, k_cell, v_cell) in enumerate(cells):
        heads = []
        for h in range(q.shape[1]):
            weights = q_cell[:, h] @ k_cell[:, h].T
            queries = q_cell[:, h]
            if decay is not None:
                place = torch.arange(len(queries), dtype=torch.float64)
                rate = decay[h].double()
                weights = (weights * rate ** (place[:, None] - place).clamp_min(0)).tril()
                queries = queries * (rate ** (place + 1))[:, None]
            out = weights @ v_cell[:, h]
            if state is not None:
                out = out + queries @ state[b, h].double()
            heads.append(out)
        outs.append(torch.stack(heads, dim=1))
    return torch.cat(outs)


def answers(
    run: Callable[..., Tensor],
    inputs: dict[str, Tensor],
    *,
    positive: bool = False,
    rounded: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Output and gradients of all inputs for a random gradient of the output, rounded to a dtype (of the output)."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    out = run(**leaves)
    weight = draw(*out.shape[::2], heads=out.shape[1], seed=9, dtype=rounded or out.dtype).to(out.dtype)
    out.backward(weight.abs() if positive else weight)
    grads = {f"d{name}": x.grad for name, x in leaves.items() if x.grad is not None}
    assert len(grads) == len(leaves), f"gradients of {list(grads)} only"
    return {"out": out.detach()} | grads


def exactly(exact: Callable[..., Tensor], inputs: dict[str, Tensor], *, positive: bool = False) -> dict[str, Tensor]:
    """What is right, in float64, for inputs that are rounded already."""
    wide = {name: x.double() for name, x in inputs.items()}
    return answers(exact, wide, positive=positive, rounded=inputs["q"].dtype)


def error_ratio(ours: Tensor, exact: Tensor) -> float:
    """Largest error over the mean magnitude of what is right (0 where nothing is compared, NaN for NaN).

    Ten times :data:`BOUNDS` is the bar in the tests: largest magnitudes are up to ten times the mean.
    """
    if not exact.numel():
        return 0.0
    error, mean = (ours.double() - exact).abs().max(), exact.abs().mean()
    return float((error / mean if mean else error).detach())


def assert_close(
    ours: dict[str, Tensor], right: dict[str, Tensor], label: str = "", bound: float | None = None
) -> None:
    """Compare output and gradients; all error ratios are named when one is off.

    An error ratio is the largest error over the mean magnitude of what is right. It may reach `bound` (of the dtype if
    not given), a number of roundings, times how far the largest magnitude is above the mean.
    """
    ratios, wrong = {}, []
    for name, exact in right.items():
        got = ours[name]
        assert got.shape == exact.shape, f"{label} {name}: {tuple(got.shape)}, not {tuple(exact.shape)}"
        if not exact.numel():
            continue
        error, mean, peak = (
            float(x) for x in ((got.double() - exact).abs().max(), exact.abs().mean(), exact.abs().max())
        )
        ratios[name] = f"{error / mean if mean else error:.1e} (allowed {(allowed := bound or BOUNDS[got.dtype]):.1e})"
        wrong += [] if error <= allowed * peak else [name]  # a NaN is wrong
    assert not wrong, f"{label}: {', '.join(wrong)} off; error ratios {ratios}"
