"""The one exception whose message is meant for the person at the keyboard."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Something the user gave is wrong and the user can put it right.

    The message is one line: what is wrong, where (file, row, gene, option), and what to do. Commands print it
    without a traceback and exit with code 2.

    Parameters
    ----------
    message
        The line.
    page
        The page on troubleshooting that helps, where it is not that of the module (see :mod:`cellfm_torch.pages`).
    """

    def __init__(self, *message: object, page: str | None = None) -> None:
        super().__init__(*message)
        self.page = page


@contextmanager
def naming(path: object) -> Iterator[None]:
    """Put the name of a file before the message of a UserError that does not have it."""
    try:
        yield
    except UserError as problem:
        if str(path) in str(problem):
            raise
        raise UserError(f"{path}: {problem}") from problem


def examples(names: Iterable[object], *, most: int = 3, longest: int = 40) -> str:
    """Return the first names, comma separated, each short enough for a line that people read."""
    return ", ".join(shortened(name, longest=longest) for name, _ in zip(names, range(most), strict=False))


def shortened(name: object, *, longest: int = 40) -> str:
    """Return a name on one line, its end replaced by dots where it is long."""
    text = " ".join(str(name).split())
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'X'?"`` for the choice closest to `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
