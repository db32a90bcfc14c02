"""Sources prepared in several processes at once, none of which outlives the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from cellfm_torch.data.store_source import Job, prepare_source
from cellfm_torch.errors import UserError
from cellfm_torch.pages import page_of

Progress = Callable[[Path, int, int], None]
"""Called with a source, its cells done, and all its cells."""


def run_jobs(jobs: list[Job], processes: int, progress: Progress) -> Iterator[tuple[Job, dict[str, Any] | UserError]]:
    """Yield each job with its manifest entry, or with what is wrong with its source."""
    if processes <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, _attempt(job, lambda done, total, job=job: progress(job.source, done, total))  # type: ignore[misc]
        return
    context = multiprocessing.get_context("spawn")
    # Without a lock, which a process that is killed would keep for ever: so short a message is written in one piece.
    messages, writer = context.Pipe(duplex=False)

    def listen() -> None:
        with suppress(EOFError):  # all that write have ended
            while True:
                number, done, total = messages.recv()
                progress(jobs[number].source, done, total)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    pool = ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context, initializer=_begin, initargs=(writer,))
    try:
        futures = {pool.submit(_attempt_reporting, number, job): job for number, job in enumerate(jobs)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        raise UserError(
            "a process that was reading a source was killed (by the system, for want of memory?): the finished sources "
            "are in the store; give the same command again, with a lower processes=NUMBER"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        writer.close()
        listener.join()


def _attempt(job: Job, progress: Callable[[int, int], None]) -> dict[str, Any] | UserError:
    try:
        return prepare_source(job, progress)
    except UserError as problem:
        return UserError(str(problem), page=page_of(problem))  # the traceback, which says which page, stays behind


_messages: Any = None


def _begin(messages: Any) -> None:
    global _messages
    _messages = messages
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the one that started it is killed: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _attempt_reporting(number: int, job: Job) -> dict[str, Any] | UserError:
    return _attempt(job, lambda done, total: _messages.send((number, done, total)))
