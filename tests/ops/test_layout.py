"""Offsets are checked and read once per batch, however many layers use them."""

from __future__ import annotations

import pytest
import torch
from oracle import draw_all, offsets_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cellfm_torch.ops import Layout, retention, retention_state


class Reads(TorchDispatchMode):
    """Counts what waits for the device: single numbers and lists taken from it, and copies to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["chunked", "parallel", "recurrent"])
@pytest.mark.parametrize("causal", [False, True])
def test_layers_do_not_read_again(mode: str, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [5, 0, 3]
    read: list[Tensor] = []
    to_list = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda x: read.append(x) or to_list(x))
    layout = Layout.of(offsets_of(lengths))
    inputs = {name: x.requires_grad_() for name, x in draw_all(lengths).items()}
    with Reads() as reads:
        for _ in range(40):
            out = retention(**inputs, offsets=layout, mode=mode, causal=causal)
            retention_state(inputs["k"], inputs["v"], offsets=layout).read(inputs["q"], offsets=layout)
        out.sum().backward()
    assert len(read) == 1 and reads.count == 0


def test_of() -> None:
    offsets = offsets_of([5, 0, 3])
    layout = Layout.of(offsets)
    assert Layout.of(layout) is layout and layout.offsets is offsets
    assert (layout.num_cells, layout.num_tokens, layout.longest) == (3, 8, 5)
    assert layout.lengths.tolist() == [5, 0, 3]
    assert Layout.of(offsets.int()).bounds == layout.bounds
    empty = Layout.of(torch.tensor([0]))
    assert (empty.num_cells, empty.num_tokens, empty.longest) == (0, 0, 0)
    assert Layout.one_each(3, torch.device("cpu")).bounds == (0, 1, 2, 3)


def test_pieces_cover_every_token_once() -> None:
    layout = Layout.of(offsets_of([5, 0, 3, 1]))
    for size in (1, 2, 4, 9):
        pieces = list(layout.pieces(size))
        assert [t for piece in pieces for t in range(piece.start, piece.end)] == list(range(9))
        for piece in pieces:
            assert 1 <= piece.end - piece.start <= size
            assert layout.bounds[piece.cell] == piece.first <= piece.start < piece.end <= piece.last
        assert layout.table(size).tolist() == [[p.cell, p.start, p.end] for p in pieces]
        assert layout.table(size) is layout.table(size)
