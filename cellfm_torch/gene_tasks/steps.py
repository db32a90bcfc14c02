"""How far a job of many small steps is: a bar, or a line now and then where nobody watches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 15.0
"""Between two lines where nobody watches a terminal."""


class Advance(Protocol):
    """What is called when steps are done, with a word for what they were; those of an earlier call are not new."""

    def __call__(self, word: str = "", *, number: int = 1, new: bool = True) -> None:
        """Count ``number`` more steps."""


@contextmanager
def steps(total: int, unit: str, *, show: bool, what: str = "", rate: bool = False) -> Iterator[Advance]:
    """Give a function that is called after steps.

    Parameters
    ----------
    total
        Steps there are.
    unit
        What a step is, in the plural.
    show
        False says nothing.
    what
        Word before the numbers.
    rate
        Lines say how many steps a second are done.
    """
    console = Console()
    if not show:
        yield lambda word="", number=1, new=True: None
    elif console.is_terminal and not console.is_dumb_terminal:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.description}"), console=console) as bar:
            task = bar.add_task("", total=total)
            yield lambda word="", number=1, new=True: bar.update(task, advance=number, description=word)
    else:
        yield _lines(console, total, unit, what, rate)


def _lines(console: Console, total: int, unit: str, what: str, rate: bool) -> Advance:
    """Return a function that prints a line now and then."""
    began = shown = time.monotonic()
    done = before = 0

    def advance(word: str = "", *, number: int = 1, new: bool = True) -> None:
        nonlocal done, before, shown
        done += number
        before += 0 if new else number
        now = time.monotonic()
        if now - shown >= PLAIN_SECONDS and done > before:
            shown = now
            speed = (done - before) / max(now - began, 1e-9)
            rated = f"{speed:,.1f} {unit}/s, " if rate else ""
            line = f"{what} {done:,}/{total:,} {unit}, {rated}{(total - done) / speed:,.0f} s left"
            console.print(f"{line.strip()}{word and f': {word}'}", highlight=False, markup=False, soft_wrap=True)

    return advance
