"""Independent pieces of work on a CPU, each on a core of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

Given = TypeVar("Given")
Made = TypeVar("Made")


def each_on_one_thread(work: Callable[[Given], Made], pieces: Sequence[Given]) -> list[Made]:
    """Do independent pieces of work side by side, as many as PyTorch has threads, each on one of them.

    Without gradients, in inference mode. Where pieces are too few to keep the threads busy, they are done one after
    another with all threads.

    Parameters
    ----------
    work
        Its operators leave Python's lock alone while they calculate.
    pieces
        Those that take longest are best not the last.

    Returns
    -------
    What `work` returned, in the order of `pieces`.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(pieces) < 2 * threads:
        with torch.inference_mode():
            return [work(piece) for piece in pieces]

    def alone(piece: Given) -> Made:
        with torch.inference_mode():  # a mode belongs to its thread
            return work(piece)

    try:
        with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
            return list(pool.map(alone, pieces))
    finally:
        # Each thread has its own number, but new threads, and MKL everywhere, take the one that was set last.
        torch.set_num_threads(threads)
