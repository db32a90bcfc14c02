"""The chunked operator needs its inputs, its outputs, a state per head and cell and one chunk: no test of time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from oracle import draw_all

from cellfm_torch.ops import RetentionState, retention

HEADS, WIDTH, CHUNK = 2, 16, 512
SHORT, LONG = 600, 60_000


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("form", ["plain", "decay"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_does_not_grow_with_the_cell(
    dtype: torch.dtype, form: str, with_state: bool, peak_bytes: Callable[[Callable[[], object]], int]
) -> None:
    decay = torch.tensor([0.5, 0.99]) if form == "decay" else None
    extra = {}
    for tokens in (SHORT, LONG):
        inputs = draw_all([tokens], widths=(WIDTH, WIDTH), heads=HEADS, dtype=dtype, with_state=with_state)
        leaves = {name: x.requires_grad_() for name, x in inputs.items()}
        layout = torch.tensor([0, tokens])
        out = torch.empty(0)

        def forward(leaves=leaves, layout=layout) -> None:  # type: ignore[no-untyped-def]
            nonlocal out
            state = RetentionState(leaves["state"], decay=decay) if with_state else None
            q, k, v = (leaves[name] for name in "qkv")
            options = {"state": state, "causal": decay is not None, "decay": decay, "chunk_size": CHUNK}
            out = retention(q, k, v, offsets=layout, **options)

        output = tokens * HEADS * WIDTH * dtype.itemsize
        passes = {"forward": peak_bytes(forward) - output}
        grad = torch.ones_like(out)
        passes["backward"] = peak_bytes(lambda out=out, grad=grad: out.backward(grad)) - 3 * output
        extra[tokens] = passes
    # A chunk of q, k and v in float32, transposed and multiplied, three sums of gradients one after another.
    chunk = 12 * HEADS * CHUNK * WIDTH * 4 + 6 * HEADS * 128 * 128 * 4
    for name in ("forward", "backward"):
        assert extra[LONG][name] < chunk, f"{name}: {extra}"
        assert extra[LONG][name] - extra[SHORT][name] < chunk / 2, f"{name}: {extra}"
