"""What the operators refuse, each with one clear line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from oracle import draw

from cellfm_torch.ops import Layout, RetentionState, retention, retention_map, retention_state


@pytest.mark.parametrize(
    ("offsets", "part"),
    [
        ([0, 4], "rise from 0 to 5, the number of tokens of"),
        ([1, 5], "rise from 0"),
        ([0, 6], "rise from 0 to 5, the number of tokens of"),
        ([0, 4, 3, 5], "rise from 0"),
        ([], "rise from 0"),
        ([[0, 5]], "shape"),
        ([0.0, 5.0], "whole numbers"),
        ([False, True], "whole numbers"),
    ],
)
def test_bad_offsets(offsets: list[int], part: str) -> None:
    x, dtype = draw(5, 4), None if offsets else torch.int64
    wrong = torch.tensor(offsets, dtype=dtype)
    with pytest.raises(ValueError, match=part):
        retention(x, x, x, offsets=wrong)
    with pytest.raises(ValueError, match=part):
        retention(x, x, x, offsets=torch.tensor([0, 5]), q_offsets=wrong)
    with pytest.raises(ValueError, match=part):
        retention_map(x, x, offsets=wrong)


def test_bad_shapes_and_forms() -> None:
    x, offsets = draw(5, 4), torch.tensor([0, 2, 5])
    half, no_decay = torch.tensor([0.5, 0.5]), retention_state(x, x, offsets=offsets)
    state, fading = no_decay, retention_state(x, x, offsets=offsets, decay=half)
    one_cell = retention_state(x, x, offsets=torch.tensor([0, 5]))
    refused: list[tuple[str, Callable[[], object]]] = [
        ("mode must be one of", lambda: retention(x, x, x, offsets=offsets, mode="fast")),
        ("chunk_size", lambda: retention(x, x, x, offsets=offsets, chunk_size=0)),
        ("chunk_size", lambda: retention(x, x, x, offsets=offsets, chunk_size=-1)),  # would leave the output unwritten
        ("tokens and heads", lambda: retention(x, x, x[:4], offsets=offsets)),
        ("tokens and heads", lambda: retention(x, x, x[:, :1], offsets=offsets)),
        ("heads and widths", lambda: retention(x[..., :3], x, x, offsets=offsets)),
        ("heads and widths", lambda: retention(x[:, :1], x, x, offsets=offsets)),  # one head must not broadcast
        ("must be", lambda: retention(x[:, 0], x, x, offsets=offsets)),
        ("must agree", lambda: retention(x[:, 0], x[:, 0], x[:, 0], offsets=offsets)),
        ("state has shape", lambda: retention(x, x, x, offsets=offsets, state=one_cell)),
        ("name 1 cells, the state has 2", lambda: state.read(x, offsets=torch.tensor([0, 5]))),
        ("name 1 cells", lambda: retention(x, x, x, offsets=offsets, q_offsets=torch.tensor([0, 5]))),
        ("needs causal=True", lambda: retention(x, x, x, offsets=offsets, decay=half)),
        ("no q_offsets", lambda: retention(x, x, x, offsets=offsets, q_offsets=offsets, causal=True)),
        ("one number per head", lambda: retention(x, x, x, offsets=offsets, causal=True, decay=half[:1])),
        ("above 0", lambda: retention(x, x, x, offsets=offsets, causal=True, decay=half * 3)),
        ("above 0", lambda: retention(x, x, x, offsets=offsets, causal=True, decay=half * 0)),
        ("above 0", lambda: retention(x, x, x, offsets=offsets, causal=True, decay=half * float("nan"))),
        ("no gradient", lambda: retention(x, x, x, offsets=offsets, causal=True, decay=half.clone().requires_grad_())),
        ("decay is", lambda: retention(x, x, x, offsets=offsets, causal=True, decay=half, state=no_decay)),
        ("decay is", lambda: retention(x, x, x, offsets=offsets, state=fading)),
        ("reduce", lambda: retention_map(x, x, offsets=offsets, reduce="max")),  # type: ignore[arg-type]
        ("needs causal=True", lambda: retention_map(x, x, offsets=offsets, decay=half)),
    ]
    for part, call in refused:
        with pytest.raises(ValueError, match=part) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_bad_states() -> None:
    x, offsets = draw(5, 4), Layout.of(torch.tensor([0, 2, 5]))
    state = retention_state(x, x, offsets=offsets)
    fading = retention_state(x, x, offsets=offsets, decay=torch.tensor([0.5, 0.5]))
    refused: list[tuple[str, Callable[[], object]]] = [
        ("must be", lambda: RetentionState(state.tensor[0])),
        ("one number per head", lambda: RetentionState(state.tensor, decay=torch.ones(3))),
        ("above 0", lambda: RetentionState.empty(2, 2, 4, decay=torch.tensor([0.5, 1.5]))),
        ("must agree", lambda: state.merge(RetentionState(state.tensor[:1]))),
        ("decay is", lambda: state.merge(fading)),
        ("does not know its tokens", lambda: fading.merge(RetentionState(state.tensor, decay=fading.decay))),
        ("must agree", lambda: state.update(x, x)),  # five tokens, two cells
        ("tokens and heads", lambda: state.update(x[:2], x[:1])),
        ("must agree", lambda: state.update(x[:2, :, :3], x[:2])),
        ("give offsets", lambda: state.read(x)),
        ("the state needs", lambda: state.read(x[:2, :, :3])),
    ]
    for part, call in refused:
        with pytest.raises(ValueError, match=part):
            call()
    # A refusal leaves the state as it was.
    assert torch.equal(state.tensor, retention_state(x, x, offsets=offsets).tensor)
