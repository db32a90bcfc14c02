"""The one exception whose message is meant for the person at the keyboard."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user gave is wrong and the user can put it right.

    The message is one line: what is wrong, where (file, row, gene, option), and what to do. Commands print it
    without a traceback and exit with code 2.
    """


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'X'?"`` for the choice closest to `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
