"""Pieces of work on threads of their own: order, errors, and PyTorch's number of threads afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from cellfm_torch.ops.threads import each_on_one_thread


@pytest.fixture(autouse=True, params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("number", [0, 1, 3, 20])
def test_results_in_order_and_threads_as_before(threads: int, number: int) -> None:
    seen = []

    def work(i: int) -> int:
        assert torch.is_inference_mode_enabled()
        seen.append((threading.get_ident(), torch.get_num_threads()))
        return i * i

    assert each_on_one_thread(work, range(number)) == [i * i for i in range(number)]
    assert torch.get_num_threads() == threads
    apart = threads > 1 and number >= 2 * threads
    main = threading.get_ident()
    assert all((ident != main, count) == (apart, 1 if apart else threads) for ident, count in seen)
    counts: list[int] = []
    later = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert counts == [threads]


def test_an_error_arrives(threads: int) -> None:
    def work(i: int) -> int:
        return 1 // (i - 5)

    with pytest.raises(ZeroDivisionError):
        each_on_one_thread(work, range(10))
    assert torch.get_num_threads() == threads
